/**
 * Values of every kind, from a real Postgres, by both ways a row can come: selected (backfill) and streamed. Both must
 * give the bytes of the table below (I10).
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { describeTypes } from '../src/catalog.ts';
import { PgConnection, quoteLiteral } from '../src/connection.ts';
import { decodeRelation, INSERT, RELATION, type Relation, RowReader, VALUE_NULL } from '../src/pgoutput.ts';
import { createSlot, dropSlot, startReplication } from '../src/replication.ts';
import { builtinType, codecOf, writeJson } from '../src/value-json.ts';

/** [type, SQL expression, JSON] */
const golden: readonly (readonly [string, string, string])[] = [
  ['bool', 'true', 'true'],
  ['bool', 'false', 'false'],
  ['int2', '-32768', '-32768'],
  ['int4', '0', '0'],
  ['int8', '9223372036854775807', '9223372036854775807'],
  ['int8', '-9223372036854775808', '-9223372036854775808'],
  ['oid', '4294967295', '4294967295'],
  ['float4', '1.1', '1.1'],
  ['float8', '0.1', '0.1'],
  ['float8', "'-0'", '-0'],
  ['float8', '1e300', '1e+300'],
  ['float8', '5e-324', '5e-324'],
  ['float8', "'NaN'", '"NaN"'],
  ['float8', "'Infinity'", '"Infinity"'],
  ['float8', "'-Infinity'", '"-Infinity"'],
  ['float4', "'NaN'", '"NaN"'],
  ['numeric', '5.990', '"5.990"'],
  ['numeric', "'NaN'", '"NaN"'],
  ['numeric(10,2)', '8.99', '"8.99"'],
  ['numeric', "'-0.000000000000000000001'", '"-0.000000000000000000001"'],
  ['numeric', '1e40', `"1${'0'.repeat(40)}"`],
  ['text', `'a "b" \\ / \n\t' || chr(1) || 'ä😀'`, '"a \\"b\\" \\\\ / \\n\\t\\u0001ä😀"'],
  ['text', "''", '""'],
  ['varchar(10)', "'x'", '"x"'],
  ['char(4)', "'ab'", '"ab  "'],
  ['"char"', "'q'", '"q"'],
  ['name', "'n'", '"n"'],
  ['bytea', "'\\x00ff10'", '"\\\\x00ff10"'],
  ['bytea', "''", '"\\\\x"'],
  ['uuid', "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'],
  ['date', "'2024-02-29'", '"2024-02-29"'],
  ['date', "'infinity'", '"infinity"'],
  ['date', "'0044-03-15 BC'", '"0044-03-15 BC"'],
  ['time', "'04:05:06.789'", '"04:05:06.789"'],
  ['time', "'24:00:00'", '"24:00:00"'],
  ['timetz', "'04:05:06.789012+05:30'", '"04:05:06.789012+05:30"'],
  ['timestamp', "'2024-01-02 03:04:05.5'", '"2024-01-02T03:04:05.500000"'],
  ['timestamp', "'2024-01-02 03:04:05'", '"2024-01-02T03:04:05.000000"'],
  ['timestamp', "'2024-01-02 03:04:05.123456'", '"2024-01-02T03:04:05.123456"'],
  ['timestamp', "'infinity'", '"infinity"'],
  ['timestamp', "'-infinity'", '"-infinity"'],
  ['timestamp', "'0044-03-15 12:00:00 BC'", '"0044-03-15 12:00:00 BC"'],
  ['timestamp', "'10000-01-01 00:00:00'", '"10000-01-01 00:00:00"'],
  ['timestamptz', "'2024-01-02 03:04:05.25+02'", '"2024-01-02T01:04:05.250000Z"'],
  ['timestamptz', "'1883-01-01 00:00:00+00'", '"1883-01-01T00:00:00.000000Z"'],
  ['timestamptz', "'infinity'", '"infinity"'],
  ['interval', "'1 year 2 mons 3 days 04:05:06.789'", '{"months":14,"days":3,"microseconds":14706789000}'],
  ['interval', "'-1 year -2 mons +3 days -04:05:06.789'", '{"months":-14,"days":3,"microseconds":-14706789000}'],
  ['interval', "'0'", '{"months":0,"days":0,"microseconds":0}'],
  ['interval', "'100 hours'", '{"months":0,"days":0,"microseconds":360000000000}'],
  ['interval', "'-123456:00:00.000001'", '{"months":0,"days":0,"microseconds":-444441600000001}'],
  ['interval', "'9223372036854775807 microseconds'", '{"months":0,"days":0,"microseconds":9223372036854775807}'],
  ['interval', "'1 day -1 microsecond'", '{"months":0,"days":1,"microseconds":-1}'],
  ['interval', "'178000000 years'", '{"months":2136000000,"days":0,"microseconds":0}'],
  [
    'json',
    `'{"a" :\n\t[1, 2.50], "a": null, "s": "\\u00e4 \\n"}'`,
    '{"a" :  [1, 2.50], "a": null, "s": "\\u00e4 \\n"}',
  ],
  ['jsonb', `'{"b": [1,2.50,"x\\ny"], "a": {}}'`, '{"a": {}, "b": [1, 2.50, "x\\ny"]}'],
  ['jsonb', "'null'", 'null'],
  ['jsonb', `'"text"'`, '"text"'],
  ['int4[]', "'{1,NULL,-3}'", '[1,null,-3]'],
  ['int4[]', "'{}'", '[]'],
  ['int4[]', "'{{1,2},{3,4}}'", '[[1,2],[3,4]]'],
  ['int4[]', "'[0:2]={7,8,9}'", '[7,8,9]'],
  ['int4[]', "'[-1:0][2:3]={{1,2},{3,4}}'", '[[1,2],[3,4]]'],
  ['int8[]', "'{9223372036854775807}'", '[9223372036854775807]'],
  ['float8[]', "'{NaN,1.5,-Infinity}'", '["NaN",1.5,"-Infinity"]'],
  ['numeric[]', "'{1.10,NULL}'", '["1.10",null]'],
  ['bool[]', "'{t,f,NULL}'", '[true,false,null]'],
  [
    'text[]',
    `ARRAY['a', NULL, 'NULL', 'null', '', 'a,b', '{x}', 'q"q', 'b\\s', ' sp ', 'ä']`,
    '["a",null,"NULL","null","","a,b","{x}","q\\"q","b\\\\s"," sp ","ä"]',
  ],
  ['timestamp[]', "'{2024-01-02 03:04:05.5,infinity}'", '["2024-01-02T03:04:05.500000","infinity"]'],
  ['timestamptz[]', "'{2024-01-02 03:04:05+00}'", '["2024-01-02T03:04:05.000000Z"]'],
  ['interval[]', "'{1 day,NULL}'", '[{"months":0,"days":1,"microseconds":0},null]'],
  ['jsonb[]', `ARRAY['{"a": "x\\"y"}'::jsonb, NULL, '[1]'::jsonb]`, '[{"a": "x\\"y"},null,[1]]'],
  ['json[]', `ARRAY[E'{"a":\n1}'::json]`, '[{"a": 1}]'],
  ['bytea[]', "ARRAY['\\x00ff'::bytea]", '["\\\\x00ff"]'],
  ['box[]', "'{(1,1),(0,0);(3,3),(2,2)}'", '["(1,1),(0,0)","(3,3),(2,2)"]'],
  ['point[]', "ARRAY['(1,2)'::point]", '["(1,2)"]'],
  ['uuid[]', "'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'", '["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]'],
  ['g.mood', "'so ''so'", '"so \'so"'],
  ['g.mood[]', `'{happy,"so ''so",NULL}'`, '["happy","so \'so",null]'],
  ['g.pair', `ROW(1, 'a "b"')`, '"(1,\\"a \\"\\"b\\"\\"\\")"'],
  ['g.pair[]', `ARRAY[ROW(1, 'x')::g.pair]`, '["(1,x)"]'],
  ['g.positive', '7', '7'],
  ['g.small', '7', '7'],
  ['g.small[]', "'{7,NULL}'", '[7,null]'],
  ['g.numbers', "'{1,2}'", '[1,2]'],
  ['g.numbers[]', `ARRAY['{1,2}'::g.numbers]`, '[[1,2]]'],
  ['g.moment', "'2024-01-02 03:04:05'", '"2024-01-02T03:04:05.000000"'],
  ['int4range', "'[1,5)'", '"[1,5)"'],
  ['tsrange', "'[2024-01-01,2024-01-02)'", '"[\\"2024-01-01 00:00:00\\",\\"2024-01-02 00:00:00\\")"'],
  ['int4multirange', "'{[1,2),[5,6)}'", '"{[1,2),[5,6)}"'],
  ['int4range[]', "ARRAY['[1,5)'::int4range]", '["[1,5)"]'],
  ['bit(3)', "B'101'", '"101"'],
  ['varbit', "B'1'", '"1"'],
  ['inet', "'192.168.0.1/24'", '"192.168.0.1/24"'],
  ['cidr', "'10.0.0.0/8'", '"10.0.0.0/8"'],
  ['macaddr', "'08:00:2b:01:02:03'", '"08:00:2b:01:02:03"'],
  ['xml', "'<a>1</a>'", '"<a>1</a>"'],
  ['tsvector', "'a:1 b:2'::tsvector", "\"'a':1 'b':2\""],
  ['point', "'(1.5,2)'", '"(1.5,2)"'],
  ['path', "'[(0,0),(1,1)]'", '"[(0,0),(1,1)]"'],
  ['int2vector', "'1 2'", '"1 2"'],
  ['oidvector', "'1 2'", '"1 2"'],
  ['money', '12.34::numeric', '"$12.34"'],
  ['regclass', "'pg_catalog.pg_class'", '"pg_class"'],
  ['pg_lsn', "'F/A'", '"F/A"'],
  ['xid8', "'5'", '"5"'],
  ['text', 'NULL', 'null'],
];

let database: TestDatabase;
let sql: PgConnection;

beforeAll(async () => {
  database = await createDatabase();
  sql = await PgConnection.connect({ ...database.config, ssl: 'disable' });
  await sql.query(`
    SET lc_monetary = 'C';
    CREATE SCHEMA g;
    CREATE TYPE g.mood AS ENUM ('happy', 'so ''so');
    CREATE TYPE g.pair AS (a int, b text);
    CREATE DOMAIN g.positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN g.small AS g.positive CHECK (VALUE < 100);
    CREATE DOMAIN g.numbers AS int[];
    CREATE DOMAIN g.moment AS timestamp`);
});

afterAll(async () => {
  await sql?.close();
  await database?.drop();
});

/** What a DataRow gives, column by column. */
async function selected(query: string): Promise<string[]> {
  const rows: Buffer[] = [];
  const { columns } = await sql.queryRows(query, (bytes, start, end) =>
    rows.push(Buffer.from(bytes.subarray(start, end))),
  );
  const types = await describeTypes(
    sql,
    columns.map((column) => column.typeOid),
  );
  const out = new ByteWriter();
  return rows.flatMap((row) => {
    let at = 2;
    return columns.map((column) => {
      const size = row.readInt32BE(at);
      at += 4;
      if (size < 0) return 'null';
      out.rewind(0);
      writeJson(out, codecOf(types.get(column.typeOid)!), row, at, at + size);
      at += size;
      return out.view().toString();
    });
  });
}

test('selected and streamed values give the same JSON, that of the golden table', async () => {
  await sql.query(`
    CREATE TABLE g.golden (${golden.map(([type], i) => `c${i} ${type}`).join(', ')});
    CREATE PUBLICATION golden FOR TABLE g.golden`);
  const connection = await PgConnection.connect({ ...database.config, ssl: 'disable', replication: true });
  const slot = `golden_${database.name}`;
  await createSlot(connection, slot);
  await sql.query(
    `INSERT INTO g.golden VALUES (${golden.map(([type, value]) => `CAST(${value} AS ${type})`).join(', ')})`,
  );

  const expected = golden.map(([type, value, json]) => `${type} ${value} ${json}`);
  const label = (json: readonly string[]) => json.map((text, i) => `${golden[i]![0]} ${golden[i]![1]} ${text}`);
  const fromSelect = await selected('SELECT * FROM g.golden');
  expect(label(fromSelect)).toEqual(expected);
  for (const [i, text] of fromSelect.entries()) {
    expect(() => JSON.parse(text), golden[i]![1]).not.toThrow();
    expect(text).not.toMatch(/[\n\r]/);
  }

  const fromStream = await new Promise<{ relation: Relation; values: (Buffer | null)[] }>((resolve, reject) => {
    let relation: Relation;
    const reader = new RowReader();
    startReplication(
      connection,
      { slot, publications: ['golden'], startLsn: 0n },
      {
        message(buffer, start, end) {
          if (buffer[start] === RELATION) relation = decodeRelation(buffer, start, end);
          if (buffer[start] !== INSERT) return;
          reader.aim(buffer, start, end);
          const values = relation.columns.map((_, i) =>
            reader.newKinds[i] === VALUE_NULL
              ? null
              : Buffer.from(buffer.subarray(reader.newStarts[i], reader.newEnds[i])),
          );
          resolve({ relation, values });
        },
        keepalive() {},
        burst() {},
        closed: reject,
      },
    ).catch(reject);
  });
  const types = await describeTypes(
    sql,
    fromStream.relation.columns.map((column) => column.typeOid),
  );
  const out = new ByteWriter();
  const streamed = fromStream.values.map((bytes, i) => {
    if (bytes === null) return 'null';
    out.rewind(0);
    writeJson(out, codecOf(types.get(fromStream.relation.columns[i]!.typeOid)!), bytes, 0, bytes.length);
    return out.view().toString();
  });
  expect(label(streamed)).toEqual(expected);
  await connection.close();
  await dropSlot(sql, slot, { wait: true });
});

test('arrays of any strings, of one to three dimensions, come through Postgres unharmed', async () => {
  const text = fc.oneof(
    fc.constant(null),
    fc.constantFrom('', 'NULL', '{', '}', '"', '\\', ',', '{}', ' ', '\n', ';'),
    fc.string({ unit: 'binary', maxLength: 8 }).map((value) => value.replaceAll('\0', '')),
  );
  const row = fc.array(text, { minLength: 1, maxLength: 4 });
  const cell = (value: string | null) => (value === null ? 'NULL' : quoteLiteral(value));
  const grid = fc.tuple(text, text, text, text).map(([a, b, c, d]) => [
    [a, b],
    [c, d],
  ]);
  const literal = (value: unknown): string =>
    Array.isArray(value) ? `ARRAY[${value.map(literal).join(', ')}]` : cell(value as string | null);
  const arrays = fc.array(fc.oneof(row, grid, fc.tuple(grid, grid)), { minLength: 1, maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(arrays, async (values) => {
      const found = await selected(values.map((value) => `SELECT ${literal(value)}::text[]`).join(' UNION ALL '));
      expect(found.map((json) => JSON.parse(json))).toEqual(values);
    }),
    { numRuns: 25 },
  );
});

test('intervals of any size come through Postgres unharmed', async () => {
  const interval = fc.record({
    months: fc.integer({ min: -2_000_000_000, max: 2_000_000_000 }),
    days: fc.integer({ min: -2_147_483_647, max: 2_147_483_647 }),
    microseconds: fc.oneof(
      fc.bigInt({ min: -9_223_372_036_854_775_807n, max: 9_223_372_036_854_775_807n }),
      fc.bigInt({ min: -5_000_000n, max: 5_000_000n }),
    ),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(interval, { minLength: 1, maxLength: 60 }), async (values) => {
      const found = await selected(
        values
          .map(
            ({ months, days, microseconds }) =>
              `SELECT '${months} mons ${days} days'::interval + '${microseconds} microseconds'::interval`,
          )
          .join(' UNION ALL '),
      );
      expect(found).toEqual(
        values.map(
          ({ months, days, microseconds }) => `{"months":${months},"days":${days},"microseconds":${microseconds}}`,
        ),
      );
    }),
    { numRuns: 25 },
  );
});

test('numbers keep every digit', async () => {
  const number = fc.oneof(fc.double({ noNaN: true, noDefaultInfinity: true }), fc.maxSafeInteger());
  await fc.assert(
    fc.asyncProperty(fc.array(number, { minLength: 1, maxLength: 60 }), async (values) => {
      const found = await selected(values.map((value) => `SELECT '${value}'::float8`).join(' UNION ALL '));
      expect(found.map((json) => JSON.parse(json))).toEqual(values);
    }),
    { numRuns: 20 },
  );
});

test('the table of built-in types is that of the server', async () => {
  const { rows } = await sql.query(`
    SELECT p.oid, p.typname, p.typdelim,
           CASE WHEN typinput = 'pg_catalog.array_in'::regproc THEN typelem ELSE 0 END
      FROM pg_type AS p WHERE p.oid < 10000`);
  let known = 0;
  for (const [oid, name, delimiter, element] of rows) {
    const type = builtinType(Number(oid));
    // Whose element is known is known itself.
    if (element !== '0' && builtinType(Number(element)) !== null) expect(type?.name).toBe(name);
    if (type === null) continue;
    known++;
    expect([type.name, type.delimiter ?? ',', type.element?.oid ?? 0]).toEqual([name, delimiter, Number(element)]);
  }
  expect(known).toBeGreaterThan(130);
});
