/**
 * The golden table: a value of every type and edge, and the JSON it becomes. golden-values.test.ts holds streamed and
 * backfilled rows to it on a real Postgres; docs/types.md is made from it (tools/generate-types-docs.ts).
 */

/** Type, SQL expression, JSON, and the first major version that has it when that is not the oldest supported. */
export type GoldenValue = readonly [type: string, sql: string, json: string, since?: number];

export interface GoldenGroup {
  readonly title: string;
  /** Paragraphs of the documentation. */
  readonly notes: readonly string[];
  readonly values: readonly GoldenValue[];
}

/** Types of schema `g` are the user's own, those of `x` come from extensions. */
export const GOLDEN_SETUP = `
  CREATE SCHEMA g;
  CREATE SCHEMA x;
  CREATE TYPE g.mood AS ENUM ('happy', 'so ''so', 'größer "1"');
  CREATE TYPE g.pair AS (a int, b text);
  CREATE TYPE g.nested AS (p g.pair, n int[], m g.mood);
  CREATE DOMAIN g.positive AS int CHECK (VALUE > 0);
  CREATE DOMAIN g.small AS g.positive CHECK (VALUE < 100);
  CREATE DOMAIN g.numbers AS int[];
  CREATE DOMAIN g.moment AS timestamp;
  CREATE DOMAIN g.document AS jsonb;
  CREATE DOMAIN g.moods AS g.mood[];
  CREATE TYPE g.span AS RANGE (subtype = float8, multirange_type_name = g.spans);
  CREATE TYPE g.words AS RANGE (subtype = text);
  CREATE TABLE g."Odd" (id int PRIMARY KEY);
  ${['g.opaque', 'x.vector'].map(baseType).join('')}
  ${['hstore', 'ltree', 'citext', 'cube', 'seg', 'isn', 'lo'].map((name) => `CREATE EXTENSION ${name} SCHEMA x;`).join('\n  ')}`;

/** A base type whose text is whatever was written. pgvector's stands for the real one, which npm does not have. */
function baseType(name: string): string {
  return `
  CREATE TYPE ${name};
  CREATE FUNCTION ${name}_in(cstring) RETURNS ${name} LANGUAGE internal IMMUTABLE STRICT AS 'textin';
  CREATE FUNCTION ${name}_out(${name}) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
  CREATE TYPE ${name} (INPUT = ${name}_in, OUTPUT = ${name}_out, LIKE = text);`;
}

export function goldenValues(major: number): readonly GoldenValue[] {
  return GOLDEN.flatMap(({ values }) => values.filter(([, , , since]) => since === undefined || since <= major));
}

export const GOLDEN: readonly GoldenGroup[] = [
  {
    title: 'Booleans and numbers',
    notes: [
      `Integers and floats are JSON numbers with the digits Postgres prints. An \`int8\` may be beyond 2^53: the digits are exact, but \`JSON.parse\` of JavaScript rounds them. \`NaN\` and \`Infinity\` are strings, because JSON has no such numbers.`,
      `\`numeric\` is a string, so that no digit and no trailing zero is lost. \`money\` is the text of the locale of \`lc_monetary\`, see [settings](#settings-of-the-database-do-not-matter).`,
    ],
    values: [
      ['bool', 'true', 'true'],
      ['bool', 'false', 'false'],
      ['int2', '-32768', '-32768'],
      ['int2', '32767', '32767'],
      ['int4', '-2147483648', '-2147483648'],
      ['int4', '2147483647', '2147483647'],
      ['int4', '0', '0'],
      ['int8', '9007199254740993', '9007199254740993'],
      ['int8', '-9223372036854775808', '-9223372036854775808'],
      ['int8', '9223372036854775807', '9223372036854775807'],
      ['float4', '1.1', '1.1'],
      ['float4', "'3.4028235e38'", '3.4028235e+38'],
      ['float4', "'1e-45'", '1e-45'],
      ['float4', "'-0'", '-0'],
      ['float4', "'NaN'", '"NaN"'],
      ['float8', '0.1', '0.1'],
      ['float8', '1e300', '1e+300'],
      ['float8', "'1.7976931348623157e308'", '1.7976931348623157e+308'],
      ['float8', "'5e-324'", '5e-324'],
      ['float8', "'2.2250738585072014e-308'", '2.2250738585072014e-308'],
      ['float8', "'-0'", '-0'],
      ['float8', "'NaN'", '"NaN"'],
      ['float8', "'Infinity'", '"Infinity"'],
      ['float8', "'-Infinity'", '"-Infinity"'],
      ['numeric', '5.990', '"5.990"'],
      ['numeric', '0', '"0"'],
      ['numeric', "'-0.000000000000000000001'", '"-0.000000000000000000001"'],
      ['numeric', "'1e40'", '"10000000000000000000000000000000000000000"'],
      ['numeric(10,2)', '8.999', '"9.00"'],
      ['numeric(1000,0)', "repeat('9', 1000)::numeric", `"${'9'.repeat(1000)}"`],
      ['numeric(1000,999)', "('0.' || repeat('1', 999))::numeric", `"0.${'1'.repeat(999)}"`],
      ['numeric(4,-3)', '1234567', '"1235000"', 15],
      ['numeric(3,5)', '0.00123', '"0.00123"', 15],
      ['numeric', "'NaN'", '"NaN"'],
      ['numeric', "'Infinity'", '"Infinity"'],
      ['numeric', "'-Infinity'", '"-Infinity"'],
      ['money', '12.34::numeric', '"$12.34"'],
      ['money', '-1234567.89::numeric', '"-$1,234,567.89"'],
      ['money', "'-92233720368547758.08'::money", '"-$92,233,720,368,547,758.08"'],
    ],
  },
  {
    title: 'Text',
    notes: [
      `A \`char(n)\` keeps its padding. What JSON cannot hold in a string is escaped; everything else is UTF-8 as it is.`,
    ],
    values: [
      ['text', "'plain'", '"plain"'],
      ['text', "''", '""'],
      [
        'text',
        `'a "b" \\ / ' || chr(10) || chr(9) || chr(13) || chr(1) || chr(127)`,
        '"a \\"b\\" \\\\ / \\n\\t\\r\\u0001\x7f"',
      ],
      ['text', "'ä 😀 ' || chr(8232)", '"ä 😀 \u2028"'],
      ['text', 'NULL', 'null'],
      ['text', "'null'", '"null"'],
      ['varchar(10)', "'x  '", '"x  "'],
      ['varchar', "'no limit'", '"no limit"'],
      ['char(4)', "'ab'", '"ab  "'],
      ['char(4)', "''", '"    "'],
      ['bpchar', "'ab  '", '"ab  "'],
      ['char(2)', "'äö'", '"äö"'],
      ['name', "'n'", '"n"'],
      ['"char"', "'q'", '"q"'],
      ['"char"', "''", '""'],
      ['"char"', '(-1)::"char"', '"\\\\377"'],
    ],
  },
  {
    title: 'Bytes and bits',
    notes: [`\`bytea\` is \`\\x\` and hexadecimal digits, bit strings are their digits.`],
    values: [
      ['bytea', "'\\x00ff10'", '"\\\\x00ff10"'],
      ['bytea', "''", '"\\\\x"'],
      ['bytea', "'\\x5c27'", '"\\\\x5c27"'],
      ['bit(3)', "B'101'", '"101"'],
      ['bit', "B'1'", '"1"'],
      ['varbit', "B''", '""'],
      ['varbit(8)', "B'0011'", '"0011"'],
    ],
  },
  {
    title: 'Dates and times',
    notes: [
      `Timestamps have a \`T\` and always six digits of a second; those with time zone are in UTC with a \`Z\`. \`infinity\`, years before 1 and years after 9999 do not fit ISO 8601 and are the text Postgres prints. Times keep their fraction, and their offset.`,
      `An interval has three parts that do not convert into each other. Hours of any number are microseconds.`,
    ],
    values: [
      ['date', "'2024-02-29'", '"2024-02-29"'],
      ['date', "'infinity'", '"infinity"'],
      ['date', "'-infinity'", '"-infinity"'],
      ['date', "'0044-03-15 BC'", '"0044-03-15 BC"'],
      ['date', "'4713-01-01 BC'", '"4713-01-01 BC"'],
      ['date', "'10000-01-01'", '"10000-01-01"'],
      ['date', "'5874897-12-31'", '"5874897-12-31"'],
      ['time', "'04:05:06.789'", '"04:05:06.789"'],
      ['time', "'00:00:00'", '"00:00:00"'],
      ['time', "'24:00:00'", '"24:00:00"'],
      ['time(0)', "'04:05:06.5'", '"04:05:07"'],
      ['time', "'23:59:59.999999'", '"23:59:59.999999"'],
      ['timetz', "'04:05:06.789012+05:30'", '"04:05:06.789012+05:30"'],
      ['timetz', "'04:05:06-15:59:59'", '"04:05:06-15:59:59"'],
      ['timetz', "'24:00:00+00'", '"24:00:00+00"'],
      ['timestamp', "'2024-01-02 03:04:05'", '"2024-01-02T03:04:05.000000"'],
      ['timestamp', "'2024-01-02 03:04:05.5'", '"2024-01-02T03:04:05.500000"'],
      ['timestamp', "'2024-01-02 03:04:05.123456'", '"2024-01-02T03:04:05.123456"'],
      ['timestamp(3)', "'2024-01-02 03:04:05.123456'", '"2024-01-02T03:04:05.123000"'],
      ['timestamp', "'0001-01-01 00:00:00'", '"0001-01-01T00:00:00.000000"'],
      ['timestamp', "'9999-12-31 23:59:59.999999'", '"9999-12-31T23:59:59.999999"'],
      ['timestamp', "'10000-01-01 00:00:00'", '"10000-01-01 00:00:00"'],
      ['timestamp', "'294276-12-31 23:59:59.999999'", '"294276-12-31 23:59:59.999999"'],
      ['timestamp', "'0044-03-15 12:00:00 BC'", '"0044-03-15 12:00:00 BC"'],
      ['timestamp', "'infinity'", '"infinity"'],
      ['timestamp', "'-infinity'", '"-infinity"'],
      ['timestamptz', "'2024-01-02 03:04:05.25+02'", '"2024-01-02T01:04:05.250000Z"'],
      ['timestamptz', "'2024-06-02 03:04:05 Europe/Berlin'", '"2024-06-02T01:04:05.000000Z"'],
      ['timestamptz', "'1883-01-01 00:00:00+00'", '"1883-01-01T00:00:00.000000Z"'],
      ['timestamptz', "'0044-03-15 12:00:00+00 BC'", '"0044-03-15 12:00:00+00 BC"'],
      ['timestamptz', "'10000-01-01 00:00:00+00'", '"10000-01-01 00:00:00+00"'],
      ['timestamptz', "'infinity'", '"infinity"'],
      ['timestamptz', "'-infinity'", '"-infinity"'],
      ['interval', "'0'", '{"months":0,"days":0,"microseconds":0}'],
      ['interval', "'1 year 2 mons 3 days 04:05:06.789'", '{"months":14,"days":3,"microseconds":14706789000}'],
      ['interval', "'-1 year -2 mons +3 days -04:05:06.789'", '{"months":-14,"days":3,"microseconds":-14706789000}'],
      ['interval', "'100 hours'", '{"months":0,"days":0,"microseconds":360000000000}'],
      ['interval', "'-123456:00:00.000001'", '{"months":0,"days":0,"microseconds":-444441600000001}'],
      ['interval', "'1 day -1 microsecond'", '{"months":0,"days":1,"microseconds":-1}'],
      ['interval', "'-1 mon +1 day'", '{"months":-1,"days":1,"microseconds":0}'],
      ['interval', "'178000000 years'", '{"months":2136000000,"days":0,"microseconds":0}'],
      ['interval year to month', "'3 years 2 mons'", '{"months":38,"days":0,"microseconds":0}'],
      ['interval(0)', "'00:00:01.5'", '{"months":0,"days":0,"microseconds":2000000}'],
      [
        'interval',
        "interval '2562047788 hours 54.775807 seconds'",
        '{"months":0,"days":0,"microseconds":9223372036854775807}',
        15,
      ],
      ['interval', "'2147483647 hours'", '{"months":0,"days":0,"microseconds":7730941129200000000}'],
      ['interval', "'infinity'", '"infinity"', 17],
      ['interval', "'-infinity'", '"-infinity"', 17],
    ],
  },
  {
    title: 'Identifiers and network addresses',
    notes: [],
    values: [
      ['uuid', "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'],
      ['inet', "'192.168.0.1/24'", '"192.168.0.1/24"'],
      ['inet', "'192.168.0.1'", '"192.168.0.1"'],
      ['inet', "'2001:db8::1/64'", '"2001:db8::1/64"'],
      ['inet', "'::ffff:1.2.3.4'", '"::ffff:1.2.3.4"'],
      ['cidr', "'10.0.0.0/8'", '"10.0.0.0/8"'],
      ['cidr', "'2001:db8::/32'", '"2001:db8::/32"'],
      ['macaddr', "'08:00:2b:01:02:03'", '"08:00:2b:01:02:03"'],
      ['macaddr8', "'08:00:2b:01:02:03:04:05'", '"08:00:2b:01:02:03:04:05"'],
    ],
  },
  {
    title: 'JSON and XML',
    notes: [
      `\`json\` and \`jsonb\` are the value itself, numbers with every digit. \`json\` keeps its spelling, white space and doubled keys included; line breaks and tabs become spaces, so that a message stays on one line.`,
    ],
    values: [
      [
        'json',
        `'{"a" :\n\t[1, 2.50], "a": null, "s": "\\u00e4 \\n"}'`,
        '{"a" :  [1, 2.50], "a": null, "s": "\\u00e4 \\n"}',
      ],
      ['json', "' 1.0e2 '", ' 1.0e2 '],
      ['json', "'12345678901234567890.12345678901234567890'", '12345678901234567890.12345678901234567890'],
      ['json', `'"\\ud83d\\ude00"'`, '"\\ud83d\\ude00"'],
      ['json', `'"\\u0000"'`, '"\\u0000"'],
      ['jsonb', `'{"b": [1,2.50,"x\\ny"], "a": {}}'`, '{"a": {}, "b": [1, 2.50, "x\\ny"]}'],
      ['jsonb', "'null'", 'null'],
      ['jsonb', `'"text"'`, '"text"'],
      ['jsonb', "'12345678901234567890.12345678901234567890'", '12345678901234567890.12345678901234567890'],
      ['jsonb', "'1e400'", `1${'0'.repeat(400)}`],
      ['jsonb', `'"\\ud83d\\ude00 \\u00e4"'`, '"😀 ä"'],
      ['jsonb', `'{"a": 1, "a": 2}'`, '{"a": 2}'],
      ['jsonpath', "'$.a[*] ? (@ > 1)'", '"$.\\"a\\"[*]?(@ > 1)"'],
      ['xml', `'<a b="1">x</a>'`, '"<a b=\\"1\\">x</a>"'],
      ['xml', `'<?xml version="1.0" encoding="latin1"?><a/>'`, '"<a/>"'],
      ['xml', "''", '""'],
    ],
  },
  {
    title: 'Arrays',
    notes: [
      `JSON arrays, nested by dimension, the elements as their own type would be. Custom lower bounds are dropped. \`int2vector\` and \`oidvector\` are not arrays but text.`,
    ],
    values: [
      ['int4[]', "'{1,NULL,-3}'", '[1,null,-3]'],
      ['int4[]', "'{}'", '[]'],
      ['int4[]', "'{{1,2},{3,4}}'", '[[1,2],[3,4]]'],
      ['int4[]', "'[0:2]={7,8,9}'", '[7,8,9]'],
      ['int4[]', "'[-1:0][2:3]={{1,2},{3,4}}'", '[[1,2],[3,4]]'],
      ['int4[]', "'{{{1}},{{2}}}'", '[[[1]],[[2]]]'],
      ['int8[]', "'{9223372036854775807}'", '[9223372036854775807]'],
      ['float8[]', "'{NaN,1.5,-Infinity,-0}'", '["NaN",1.5,"-Infinity",-0]'],
      ['numeric[]', "'{1.10,NULL,NaN}'", '["1.10",null,"NaN"]'],
      ['bool[]', "'{t,f,NULL}'", '[true,false,null]'],
      [
        'text[]',
        `ARRAY['a', NULL, 'NULL', 'null', '', 'a,b', '{x}', 'q"q', 'b\\s', ' sp ', 'ä']`,
        '["a",null,"NULL","null","","a,b","{x}","q\\"q","b\\\\s"," sp ","ä"]',
      ],
      ['varchar(3)[]', "'{abc}'", '["abc"]'],
      ['char(3)[]', "'{a}'", '["a  "]'],
      ['timestamp[]', "'{2024-01-02 03:04:05.5,infinity}'", '["2024-01-02T03:04:05.500000","infinity"]'],
      ['timestamptz[]', "'{2024-01-02 03:04:05+00}'", '["2024-01-02T03:04:05.000000Z"]'],
      ['date[]', "'{2024-01-02,infinity}'", '["2024-01-02","infinity"]'],
      ['interval[]', "'{1 day,NULL}'", '[{"months":0,"days":1,"microseconds":0},null]'],
      ['json[]', `ARRAY[E'{"a":\n1}'::json]`, '[{"a": 1}]'],
      ['jsonb[]', `ARRAY['{"a": "x\\"y"}'::jsonb, NULL, '[1]'::jsonb]`, '[{"a": "x\\"y"},null,[1]]'],
      ['bytea[]', "ARRAY['\\x00ff'::bytea]", '["\\\\x00ff"]'],
      ['uuid[]', "'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'", '["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]'],
      ['box[]', "'{(1,1),(0,0);(3,3),(2,2)}'", '["(1,1),(0,0)","(3,3),(2,2)"]'],
      ['point[]', "ARRAY['(1,2)'::point]", '["(1,2)"]'],
      ['int4range[]', "ARRAY['[1,5)'::int4range, 'empty']", '["[1,5)","empty"]'],
      ['int4multirange[]', "ARRAY['{[1,2),[5,6)}'::int4multirange]", '["{[1,2),[5,6)}"]'],
      ['g.mood[]', `'{happy,"so ''so",NULL}'`, `["happy","so 'so",null]`],
      ['g.pair[]', "ARRAY[ROW(1, 'x,y')::g.pair, NULL]", '["(1,\\"x,y\\")",null]'],
      ['g.small[]', "'{7,NULL}'", '[7,null]'],
      ['g.numbers[]', "ARRAY['{1,2}'::g.numbers]", '[[1,2]]'],
      ['int2vector', "'1 2'", '"1 2"'],
      ['oidvector', "'1 2'", '"1 2"'],
    ],
  },
  {
    title: 'Types of your own',
    notes: [
      `An enum is its label. A domain is as its base type, at any depth. A composite is the text Postgres prints for it, as Sequin has it; so is a type that is not known, from an extension for instance.`,
      `The examples use:

\`\`\`sql
CREATE TYPE mood AS ENUM ('happy', 'so ''so', 'größer "1"');
CREATE TYPE pair AS (a int, b text);
CREATE TYPE nested AS (p pair, n int[], m mood);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN small AS positive CHECK (VALUE < 100);
CREATE DOMAIN numbers AS int[];
CREATE DOMAIN moment AS timestamp;
CREATE DOMAIN document AS jsonb;
CREATE DOMAIN moods AS mood[];
CREATE TYPE span AS RANGE (subtype = float8, multirange_type_name = spans);
CREATE TYPE words AS RANGE (subtype = text);
CREATE TYPE opaque; -- a base type with functions of its own
\`\`\``,
    ],
    values: [
      ['g.mood', "'happy'", '"happy"'],
      ['g.mood', "'so ''so'", `"so 'so"`],
      ['g.mood', `'größer "1"'`, '"größer \\"1\\""'],
      ['g.pair', `ROW(1, 'a "b"')`, '"(1,\\"a \\"\\"b\\"\\"\\")"'],
      ['g.pair', "ROW(NULL, '')", '"(,\\"\\")"'],
      ['g.nested', "ROW(ROW(1, 'x')::g.pair, '{1,2}', 'happy')", '"(\\"(1,x)\\",\\"{1,2}\\",happy)"'],
      ['g.positive', '7', '7'],
      ['g.small', '7', '7'],
      ['g.numbers', "'{1,2}'", '[1,2]'],
      ['g.moment', "'2024-01-02 03:04:05'", '"2024-01-02T03:04:05.000000"'],
      ['g.document', `'{"a": [1.50]}'`, '{"a": [1.50]}'],
      ['g.moods', "'{happy}'", '["happy"]'],
      ['g.span', "'[1.5,2.5]'", '"[1.5,2.5]"'],
      ['g.spans', "'{[1.5,2.5]}'", '"{[1.5,2.5]}"'],
      ['g.words', "'[a,b)'", '"[a,b)"'],
      ['g.opaque', "'any text'", '"any text"'],
    ],
  },
  {
    title: 'Ranges',
    notes: [
      `The text Postgres prints; discrete ranges in its canonical form \`[)\`. Bounds of time ranges are in UTC and in the notation of Postgres, without the \`T\`.`,
    ],
    values: [
      ['int4range', "'[1,5)'", '"[1,5)"'],
      ['int4range', "'(,5]'", '"(,6)"'],
      ['int4range', "'empty'", '"empty"'],
      ['int8range', "'[1,9007199254740993)'", '"[1,9007199254740993)"'],
      ['numrange', "'[1.50,NaN)'", '"[1.50,NaN)"'],
      ['numrange', "'(,)'", '"(,)"'],
      ['tsrange', "'[2024-01-01,2024-01-02)'", '"[\\"2024-01-01 00:00:00\\",\\"2024-01-02 00:00:00\\")"'],
      ['tstzrange', "'[2024-01-01 00:00+02,infinity)'", '"[\\"2023-12-31 22:00:00+00\\",infinity)"'],
      ['daterange', "'[2024-01-01,2024-01-02]'", '"[2024-01-01,2024-01-03)"'],
      ['int4multirange', "'{[1,2),[5,6)}'", '"{[1,2),[5,6)}"'],
      ['int4multirange', "'{}'", '"{}"'],
      ['nummultirange', "'{[1.0,2.0]}'", '"{[1.0,2.0]}"'],
      ['datemultirange', "'{[2024-01-01,2024-01-03)}'", '"{[2024-01-01,2024-01-03)}"'],
      ['tsmultirange', "'{[2024-01-01,2024-01-02)}'", '"{[\\"2024-01-01 00:00:00\\",\\"2024-01-02 00:00:00\\")}"'],
    ],
  },
  {
    title: 'Geometry',
    notes: [],
    values: [
      ['point', "'(1.5,2)'", '"(1.5,2)"'],
      ['point', "'(-0,1e300)'", '"(-0,1e+300)"'],
      ['line', "'{1,-1,0}'", '"{1,-1,0}"'],
      ['lseg', "'[(0,0),(1,1)]'", '"[(0,0),(1,1)]"'],
      ['box', "'(0,0),(1,1)'", '"(1,1),(0,0)"'],
      ['path', "'[(0,0),(1,1)]'", '"[(0,0),(1,1)]"'],
      ['path', "'((0,0),(1,1))'", '"((0,0),(1,1))"'],
      ['polygon', "'((0,0),(1,1),(1,0))'", '"((0,0),(1,1),(1,0))"'],
      ['circle', "'<(0,0),1.5>'", '"<(0,0),1.5>"'],
    ],
  },
  {
    title: 'Search',
    notes: [],
    values: [
      ['tsvector', "'a:1A b:2,3 ''c d'''::tsvector", `"'a':1A 'b':2,3 'c d'"`],
      ['tsvector', "''::tsvector", '""'],
      ['tsquery', "'a & !b <-> c:*'::tsquery", `"'a' & !'b' <-> 'c':*"`],
    ],
  },
  {
    title: 'System types',
    notes: [
      `\`oid\` is a number, the others are text. The names that \`reg...\` types print are qualified where the role's \`search_path\` does not find them; see [settings](#settings-of-the-database-do-not-matter).`,
    ],
    values: [
      ['oid', '4294967295', '4294967295'],
      ['xid', "'7'", '"7"'],
      ['xid8', "'18446744073709551615'", '"18446744073709551615"'],
      ['cid', "'7'", '"7"'],
      ['tid', "'(4,2)'", '"(4,2)"'],
      ['pg_lsn', "'FFFFFFFF/A'", '"FFFFFFFF/A"'],
      ['pg_snapshot', "'10:20:10,14,15'", '"10:20:10,14,15"'],
      ['txid_snapshot', "'10:20:10,14,15'", '"10:20:10,14,15"'],
      ['regclass', "'pg_catalog.pg_class'", '"pg_class"'],
      ['regclass', `'g."Odd"'`, '"g.\\"Odd\\""'],
      ['regclass', "'0'", '"-"'],
      ['regtype', "'g.mood'", '"g.mood"'],
      ['regtype', "'timestamptz'", '"timestamp with time zone"'],
      ['regproc', "'pg_catalog.now'", '"now"'],
      ['regprocedure', "'pg_catalog.abs(int4)'", '"abs(integer)"'],
      ['regoper', "'pg_catalog.||/'", '"||/"'],
      ['regoperator', "'pg_catalog.+(int4,int4)'", '"+(integer,integer)"'],
      ['regrole', "'pg_monitor'", '"pg_monitor"'],
      ['regnamespace', "'g'", '"g"'],
      ['regconfig', "'english'", '"english"'],
      ['regdictionary', "'simple'", '"simple"'],
      ['regcollation', `'"C"'`, '"\\"C\\""'],
      ['refcursor', "'cursor 1'", '"cursor 1"'],
      ['aclitem', "'pg_monitor=r/pg_monitor'", '"pg_monitor=r/pg_monitor"'],
    ],
  },
  {
    title: 'Extensions',
    notes: [
      `Text, as the extension prints it; a domain over a built-in type such as \`lo\` is as that type. \`vector\` of pgvector is an array of numbers: \`[1,-2.5,3e-07]\`. It is not in the Postgres of the tests, so for it a type of that name and notation stands in.`,
    ],
    values: [
      ['x.hstore', `'a=>1, b=>NULL, "c d"=>"e\\"f"'`, '"\\"a\\"=>\\"1\\", \\"b\\"=>NULL, \\"c d\\"=>\\"e\\\\\\"f\\""'],
      ['x.hstore', "''", '""'],
      ['x.ltree', "'Top.Science.Astronomy'", '"Top.Science.Astronomy"'],
      ['x.lquery', "'Top.*{1,2}'", '"Top.*{1,2}"'],
      ['x.citext', "'MiXed'", '"MiXed"'],
      ['x.citext[]', "'{A,NULL}'", '["A",null]'],
      ['x.cube', "'(1,2),(3,4)'", '"(1, 2),(3, 4)"'],
      ['x.seg', "'1.5 .. 2.50'", '"1.5 .. 2.50"'],
      ['x.ean13', "'9780306406157'", '"978-0-306-40615-7"'],
      ['x.isbn', "'0-306-40615-2'", '"0-306-40615-2"'],
      ['x.issn', "'1436-4522'", '"1436-4522"'],
      ['x.upc', "'220356483481'", '"220356483481"'],
      ['x.lo', '42', '42'],
      ['x.vector', "'[1,-2.5,3e-07]'", '[1,-2.5,3e-07]'],
      ['x.vector[]', "ARRAY['[1,2]'::x.vector]", '[[1,2]]'],
    ],
  },
];
