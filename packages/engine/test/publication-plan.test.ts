/** Which rules go into a publication, and that Postgres takes the SQL; and what is said of rules that fit no table. */
import { NO_COLUMN_RULES, NO_RULES, type RowRulesConfig } from '@millrace/engine/decode/row-rules-config';
import { alterPublicationSql, type PlannedPublication, planPublication } from '@millrace/engine/publication-plan';
import { readPublication } from '@millrace/engine/rows/published-tables';
import { ruleFindings } from '@millrace/engine/rule-findings';
import { PgConnection } from '@millrace/postgres/connection';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { chosenMajor } from '@millrace/testkit/postgres-majors';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { tableSchema } from './row-messages.ts';

let db: TestDatabase;
let sql: PgConnection;
beforeAll(async () => {
  db = await createDatabase();
  sql = await PgConnection.connect({ ...db.config, ssl: 'disable' });
  await sql.query(`CREATE TABLE "Orders" (id int PRIMARY KEY, tenant text, at timestamptz, "note's" text);
    CREATE TABLE other (id int PRIMARY KEY, extra text);
    CREATE PUBLICATION pushed FOR TABLE "Orders", other`);
});
afterAll(async () => {
  await sql?.close();
  await db?.drop();
});

const ALL = { insert: true, update: true, delete: true };
const publication = (more: Partial<PlannedPublication> = {}): PlannedPublication => ({
  ...{ name: 'pushed', allTables: false, schemas: false, publishes: ALL, serverVersion: 170_000 },
  ...{ standby: false, keepsRows: false },
  ...more,
});
const sink = (name: string, rules: Partial<RowRulesConfig>) => ({
  name,
  rules: { ...NO_RULES, pushDown: true, ...rules },
  schemaChanges: false,
  takes: (_schema: string, table: string) => table === 'Orders',
});
const where = [
  { column: 'tenant', operator: 'in' as const, value: ["o'neil", 'b'] },
  { column: 'at', operator: '>=' as const, value: '2024-01-01T00:00:00Z' },
];
const include = (...columns: string[]) => ({ ...NO_COLUMN_RULES, include: columns });

test.skipIf(chosenMajor() < 15)(
  'Postgres takes the SQL of the plan, and publishes what the sinks show, filter and need as key',
  async () => {
    const { tables } = await readPublication(sql, 'pushed');
    const sinks = [sink('a', { columns: include("note's"), where }), sink('b', { columns: include('at'), where })];
    const inserts = publication({ publishes: { insert: true, update: false, delete: false } });
    const plan = planPublication(inserts, tables, sinks);
    await sql.query(alterPublicationSql('pushed', plan.tables));
    const after = await readPublication(sql, 'pushed');
    const orders = after.tables.find(({ schema }) => schema.name === 'Orders')!;
    const other = after.tables.find(({ schema }) => schema.name === 'other')!;
    expect(orders.schema.columns.map(({ name }) => name)).toEqual(['id', 'tenant', 'at', "note's"]);
    expect(orders.rowFilter).toContain('tenant');
    expect([other.rowFilter, other.schema.columns.length]).toEqual([null, 2]);
    // What it published is what it would publish again.
    expect(planPublication(inserts, after.tables, sinks).tables[0]!.where).toContain('tenant');

    const fewer = planPublication(publication(), tables, [
      sink('a', { columns: include('at'), where: where.slice(1) }),
    ]);
    expect(fewer.tables.find(({ name }) => name === 'Orders')).toMatchObject({ columns: ['id', 'at'], where: null });
    await sql.query(alterPublicationSql('pushed', fewer.tables));
    const list = (await readPublication(sql, 'pushed')).tables.find(({ schema }) => schema.name === 'Orders')!;
    expect(list.schema.columns.map(({ name }) => name)).toEqual(['id', 'at']);
    expect(list.rowFilter).toBeNull();
    await sql.query('INSERT INTO "Orders" VALUES (1); UPDATE "Orders" SET tenant = \'x\'; DELETE FROM "Orders"');
  },
);

describe('nothing goes into the publication', () => {
  const orders = tableSchema([
    ['id', 23],
    ['tenant', 25],
    ['doc', 3802],
  ]);
  const tables = [{ schema: orders, own: { schema: 'public', name: 't' } }];
  const asking = { ...sink('a', { columns: include('id') }), takes: () => true };
  const refusals: readonly [string, Partial<PlannedPublication>, Partial<RowRulesConfig>][] = [
    ['of a server before 15', { serverVersion: 149_999 }, {}],
    ['FOR ALL TABLES', { allTables: true }, {}],
    ['of whole schemas', { schemas: true }, {}],
    ['of a standby', { standby: true }, {}],
    ['where whole rows are kept', { keepsRows: true }, {}],
    ['where a sink of the database does not ask for it', {}, { pushDown: false }],
    ['where a sink delivers changes of schemas', {}, {}],
  ];
  test.each(refusals)('%s', (title, facts, rules) => {
    const schemaChanges = title.includes('changes of schemas');
    expect(planPublication(publication(), tables, [asking]).tables[0]!.columns).toEqual(['id']);
    const plan = planPublication(publication(facts), tables, [
      asking,
      { ...asking, name: 'b', rules: { ...asking.rules, ...rules }, schemaChanges },
    ]);
    expect(plan).toMatchObject({ tables: [], refused: expect.any(String) });
  });

  const tableRefusals: readonly [string, Partial<RowRulesConfig>, object?, Partial<PlannedPublication>?][] = [
    ['where a sink takes all columns', {}],
    [
      'where a sink excludes: a column that is added later would be missing',
      { columns: { ...NO_COLUMN_RULES, exclude: ['doc'] } },
    ],
    ['where a sink includes a column that is not there yet', { columns: include('id', 'later') }],
    [
      'under full replica identity',
      { columns: include('id') },
      { replicaIdentity: 'f', identity: ['id', 'tenant', 'doc'] },
    ],
    ['of a row filter where updates are published', { where: where.slice(0, 1) }],
    [
      'of a row filter on a type that has no comparison',
      { where: [{ column: 'doc', operator: '=', value: '{}' }] },
      {},
      { publishes: { insert: true, update: false, delete: false } },
    ],
  ];
  test.each(tableRefusals)('%s', (_, rules, shape = {}, facts = {}) => {
    const one = [{ ...tables[0]!, schema: { ...orders, ...shape } }];
    const plan = planPublication(publication(facts), one, [{ ...sink('a', rules), takes: () => true }]);
    expect(plan).toMatchObject({ refused: null, tables: [{ columns: null, where: null }] });
    expect(plan.tables[0]!.reasons.length).toBeGreaterThan(0);
  });
});

describe('the preflight check says of rules', () => {
  const table = tableSchema([
    ['id', 23],
    ['price', 1700],
  ]);
  const full = { ...table, replicaIdentity: 'f' as const, identity: ['id', 'price'] };
  const slugs = (rules: Partial<RowRulesConfig>, tables = [table], actions = { update: true, delete: true }) =>
    ruleFindings({ name: 'shop', rules: { ...NO_RULES, hashKey: 'shop', ...rules }, actions }, tables).map(
      ({ slug }) => slug,
    );
  const own = (more: object) => ({
    tables: [{ schema: 'public', name: 't', groupColumns: null, where: [], columns: NO_COLUMN_RULES, ...more }],
  });
  const price = [{ column: 'price', operator: '>' as const, value: 1 }];

  test('that they are fine', () => {
    expect(
      slugs({ where: [{ column: 'id', operator: '=', value: 1 }], columns: { ...NO_COLUMN_RULES, mask: ['price'] } }),
    ).toEqual([]);
    expect(slugs({ where: price }, [full])).toEqual([]);
    expect(slugs({ where: price }, [table], { update: true, delete: false })).toEqual([]);
  });

  test('that they name what is not there', () => {
    expect(slugs({ columns: { ...NO_COLUMN_RULES, mask: ['prize'] } })).toEqual(['rule_column_missing']);
    expect(slugs({ where: [{ column: 'prize', operator: '=', value: 1 }] }, [full])).toEqual(['rule_invalid']);
    expect(slugs(own({ columns: { ...NO_COLUMN_RULES, hash: ['prize'] }, hashKey: 'x' }), [full])).toContain(
      'rule_invalid',
    );
    expect(slugs(own({ name: 'gone', where: price }), [full])).toEqual(['rule_table_missing']);
  });

  test('that Postgres does not send what they look at, and that a hash can be guessed', () => {
    expect(slugs({ where: price })).toEqual(['filter_needs_full_identity']);
    expect(slugs({ where: [{ changed: ['price'] }] })).toEqual(['filter_needs_full_identity']);
    expect(slugs(own({ groupColumns: ['price'] }))).toEqual(['group_needs_full_identity']);
    expect(slugs({ columns: { ...NO_COLUMN_RULES, hash: ['price'] } })).toEqual(['hash_key_missing']);
    expect(slugs({ columns: { ...NO_COLUMN_RULES, hash: ['price'] }, hashKey: 'secret' })).toEqual([]);
  });
});
