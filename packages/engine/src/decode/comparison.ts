/**
 * Compares values of a column, as Postgres prints them, with values of the configuration: on the bytes, without making
 * anything of them. HOT PATH: compareValue and what it calls.
 *
 * What a comparison means depends on the type, as in SQL: numbers by their exact value (no rounding of int8 or numeric),
 * floats as floats of their width, NaN equal to itself and above all else; timestamps and dates as points in time;
 * text, uuid, bytea and the like by their bytes (COLLATE "C"); char(n) without its padding; enums and "char" for equality
 * only. Types that are missing here have no comparison: a filter on them is refused.
 */
import { MillraceError } from '@millrace/core/error';
import { daysFrom1970, twoDigits } from '@millrace/postgres/timestamp-json';
import type { TypeDescription } from '@millrace/postgres/value-json';
import type { ConditionValue } from './row-rules-config.ts';

/** How values of a type compare. */
export const TEXT = 0;
export const PADDED = 1;
export const DECIMAL = 2;
export const FLOAT4 = 3;
export const FLOAT8 = 4;
export const INSTANT = 5;

/** A value of the configuration, ready to be compared with. */
export interface Operand {
  /** As Postgres would print it. */
  readonly bytes: Buffer;
  /** Of floats; of a DECIMAL that is an integer below 2^53, else NaN. */
  readonly number: number;
  /** Of an INSTANT: days since 1970 and microseconds of the day. */
  readonly days: number;
  readonly micros: number;
}

export interface Family {
  readonly kind: number;
  /** < > <= >= have a meaning, too. */
  readonly ordered: boolean;
  /** The text as Postgres prints that value, or null where it is none. */
  readonly normalize: (text: string) => string | null;
}

/** null: values of the type cannot be compared here. */
export function familyOf(type: TypeDescription): Family | null {
  if (type.base !== undefined) return familyOf(type.base);
  if (type.element !== undefined) return null;
  if (type.kind === 'enum') return LABELS;
  if (type.kind !== 'base' || type.schema !== 'pg_catalog') return null;
  return FAMILIES[type.name] ?? null;
}

const plain = (text: string) => text;
const decimalText = (text: string) => normalDecimal(text, false);
const matching = (pattern: RegExp) => (text: string) => {
  const lower = text.toLowerCase();
  return pattern.test(lower) ? lower : null;
};
const LABELS: Family = { kind: TEXT, ordered: false, normalize: plain };
const STRINGS: Family = { kind: TEXT, ordered: true, normalize: plain };
const INTEGERS: Family = { kind: DECIMAL, ordered: true, normalize: decimalText };
const POINTS: Family = { kind: INSTANT, ordered: true, normalize: plain };

const FAMILIES: Readonly<Record<string, Family>> = {
  text: STRINGS,
  varchar: STRINGS,
  name: STRINGS,
  bpchar: { kind: PADDED, ordered: true, normalize: plain },
  char: { kind: TEXT, ordered: false, normalize: plain },
  // `f` and `t` sort as false and true do.
  bool: { kind: TEXT, ordered: true, normalize: booleanText },
  int2: INTEGERS,
  int4: INTEGERS,
  int8: INTEGERS,
  oid: INTEGERS,
  numeric: { kind: DECIMAL, ordered: true, normalize: (text) => normalDecimal(text, true) },
  float4: { kind: FLOAT4, ordered: true, normalize: floatText },
  float8: { kind: FLOAT8, ordered: true, normalize: floatText },
  timestamp: POINTS,
  timestamptz: POINTS,
  date: POINTS,
  // Fixed width, and what follows the seconds has no trailing zeros: the order of the bytes is that of the times.
  time: { kind: TEXT, ordered: true, normalize: timeText },
  uuid: { kind: TEXT, ordered: true, normalize: uuidText },
  bytea: { kind: TEXT, ordered: true, normalize: matching(/^\\x(?:[0-9a-f]{2})*$/) },
  bit: { kind: TEXT, ordered: true, normalize: matching(/^[01]*$/) },
  varbit: { kind: TEXT, ordered: true, normalize: matching(/^[01]*$/) },
  macaddr: { kind: TEXT, ordered: true, normalize: matching(/^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/) },
  macaddr8: { kind: TEXT, ordered: true, normalize: matching(/^[0-9a-f]{2}(?::[0-9a-f]{2}){7}$/) },
};

/** null: not a value of the type. */
export function operandOf(type: TypeDescription, family: Family, value: ConditionValue): Operand | null {
  const text = family.normalize(String(value));
  if (text === null) return null;
  const bytes = Buffer.from(text);
  switch (family.kind) {
    case DECIMAL: {
      const number = /^-?\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
      return { bytes, number, days: 0, micros: 0 };
    }
    case FLOAT4:
      return { bytes, number: Math.fround(floatOf(text)), days: 0, micros: 0 };
    case FLOAT8:
      return { bytes, number: floatOf(text), days: 0, micros: 0 };
    case INSTANT: {
      const point = readInstant(bytes, 0, bytes.length);
      if (!point) return null;
      // A zone says nothing about a timestamp without one; Postgres would drop it silently.
      const zoned = baseName(type) === 'timestamptz';
      if (instant[2] === 1 && !zoned) return null;
      // A date is a day.
      if (baseName(type) === 'date' && instant[1] !== 0) return null;
      return { bytes, number: 0, days: instant[0]!, micros: instant[1]! };
    }
    case PADDED:
      return { bytes: bytes.subarray(0, unpadded(bytes, 0, bytes.length)), number: 0, days: 0, micros: 0 };
    default:
      return { bytes, number: 0, days: 0, micros: 0 };
  }
}

function baseName(type: TypeDescription): string {
  return type.base === undefined ? type.name : baseName(type.base);
}

function booleanText(text: string): string | null {
  const lower = text.toLowerCase();
  if (lower === 'true' || lower === 't') return 't';
  return lower === 'false' || lower === 'f' ? 'f' : null;
}

function uuidText(text: string): string | null {
  const digits = text.toLowerCase().replace(/^\{(.*)\}$/, '$1');
  if (!/^[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}$/.test(digits)) return null;
  return digits.replaceAll('-', '').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

function timeText(text: string): string | null {
  const parts = /^(\d\d:\d\d)(:\d\d)?(\.\d{1,6})?$/.exec(text);
  if (parts === null) return null;
  const time = `${parts[1]}${parts[2] ?? ':00'}${(parts[3] ?? '').replace(/\.?0+$/, '')}`;
  return time <= '24:00:00' && /^..:[0-5].:[0-5]/.test(time) ? time : null;
}

function floatText(text: string): string | null {
  const special = specialNumber(text);
  if (special !== null) return special;
  return /^[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?$/i.test(text) && Number.isFinite(Number(text)) ? text : null;
}

function floatOf(text: string): number {
  return Number(text);
}

function specialNumber(text: string): string | null {
  const name = /^([-+]?)(nan|inf|infinity)$/i.exec(text);
  if (name === null) return null;
  if (name[2]!.toLowerCase() === 'nan') return name[1] === '' ? 'NaN' : null;
  return name[1] === '-' ? '-Infinity' : 'Infinity';
}

/** Digits of a numeric before the point, and after it. Source: "Numeric Types" in the Postgres manual. */
const DIGITS_MAX = 131_072;

/** `-12.5` without exponent, leading zeros, plus sign or empty parts. */
function normalDecimal(text: string, specials: boolean): string | null {
  if (specials) {
    const special = specialNumber(text);
    if (special !== null) return special;
  }
  const parts = /^([-+]?)(\d*)(?:\.(\d*))?(?:e([-+]?\d{1,6}))?$/i.exec(text);
  if (parts === null || `${parts[2]}${parts[3] ?? ''}` === '') return null;
  const exponent = Number(parts[4] ?? 0);
  if (Math.abs(exponent) > DIGITS_MAX) return null;
  let whole = parts[2]!;
  let fraction = parts[3] ?? '';
  if (exponent > 0) {
    whole += fraction.slice(0, exponent).padEnd(exponent, '0');
    fraction = fraction.slice(exponent);
  } else if (exponent < 0) {
    const all = whole.padStart(-exponent, '0');
    fraction = all.slice(all.length + exponent) + fraction;
    whole = all.slice(0, all.length + exponent);
  }
  whole = whole.replace(/^0+(?=\d)/, '') || '0';
  if (whole.length > DIGITS_MAX || fraction.length > DIGITS_MAX) return null;
  return `${parts[1] === '-' ? '-' : ''}${whole}${fraction === '' ? '' : `.${fraction}`}`;
}

/** Below, at or above 0 as source[start, end) is below, equal to or above the operand. */
export function compareValue(kind: number, source: Buffer, start: number, end: number, to: Operand): number {
  switch (kind) {
    case DECIMAL: {
      if (end - start <= 15) {
        const integer = smallInteger(source, start, end);
        const { number } = to;
        if (!Number.isNaN(integer) && !Number.isNaN(number)) return integer - number;
      }
      return compareDecimals(source, start, end, to.bytes, 0, to.bytes.length);
    }
    case FLOAT4:
      return compareFloats(Math.fround(readFloat(source, start, end)), to.number);
    case FLOAT8:
      return compareFloats(readFloat(source, start, end), to.number);
    case INSTANT: {
      if (!readInstant(source, start, end)) throw noValue();
      const days = instant[0]!;
      if (days !== to.days) return days < to.days ? -1 : 1;
      return instant[1]! - to.micros;
    }
    case PADDED:
      return compareBytes(source, start, unpadded(source, start, end), to.bytes);
    default:
      return compareBytes(source, start, end, to.bytes);
  }
}

function compareBytes(source: Buffer, start: number, end: number, to: Buffer): number {
  const size = end - start;
  const common = Math.min(size, to.length);
  for (let i = 0; i < common; i++) {
    const difference = source[start + i]! - to[i]!;
    if (difference !== 0) return difference;
  }
  return size - to.length;
}

function unpadded(source: Buffer, start: number, end: number): number {
  let at = end;
  while (at > start && source[at - 1] === 0x20) at--;
  return at;
}

/** -?[0-9]{1,15}, or NaN. */
function smallInteger(source: Buffer, start: number, end: number): number {
  let at = start;
  const negative = at < end && source[at] === 0x2d;
  if (negative) at++;
  if (at >= end) return Number.NaN;
  let value = 0;
  for (; at < end; at++) {
    const digit = source[at]! - 0x30;
    if (digit < 0 || digit > 9) return Number.NaN;
    value = value * 10 + digit;
  }
  return negative ? -value : value;
}

const INFINITE = 0x49;
const NOT_A_NUMBER = 0x4e;

/** Both as Postgres prints a numeric: `-?[0-9]+(\.[0-9]+)?`, NaN, Infinity, -Infinity. */
function compareDecimals(a: Buffer, aStart: number, aEnd: number, b: Buffer, bStart: number, bEnd: number): number {
  // -Infinity, numbers, Infinity, NaN.
  const aRank = rank(a, aStart, aEnd);
  const bRank = rank(b, bStart, bEnd);
  if (aRank !== 0 || bRank !== 0) return aRank - bRank;
  const aNegative = a[aStart] === 0x2d;
  const bNegative = b[bStart] === 0x2d;
  const aFrom = aNegative ? aStart + 1 : aStart;
  const bFrom = bNegative ? bStart + 1 : bStart;
  const difference = compareMagnitudes(a, aFrom, aEnd, b, bFrom, bEnd);
  if (aNegative === bNegative) return aNegative ? -difference : difference;
  // -0 is 0.
  if (difference === 0 && isZero(a, aFrom, aEnd)) return 0;
  return aNegative ? -1 : 1;
}

function rank(source: Buffer, start: number, end: number): number {
  const first = source[start];
  if (first === NOT_A_NUMBER) return 2;
  if (first === INFINITE) return 1;
  return first === 0x2d && start + 1 < end && source[start + 1] === INFINITE ? -1 : 0;
}

function compareMagnitudes(a: Buffer, aStart: number, aEnd: number, b: Buffer, bStart: number, bEnd: number): number {
  const aPoint = pointOf(a, aStart, aEnd);
  const bPoint = pointOf(b, bStart, bEnd);
  // Neither has leading zeros: more digits are more.
  if (aPoint - aStart !== bPoint - bStart) return aPoint - aStart - (bPoint - bStart);
  for (let i = 0; i < aPoint - aStart; i++) {
    const difference = a[aStart + i]! - b[bStart + i]!;
    if (difference !== 0) return difference;
  }
  let aAt = aPoint + 1;
  let bAt = bPoint + 1;
  while (aAt < aEnd || bAt < bEnd) {
    const difference = (aAt < aEnd ? a[aAt]! : 0x30) - (bAt < bEnd ? b[bAt]! : 0x30);
    if (difference !== 0) return difference;
    aAt++;
    bAt++;
  }
  return 0;
}

function pointOf(source: Buffer, start: number, end: number): number {
  let at = start;
  while (at < end && source[at] !== 0x2e) at++;
  return at;
}

function isZero(source: Buffer, start: number, end: number): boolean {
  for (let at = start; at < end; at++) if (source[at] !== 0x30 && source[at] !== 0x2e) return false;
  return true;
}

/** NaN is equal to itself and above all else; -0 is 0. */
function compareFloats(a: number, b: number): number {
  if (a < b) return -1;
  if (a > b) return 1;
  if (a === b) return 0;
  return (Number.isNaN(a) ? 1 : 0) - (Number.isNaN(b) ? 1 : 0);
}

const POWERS = Array.from({ length: 16 }, (_, power) => 10 ** power);

/** Up to 15 digits without exponent are one exact division; the rest goes the long way. */
function readFloat(source: Buffer, start: number, end: number): number {
  if (end - start <= 16) {
    let at = start;
    const negative = source[at] === 0x2d;
    if (negative) at++;
    let value = 0;
    let point = -1;
    const from = at;
    for (; at < end; at++) {
      const digit = source[at]! - 0x30;
      if (digit >= 0 && digit <= 9) value = value * 10 + digit;
      else if (digit === -2 && point < 0) point = at;
      else break;
    }
    const digits = end - from - (point < 0 ? 0 : 1);
    if (at === end && digits > 0 && digits <= 15) {
      if (point >= 0) value /= POWERS[end - point - 1]!;
      return negative ? -value : value;
    }
  }
  return Number(source.toString('latin1', start, end));
}

/** What readInstant read last: days since 1970-01-01, microseconds of the day, and 1 where a zone was given. */
const instant = new Float64Array(3);
const DAY_MICROS = 86_400_000_000;

/**
 * `2024-01-02[ 03:04:05[.123456]][+05:30[:15]][ BC]`, also with a T and a Z; infinity. Years of any length. False for any
 * other form. Without a zone it is taken as UTC.
 */
function readInstant(source: Buffer, start: number, end: number): boolean {
  instant[1] = 0;
  instant[2] = 0;
  if (start < end && (source[start] === 0x69 || source[start + 1] === 0x69)) return readInfinity(source, start, end);
  let at = start;
  let year = 0;
  for (; at < end; at++) {
    const digit = source[at]! - 0x30;
    if (digit < 0 || digit > 9) break;
    year = year * 10 + digit;
  }
  if (at - start < 4 || at - start > 7 || at + 6 > end || source[at] !== 0x2d || source[at + 3] !== 0x2d) return false;
  const month = twoDigits(source, at + 1);
  const day = twoDigits(source, at + 4);
  at += 6;
  let micros = 0;
  if (at + 6 <= end && (source[at] === 0x20 || source[at] === 0x54) && source[at + 3] === 0x3a) {
    const hour = twoDigits(source, at + 1);
    const minute = twoDigits(source, at + 4);
    at += 6;
    let second = 0;
    if (at + 3 <= end && source[at] === 0x3a) {
      second = twoDigits(source, at + 1);
      at += 3;
      if (at < end && source[at] === 0x2e) {
        let scale = 100_000;
        const from = ++at;
        for (; at < end && scale >= 1; at++) {
          const digit = source[at]! - 0x30;
          if (digit < 0 || digit > 9) break;
          micros += digit * scale;
          scale = Math.floor(scale / 10);
        }
        if (at === from) return false;
      }
    }
    if (hour < 0 || hour > 24 || minute < 0 || minute > 59 || second < 0 || second > 59) return false;
    micros += ((hour * 60 + minute) * 60 + second) * 1_000_000;
    if (at < end && source[at] === 0x5a) {
      at++;
      instant[2] = 1;
    } else if (at + 3 <= end && (source[at] === 0x2b || source[at] === 0x2d)) {
      const sign = source[at] === 0x2d ? -1 : 1;
      let seconds = 0;
      for (let unit = 3600; unit >= 1 && (unit === 3600 || (at < end && source[at] === 0x3a)); unit /= 60) {
        const part = at + 3 <= end ? twoDigits(source, at + 1) : -1;
        if (part < 0) return false;
        seconds += part * unit;
        at += 3;
      }
      micros -= sign * seconds * 1_000_000;
      instant[2] = 1;
    }
  }
  if (at + 3 === end && source[at] === 0x20 && source[at + 1] === 0x42 && source[at + 2] === 0x43) {
    if (year === 0) return false;
    year = 1 - year;
    at += 3;
  } else if (year === 0) return false;
  if (at !== end || month < 1 || month > 12 || day < 1 || day > daysIn(year, month)) return false;
  let days = daysFrom1970(year, month, day);
  if (micros < 0 || micros >= DAY_MICROS) {
    const over = Math.floor(micros / DAY_MICROS);
    days += over;
    micros -= over * DAY_MICROS;
  }
  instant[0] = days;
  instant[1] = micros;
  return true;
}

function readInfinity(source: Buffer, start: number, end: number): boolean {
  const text = source.toString('latin1', start, end);
  if (text === 'infinity') instant[0] = Number.POSITIVE_INFINITY;
  else if (text === '-infinity') instant[0] = Number.NEGATIVE_INFINITY;
  else return false;
  return true;
}

function daysIn(year: number, month: number): number {
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28;
  return month === 4 || month === 6 || month === 9 || month === 11 ? 30 : 31;
}

/** Postgres never prints such a text for this type; comparing it with anything would be a guess. */
function noValue(): MillraceError {
  return new MillraceError('decode_malformed', { detail: 'A time in a filtered column is none that Postgres prints.' });
}
