/** The types that random tables are made of: as Postgres prints their names, with values for each as SQL expressions. */
import type { Random } from '@millrace/testkit/random';

export interface ColumnType {
  /** As format_type() prints it. */
  readonly name: string;
  value(random: Random): string;
}

const STRINGS: readonly string[] = [
  `''`,
  `'plain'`,
  `E'it''s "quoted"'`,
  `E'back\\\\slash \\\\N \\\\.'`,
  `E'tab\\tand\\nnewline\\r\\n'`,
  `'{"looks":"like json"}'`,
  `'żółć 🥑 日本'`,
  `E'\\u0001\\u001f\\u007f\\u2028'`,
  `'unchanged'`,
  `'NULL'`,
];

const one = (...values: string[]) => ({ value: (random: Random) => random.pick(values) });
const whole = (max: number) => ({ value: (random: Random) => String(random.integer(max * 2) - max) });

/** Long enough to be kept out of line; md5 does not compress. */
function longText(random: Random): string {
  const pieces = 80 + random.integer(200);
  return `(SELECT string_agg(md5('${random.integer(1e9)}' || i::text), '') FROM generate_series(1, ${pieces}) i)`;
}

export const COLUMN_TYPES: readonly ColumnType[] = [
  { name: 'smallint', ...whole(32_767) },
  { name: 'integer', ...whole(2_147_483_647) },
  { name: 'bigint', ...one('0', '-1', '9007199254740993', '9223372036854775807', '-9223372036854775808', '42') },
  { name: 'numeric', ...one(`'NaN'`, '1.10', '-0.000000000000000000001', '1e40', '0', '12345678901234567890.5') },
  { name: 'numeric(12,3)', value: (random) => (random.integer(1e8) / 1000).toFixed(3) },
  { name: 'text', value: (random) => random.pick(STRINGS) },
  { name: 'character varying(40)', value: (random) => random.pick(STRINGS) },
  { name: 'character(5)', ...one(`''`, `'ab'`, `'abcde'`) },
  { name: 'boolean', ...one('true', 'false') },
  { name: 'real', ...one(`'NaN'`, '1.1', '-0.5', '3e10') },
  { name: 'double precision', ...one(`'Infinity'`, `'-0'`, '0.1', '1e300', '5e-324', '42') },
  { name: 'date', ...one(`'2024-02-29'`, `'infinity'`, `'0044-03-15 BC'`, `'1970-01-01'`) },
  { name: 'time without time zone', ...one(`'04:05:06.789'`, `'24:00:00'`, `'00:00'`) },
  { name: 'time with time zone', ...one(`'04:05:06.789012+05:30'`, `'00:00:00-08'`) },
  {
    name: 'timestamp without time zone',
    ...one(`'2024-01-02 03:04:05.5'`, `'infinity'`, `'0044-03-15 12:00:00 BC'`, `'10000-01-01'`, `'1999-12-31 23:59'`),
  },
  {
    name: 'timestamp with time zone',
    ...one(`'2024-01-02 03:04:05.25+02'`, `'-infinity'`, `'1883-01-01 00:00+00'`, `'2030-06-30 12:00:00.123456+00'`),
  },
  {
    name: 'interval',
    ...one(`'1 year 2 mons 3 days 04:05:06.789'`, `'-1 year -2 mons +3 days -04:05:06.789'`, `'0'`, `'100 hours'`),
  },
  { name: 'uuid', value: (random) => `md5('${random.integer(1e6)}')::uuid` },
  { name: 'bytea', ...one(`'\\x00ff10'`, `'\\x'`, `'\\x27225c'`) },
  { name: 'json', ...one(`'{"a" : [1, 2.50], "s": "ä"}'`, `'null'`, `'[]'`, `E'{"n":\\n 1}'`) },
  { name: 'jsonb', ...one(`'{"b": [1,2.50,"x"], "a": {}}'`, `'null'`, `'"text"'`, `'9007199254740993'`) },
  {
    name: 'text[]',
    ...one(`ARRAY['a', NULL, 'NULL', '', 'a,b', '{x}', 'q"q', 'b\\s', ' sp ']`, `'{}'`, `'{{a,b},{c,d}}'`),
  },
  { name: 'integer[]', ...one(`'{1,NULL,-3}'`, `'{}'`, `'{{1,2},{3,4}}'`, `'[0:2]={7,8,9}'`) },
  { name: 'bigint[]', ...one(`'{9223372036854775807}'`, `'{}'`) },
  { name: 'numeric[]', ...one(`'{1.10,NULL,NaN}'`, `'{}'`) },
  { name: 'timestamp without time zone[]', ...one(`'{2024-01-02 03:04:05.5,infinity}'`, `'{NULL}'`) },
  { name: 'jsonb[]', ...one(`ARRAY['{"a": "x"}'::jsonb, NULL, '[1]'::jsonb]`, `'{}'`) },
  // The last one may have been added a moment ago.
  {
    name: 'r.mood',
    ...one(`'happy'`, `'so ''so'`, `(enum_range(NULL::r.mood))[cardinality(enum_range(NULL::r.mood))]`),
  },
  { name: 'r.mood[]', ...one(`'{happy,"so ''so",NULL}'`, `'{}'`) },
  { name: 'r.pair', ...one(`ROW(1, 'a "b"')`, `ROW(NULL, '')`, `ROW(2, NULL)`) },
  { name: 'r.small', ...one('1', '99', 'NULL') },
  { name: 'other.mood', ...one(`'grim'`, `'calm'`) },
  { name: 'int4range', ...one(`'[1,5)'`, `'empty'`, `'(,3]'`) },
  { name: 'tsrange', ...one(`'[2024-01-01,2024-01-02)'`, `'(,)'`) },
  { name: 'int4multirange', ...one(`'{[1,2),[5,6)}'`, `'{}'`) },
  { name: 'bit(3)', ...one(`B'101'`, `B'000'`) },
  { name: 'bit varying', ...one(`B'1'`, `B''`, `B'1100'`) },
  { name: 'inet', ...one(`'192.168.0.1/24'`, `'::1'`) },
  { name: 'macaddr', ...one(`'08:00:2b:01:02:03'`) },
  { name: 'point', ...one(`'(1.5,2)'`, `'(0,-1e10)'`) },
  { name: 'money', ...one('12.34::numeric::money', '(-1)::numeric::money') },
  { name: 'xml', ...one(`'<a>1</a>'`) },
  { name: 'tsvector', ...one(`'a:1 b:2'`, `''`) },
  { name: 'pg_lsn', ...one(`'F/A'`) },
  { name: 'oid', ...one('4294967295', '0') },
];

/** Columns of these types hold values too long for a page now and then. */
const LONG: Readonly<Record<string, (random: Random) => string>> = {
  text: longText,
  jsonb: (random) => `jsonb_build_object('n', 1.50, 'long', ${longText(random)})`,
  bytea: (random) => `convert_to(${longText(random)}, 'UTF8')`,
  'text[]': (random) => `ARRAY['x', ${longText(random)}, NULL]`,
};

/** An ALTER COLUMN ... TYPE that every value survives. */
export const RETYPES: Readonly<Record<string, readonly string[]>> = {
  smallint: ['integer', 'bigint', 'numeric', 'text'],
  integer: ['bigint', 'numeric', 'text'],
  bigint: ['numeric', 'text'],
  'numeric(12,3)': ['numeric', 'text'],
  'character varying(40)': ['text'],
  'character(5)': ['text'],
  real: ['double precision'],
  date: ['text'],
  uuid: ['text'],
  json: ['text'],
  jsonb: ['json', 'text'],
  'r.mood': ['text'],
  boolean: ['text'],
  text: ['character varying'],
};

const byName = new Map(COLUMN_TYPES.map((type) => [type.name, type]));

/** An SQL expression of the type, typed. */
export function randomValue(type: string, random: Random): string {
  if (random.chance(0.1)) return `NULL::${type}`;
  const long = LONG[type];
  if (long !== undefined && random.chance(0.3)) return long(random);
  const known = byName.get(type) ?? byName.get('text')!;
  return `CAST(${known.value(random)} AS ${type})`;
}

export function randomType(random: Random): string {
  // Types with long values more often: they are the ones that an update can leave out.
  return random.chance(0.3) ? random.pick(Object.keys(LONG)) : random.pick(COLUMN_TYPES).name;
}

export const TYPES_SQL = `
  CREATE SCHEMA r;
  CREATE SCHEMA other;
  CREATE SEQUENCE r.codes;
  CREATE TYPE r.mood AS ENUM ('happy', 'so ''so');
  CREATE TYPE other.mood AS ENUM ('grim', 'calm');
  CREATE TYPE r.pair AS (a int, b text);
  CREATE DOMAIN r.small AS int CHECK (VALUE < 100);
`;
