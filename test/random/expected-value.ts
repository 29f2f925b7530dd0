/** A value as a message prints it, from Postgres' own text, by rules written down a second time: see oracle-values.ts. */
import { parseJson } from '@millrace/testkit/oracle-values';

/** Set in every session whose text is compared. */
export const TEXT_SETTINGS = `SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres';
  SET bytea_output = 'hex'; SET extra_float_digits = 3; SET lc_monetary = 'C'`;

const NUMBERS: ReadonlySet<string> = new Set(['int2', 'int4', 'int8', 'oid']);
const FLOATS: ReadonlySet<string> = new Set(['float4', 'float8']);

/** One text for equal values: the order of JSON keys does not count, digits do. */
export function expected(text: string | null, type: string): string {
  return canonical(jsonValue(text, type));
}

export function canonical(value: unknown): string {
  if (typeof value === 'bigint') return value.toString();
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'undefined';
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, each]) => `${JSON.stringify(key)}:${canonical(each)}`).join(',')}}`;
}

function jsonValue(text: string | null, type: string): unknown {
  if (text === null) return null;
  if (type.startsWith('_')) return arrayOf(text, type.slice(1));
  if (NUMBERS.has(type)) return Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text);
  if (FLOATS.has(type)) return Number.isFinite(Number(text)) ? Number(text) : text;
  switch (type) {
    case 'bool':
      return text === 't';
    case 'json':
    case 'jsonb':
      return parseJson(text);
    case 'timestamp':
      return timestamp(text, '');
    case 'timestamptz':
      return timestamp(text.replace(/\+00$/, ''), 'Z');
    case 'interval':
      return interval(text);
    default:
      return text;
  }
}

/** Years 1 to 9999 as ISO 8601 with six digits; the others as Postgres prints them. */
function timestamp(text: string, zone: string): string {
  const match = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d+))?$/.exec(text);
  if (match === null) return zone === '' || text.endsWith('infinity') ? text : withZone(text);
  return `${match[1]}T${match[2]}.${(match[3] ?? '').padEnd(6, '0')}${zone}`;
}

function withZone(text: string): string {
  return text.endsWith(' BC') ? `${text.slice(0, -3)}+00 BC`.replace('+00+00', '+00') : `${text}+00`;
}

function interval(text: string): unknown {
  let months = 0;
  let days = 0;
  let micros = 0n;
  for (const [, amount, unit] of text.matchAll(/([+-]?\d+) (year|mon|day)s?/g)) {
    if (unit === 'year') months += Number(amount) * 12;
    else if (unit === 'mon') months += Number(amount);
    else days += Number(amount);
  }
  const time = /([+-])?(\d+):(\d\d):(\d\d)(?:\.(\d+))?$/.exec(text);
  if (time !== null) {
    const [, sign, hours, minutes, seconds, fraction] = time;
    const whole = (BigInt(hours!) * 60n + BigInt(minutes!)) * 60n + BigInt(seconds!);
    micros = whole * 1_000_000n + BigInt((fraction ?? '').padEnd(6, '0'));
    if (sign === '-') micros = -micros;
  }
  const exact = Number.isSafeInteger(Number(micros)) ? Number(micros) : micros;
  return { months, days, microseconds: exact };
}

/** Postgres' text of an array: `{1,NULL,"a \"b\""}`, with its bounds before it where they are not 1. */
function arrayOf(text: string, element: string): unknown {
  const delimiter = element === 'box' ? ';' : ',';
  let at = text.indexOf('{');
  const list = (): unknown[] => {
    const values: unknown[] = [];
    at++;
    for (;;) {
      const char = text[at];
      if (char === '}') break;
      if (char === delimiter) at++;
      else if (char === '{') values.push(list());
      else values.push(item());
    }
    at++;
    return values;
  };
  const item = (): unknown => {
    let value = '';
    if (text[at] !== '"') {
      const start = at;
      while (text[at] !== delimiter && text[at] !== '}') at++;
      value = text.slice(start, at);
      return jsonValue(value === 'NULL' ? null : value, element);
    }
    for (at++; text[at] !== '"'; at++) {
      if (text[at] === '\\') at++;
      value += text[at];
    }
    at++;
    return jsonValue(value, element);
  };
  return list();
}
