/**
 * Values as messages print them, made from Postgres' own text by rules of their own: the oracle must not share a codec
 * with what it judges. A type it has no rule for is refused, never guessed.
 */

/** Parses JSON without losing digits: an integer beyond 2^53 becomes a bigint. */
export function parseJson(text: string): unknown {
  // A reviver makes parsing some ten times slower, and campaigns parse millions of messages.
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  // Node hands the source text of a number to the reviver; the type of JSON.parse does not know yet.
  const revive = (_key: string, value: unknown, context?: { source?: string }) =>
    typeof value === 'number' && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? '')
      ? BigInt(context!.source!)
      : value;
  return JSON.parse(text, revive);
}

/** The SQL that prints a column for expectedValue. */
export function columnAsText(name: string, type: string): string {
  if (type === 'timestamptz') return `(${name} AT TIME ZONE 'UTC')::text`;
  return type.startsWith('_') ? `to_json(${name})::text` : `${name}::text`;
}

const TEXT_TYPES: ReadonlySet<string> = new Set([
  ...['text', 'varchar', 'bpchar', 'name', 'uuid', 'numeric', 'bytea', 'date', 'xml', 'inet', 'cidr', 'bit', 'varbit'],
]);
const ARRAY_TYPES: ReadonlySet<string> = new Set(['_text', '_varchar', '_int2', '_int4', '_int8', '_bool', '_uuid']);

export function expectedValue(text: string | null, type: string): unknown {
  if (text === null) return null;
  switch (type) {
    case 'int2':
    case 'int4':
    case 'int8':
    case 'oid':
      return Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text);
    case 'float4':
    case 'float8':
      return Number.isFinite(Number(text)) ? Number(text) : text;
    case 'bool':
      return text === 'true';
    case 'json':
    case 'jsonb':
      return parseJson(text);
    case 'timestamp':
      return text.replace(' ', 'T');
    case 'timestamptz':
      return text.endsWith('infinity') ? text : `${text.replace(' ', 'T')}Z`;
  }
  if (TEXT_TYPES.has(type)) return text;
  if (ARRAY_TYPES.has(type)) return parseJson(text);
  throw new Error(`the oracle has no rule for values of type ${type}`);
}

/** Text by which two values are the same: the order of JSON keys and zeros at the end of a fraction do not count. */
export function canonical(value: unknown, type: string): string {
  if (!type.startsWith('timestamp') || typeof value !== 'string') return sorted(value);
  return value.includes('.') ? value.replace(/\.?0*(Z?)$/, '$1') : value;
}

function sorted(value: unknown): string {
  if (typeof value === 'bigint') return value.toString();
  if (Array.isArray(value)) return `[${value.map(sorted).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'undefined';
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, each]) => `${JSON.stringify(key)}:${sorted(each)}`).join(',')}}`;
}
