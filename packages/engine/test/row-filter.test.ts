/** Filters on undecoded bytes, held to what a real Postgres says of the same rows. */
import { compileFilter, NO, NOT_SENT, UNKNOWN, YES } from '@millrace/engine/decode/row-filter';
import type { ComparisonOperator, ConditionValue, RowCondition } from '@millrace/engine/decode/row-rules-config';
import { PgConnection, quoteLiteral } from '@millrace/postgres/connection';
import { RowReader } from '@millrace/postgres/pgoutput';
import type { TypeDescription } from '@millrace/postgres/value-json';
import { builtinType } from '@millrace/postgres/value-json';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { GOLDEN_SETUP, goldenValues } from '../../postgres/test/golden-types.ts';
import type { TableSchema } from '../src/table-schema.ts';
import { deleteMessage, insertMessage, tableSchema, updateMessage, type Value } from './row-messages.ts';

const seed = Number(process.env.MILLRACE_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));

let db: TestDatabase;
let sql: PgConnection;

beforeAll(async () => {
  db = await createDatabase();
  sql = await PgConnection.connect({ ...db.config, ssl: 'disable' });
  await sql.query(GOLDEN_SETUP);
});
afterAll(async () => {
  await sql?.close();
  await db?.drop();
});

const ALL: readonly ComparisonOperator[] = ['=', '!=', '<', '<=', '>', '>='];
const EQUALITY: readonly ComparisonOperator[] = ['=', '!='];

interface Kind {
  readonly sql: string;
  readonly type: TypeDescription;
  readonly operators: readonly ComparisonOperator[];
  /** Of the golden table's types. */
  readonly golden: RegExp;
  readonly random: (random: () => number) => string;
  /** Values that chance does not find. */
  readonly edges?: readonly string[];
}

const builtin = (oid: number) => builtinType(oid)!;
const pick = <T>(random: () => number, list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
const integer = (random: () => number, max: number) => String(Math.floor((random() * 2 - 1) * max));
const digits = (random: () => number, max: number) =>
  Array.from({ length: 1 + Math.floor(random() * max) }, () => Math.floor(random() * 10)).join('');
const words = (random: () => number) =>
  Array.from({ length: Math.floor(random() * 4) }, () =>
    pick(random, ['a', 'B', 'ä', '😀', ' ', '%', '\\', '"', 'z']),
  ).join('');
const two = (random: () => number, below: number, from = 0) =>
  String(from + Math.floor(random() * (below - from))).padStart(2, '0');
const date = (random: () => number) =>
  `${pick(random, ['2024-', '1969-', '1970-', '0001-', '9999-', '10001-', '1600-', '0044-BC', '4712-BC'])}`.replace(
    /-(BC)?$/,
    (_, era: string | undefined) => `-${two(random, 13, 1)}-${two(random, 29, 1)}${era === undefined ? '' : ' BC'}`,
  );
const time = (random: () => number) =>
  `${two(random, 24)}:${two(random, 60)}:${two(random, 60)}${pick(random, ['', '.5', '.000001', '.123450'])}`;
const moment = (random: () => number) => date(random).replace(/( BC)?$/, ` ${time(random)}$1`);

const mood: TypeDescription = { oid: 90_001, name: 'mood', schema: 'g', kind: 'enum' };
const domain = (base: TypeDescription): TypeDescription => ({
  oid: 90_002,
  name: 'd',
  schema: 'g',
  kind: 'domain',
  base,
});

const KINDS: readonly Kind[] = [
  { sql: 'bool', type: builtin(16), operators: ALL, golden: /^bool$/, random: (r) => pick(r, ['true', 'false']) },
  { sql: 'int2', type: builtin(21), operators: ALL, golden: /^int2$/, random: (r) => integer(r, 20) },
  { sql: 'int4', type: builtin(23), operators: ALL, golden: /^int4$/, random: (r) => integer(r, 2_000_000_000) },
  {
    ...{ sql: 'int8', type: builtin(20), operators: ALL, golden: /^int8$/ },
    random: (r) => pick(r, ['9007199254740992', '9007199254740993', '-9007199254740993', integer(r, 2 ** 62)]),
  },
  { sql: 'oid', type: builtin(26), operators: ALL, golden: /^oid$/, random: (r) => `1${digits(r, 8)}` },
  {
    ...{
      sql: 'numeric',
      type: builtin(1700),
      operators: ALL,
      golden: /^numeric/,
      edges: ['5', '5.00', '-5.0', '0', '-0', '0.000', '-0.00', '00.5', '.50'],
    },
    random: (r) => `${pick(r, ['', '-'])}${digits(r, 30)}${pick(r, ['', '.0', `.${digits(r, 20)}`, 'e-3', 'e12'])}`,
  },
  {
    // A text between two floats, a hair from their middle, is rounded twice here: as double, then as float.
    ...{ sql: 'float4', type: builtin(700), operators: ALL, golden: /^float4$/ },
    random: (r) => pick(r, [integer(r, 100), '0.1', '1e-40', '16777217', r().toFixed(8), (r() * 1e30).toPrecision(8)]),
  },
  {
    ...{ sql: 'float8', type: builtin(701), operators: ALL, golden: /^float8$/ },
    random: (r) => pick(r, [integer(r, 100), '0.1', '0.30000000000000004', '1e-310', String(r()), String(r() * 1e300)]),
  },
  { sql: 'text', type: builtin(25), operators: ALL, golden: /^text$/, random: words },
  { sql: 'varchar', type: builtin(1043), operators: ALL, golden: /^varchar/, random: words },
  { sql: 'bpchar', type: builtin(1042), operators: ALL, golden: /^(char\(|bpchar)/, random: (r) => `${words(r)}  ` },
  { sql: 'name', type: builtin(19), operators: ALL, golden: /^name$/, random: words },
  { sql: '"char"', type: builtin(18), operators: EQUALITY, golden: /^"char"$/, random: (r) => pick(r, ['a', 'b', '']) },
  {
    sql: 'g.mood',
    type: mood,
    operators: EQUALITY,
    golden: /^g\.mood$/,
    random: (r) => pick(r, ['happy', 'größer "1"']),
  },
  {
    sql: 'g.positive',
    type: domain(builtin(23)),
    operators: ALL,
    golden: /^g\.positive$/,
    random: (r) => `1${digits(r, 3)}`,
  },
  { sql: 'timestamp', type: builtin(1114), operators: ALL, golden: /^timestamp(\(\d\))?$/, random: moment },
  {
    ...{ sql: 'timestamptz', type: builtin(1184), operators: ALL, golden: /^timestamptz$/ },
    random: (r) => moment(r).replace(/( BC)?$/, `${pick(r, ['+00', '+05:30', '-12', '+01:02:03'])}$1`),
  },
  {
    sql: 'date',
    type: builtin(1082),
    operators: ALL,
    golden: /^date$/,
    random: date,
    edges: ['0001-02-29 BC', '0005-02-29 BC', '2000-02-29'],
  },
  { sql: 'time', type: builtin(1083), operators: ALL, golden: /^time(\(\d\))?$/, random: time },
  {
    ...{ sql: 'uuid', type: builtin(2950), operators: ALL, golden: /^uuid$/ },
    random: (r) => `A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A${pick(r, ['1', 'F', '0'])}${pick(r, ['1', 'F', '0'])}`,
  },
  {
    sql: 'bytea',
    type: builtin(17),
    operators: ALL,
    golden: /^bytea$/,
    random: (r) => `\\x${pick(r, ['', '00', 'fF', 'ff00', '5c'])}`,
  },
  {
    sql: 'varbit',
    type: builtin(1562),
    operators: ALL,
    golden: /^(var)?bit/,
    random: (r) => digits(r, 12).replace(/[^01]/g, '1'),
  },
  {
    sql: 'macaddr',
    type: builtin(829),
    operators: ALL,
    golden: /^macaddr$/,
    random: (r) => `08:00:2B:01:${two(r, 99)}:03`,
  },
  {
    sql: 'macaddr8',
    type: builtin(774),
    operators: ALL,
    golden: /^macaddr8$/,
    random: (r) => `08:00:2b:01:02:03:${two(r, 99)}:05`,
  },
];

/** Texts of the values of a query's only row, as a backfill reads them; null is NULL. */
async function rowsOf(query: string): Promise<(string | null)[][]> {
  const rows: (string | null)[][] = [];
  await sql.queryRows(query, (bytes, start, end) => {
    let at = start + 2;
    const row: (string | null)[] = [];
    while (at < end) {
      const size = bytes.readInt32BE(at);
      at += 4;
      row.push(size < 0 ? null : bytes.toString('utf8', at, at + Math.max(0, size)));
      at += Math.max(0, size);
    }
    rows.push(row);
  });
  return rows;
}

const row = new RowReader();

/** What the filter says of the new row. */
function answer(table: TableSchema, where: readonly RowCondition[], values: readonly Value[]): number {
  const bytes = insertMessage(table.oid, values);
  row.aim(bytes, 0, bytes.length);
  return compileFilter(table, where)!.values(bytes, row.newKinds, row.newStarts, row.newEnds, false, null);
}

test(`of every type a filter says what Postgres says, null and edges included (seed ${seed})`, async () => {
  const { next: random } = seededRandom(seed);
  const major = Math.trunc(sql.serverVersion / 10_000);
  let compared = 0;
  for (const kind of KINDS) {
    const collate = kind.type.name.match(/^(text|varchar|bpchar|name)$/) ? ' COLLATE "C"' : '';
    const golden = goldenValues(major).filter(([type]) => kind.golden.test(type) && !type.includes('['));
    expect(golden.length, kind.sql).toBeGreaterThan(0);
    const drawn = [...Array.from({ length: 12 }, () => kind.random(random)), ...(kind.edges ?? [])];
    const values = [
      ...golden.map(([, expression]) => `(${expression})::${kind.sql}`),
      ...drawn.map((text) => `${quoteLiteral(text)}::${kind.sql}`),
      `NULL::${kind.sql}`,
    ];
    // What stands in the configuration: as a person may write it, and as Postgres prints it.
    const printed = (
      await rowsOf(`SELECT v::text FROM (VALUES ${values.map((v) => `(${v})`).join(', ')}) AS t (v)`)
    ).flat();
    // Before version 16, "char" prints bytes that are no text by themselves, and cannot be written down.
    const texts = printed.filter((text): text is string => text !== null && !text.includes('\u{fffd}'));
    const literals = [...new Set([...drawn, ...texts])].slice(0, 40);
    const conditions = literals.flatMap((literal) => [
      ...kind.operators.map((operator) => ({ column: 'v', operator, value: literal })),
      { column: 'v', operator: 'in' as const, value: [literal, pick(random, literals), pick(random, literals)] },
      { column: 'v', operator: 'not in' as const, value: [literal, pick(random, literals)] },
    ]);
    const sqlOf = ({ operator, value }: (typeof conditions)[number]) => {
      const one = (text: string) => `${quoteLiteral(text)}::${kind.sql}`;
      const right = Array.isArray(value) ? `(${value.map(one).join(', ')})` : one(value as string);
      return `(v${collate} ${operator === '!=' ? '<>' : operator} ${right})`;
    };
    const table = tableSchema([['v', 25]], { columns: [{ name: 'v', type: kind.type }] });
    const filters = conditions.map((condition) => compileFilter(table, [condition])!);
    const all =
      await rowsOf(`SELECT v, v::text, array_to_string(ARRAY[${conditions.map(sqlOf).join(', ')}], ',', 'null')
      FROM (VALUES ${values.map((v) => `(${v})`).join(', ')}) AS t (v)`);
    for (const [value, , said] of all) {
      const bytes = insertMessage(table.oid, [value!]);
      row.aim(bytes, 0, bytes.length);
      said!.split(',').forEach((text, i) => {
        const found = filters[i]!.values(bytes, row.newKinds, row.newStarts, row.newEnds, false, null);
        const wanted = text === 'null' ? UNKNOWN : text === 't' ? YES : NO;
        if (found !== wanted)
          expect.fail(`${kind.sql} ${value} ${JSON.stringify(conditions[i])}: ${found}, Postgres: ${text}`);
        compared++;
      });
    }
  }
  expect(compared).toBeGreaterThan(10_000);
});

test(`several conditions are one WHERE (seed ${seed})`, async () => {
  const { next: random } = seededRandom(seed + 1);
  const kinds = KINDS.filter(({ sql: type }) =>
    ['int8', 'numeric', 'text', 'timestamptz', 'bool', 'uuid'].includes(type),
  );
  const table = tableSchema(
    kinds.map((_, i) => [`c${i}`, 25]),
    {
      columns: kinds.map(({ type }, i) => ({ name: `c${i}`, type })),
    },
  );
  const rows = Array.from({ length: 60 }, () => kinds.map((kind) => (random() < 0.15 ? null : kind.random(random))));
  const values = rows
    .map(
      (one) =>
        `(${one.map((text, i) => `${text === null ? 'NULL' : quoteLiteral(text)}::${kinds[i]!.sql}`).join(', ')})`,
    )
    .join(', ');
  const source = `(VALUES ${values}) AS t (${kinds.map((_, i) => `c${i}`).join(', ')})`;
  const printed = await rowsOf(`SELECT * FROM ${source}`);
  const wheres = Array.from({ length: 40 }, () =>
    Array.from({ length: 1 + Math.floor(random() * 3) }, () => {
      const i = Math.floor(random() * kinds.length);
      const operator = pick<ComparisonOperator>(random, [...ALL, 'is null', 'is not null']);
      const value = operator.startsWith('is') ? null : kinds[i]!.random(random);
      return { column: `c${i}`, operator, value, i };
    }),
  );
  const text = wheres.map((where) =>
    where
      .map(({ operator, value, i }) => {
        const left = kinds[i]!.sql === 'text' ? `c${i} COLLATE "C"` : `c${i}`;
        return value === null ? `${left} ${operator}` : `${left} ${operator} ${quoteLiteral(value)}::${kinds[i]!.sql}`;
      })
      .join(' AND '),
  );
  const said = await rowsOf(`SELECT ${text.map((where) => `(${where}) IS TRUE`).join(', ')} FROM ${source}`);
  printed.forEach((one, r) => {
    wheres.forEach((where, w) => {
      const passes = answer(table, where, one) === YES;
      if (passes !== (said[r]![w] === 't')) expect.fail(`${JSON.stringify(one)} WHERE ${text[w]}: ${passes}`);
    });
  });
  expect(said.flat().filter((one) => one === 't').length).toBeGreaterThan(20);
});

describe('what cannot be compared is refused by name, and what is in the configuration is not repeated', () => {
  const table = tableSchema([
    ['id', 23],
    ['doc', 3802],
    ['tags', 1009],
    ['at', 1114],
    ['day', 1082],
  ]);
  const cases: readonly [string, ComparisonOperator, ConditionValue | null][] = [
    ['gone', '=', 'secret'],
    ['id', '=', 'secret'],
    ['id', '=', '1e200000'],
    ['doc', '=', 'secret'],
    ['tags', '=', '{secret}'],
    ['at', '>', '2024-01-01T00:00:00Z'],
    ['at', '>', '2024-02-30'],
    ['day', '=', '2024-01-01 10:00:00'],
    ['id', '=', null],
  ];
  test.each(cases)('%s %s', (column, operator, value) => {
    expect(() => compileFilter(table, [{ column, operator, value }])).toThrow(
      expect.objectContaining({ code: 'rule_invalid', message: expect.not.stringContaining('secret') }),
    );
  });

  test('but whether it is null is known of every type', () => {
    expect(answer(table, [{ column: 'doc', operator: 'is null', value: null }], ['1', null, null, null, null])).toBe(
      YES,
    );
    expect(
      answer(table, [{ column: 'doc', operator: 'is null', value: null }], ['1', undefined, null, null, null]),
    ).toBe(NOT_SENT);
  });
});

describe('a change of columns', () => {
  const columns = [
    ['id', 23],
    ['price', 1700],
    ['body', 25],
  ] as const;
  const changes = (table: TableSchema, names: readonly string[], bytes: Buffer) => {
    row.aim(bytes, 0, bytes.length);
    const { newKinds, newStarts, newEnds, oldKind, oldKinds, oldStarts, oldEnds } = row;
    const filter = compileFilter(table, [{ changed: names }])!;
    // prettier-ignore
    return filter.changes(bytes, newKinds, newStarts, newEnds, oldKind, oldKind === 0x4b, oldKinds, oldStarts, oldEnds);
  };

  test('is exact under full replica identity, to null and from it as well', () => {
    const table = tableSchema(columns, { replicaIdentity: 'f', identity: ['id', 'price', 'body'] });
    const update = (now: readonly Value[], before: readonly Value[]) => updateMessage(table.oid, now, before, 'O');
    expect(changes(table, ['price'], update(['1', '2', 'x'], ['1', '3', 'x']))).toBe(YES);
    expect(changes(table, ['price'], update(['1', '2', 'x'], ['1', '2', 'y']))).toBe(NO);
    expect(changes(table, ['price', 'body'], update(['1', '2', 'x'], ['1', '2', 'y']))).toBe(YES);
    expect(changes(table, ['price'], update(['1', null, 'x'], ['1', '2', 'x']))).toBe(YES);
    expect(changes(table, ['price'], update(['1', '2', 'x'], ['1', null, 'x']))).toBe(YES);
    expect(changes(table, ['price'], update(['1', null, 'x'], ['1', null, 'y']))).toBe(NO);
    expect(changes(table, ['body'], update(['1', '2', undefined], ['1', '2', 'y']))).toBe(NO);
  });

  test('is known of the key and of large values that were not sent, and of nothing else, under the default', () => {
    const table = tableSchema(columns);
    expect(changes(table, ['id'], updateMessage(table.oid, ['1', '2', 'x']))).toBe(NO);
    expect(changes(table, ['id'], updateMessage(table.oid, ['1', '2', 'x'], ['9', null, null]))).toBe(YES);
    expect(changes(table, ['price'], updateMessage(table.oid, ['1', '2', 'x']))).toBe(NOT_SENT);
    expect(changes(table, ['price', 'id'], updateMessage(table.oid, ['1', '2', 'x'], ['9', null, null]))).toBe(YES);
    expect(changes(table, ['body'], updateMessage(table.oid, ['1', '2', undefined]))).toBe(NO);
  });

  test('a delete that sends the key alone has no other value, not even null', () => {
    const table = tableSchema(columns);
    const bytes = deleteMessage(table.oid, ['1', null, null]);
    row.aim(bytes, 0, bytes.length);
    const say = (where: readonly RowCondition[]) =>
      compileFilter(table, where)!.values(bytes, row.oldKinds, row.oldStarts, row.oldEnds, true, null);
    expect(say([{ column: 'price', operator: 'is null', value: null }])).toBe(NOT_SENT);
    expect(say([{ column: 'id', operator: '=', value: 1 }])).toBe(YES);
    expect(
      say([
        { column: 'price', operator: '>', value: 1 },
        { column: 'id', operator: '=', value: 2 },
      ]),
    ).toBe(NO);
  });
});
