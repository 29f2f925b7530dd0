import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  createPublication,
  currentUserRights,
  describeTable,
  describeTableByName,
  describeTypes,
  listPublishedTables,
  readPublication,
} from '../src/catalog.ts';
import { type ConnectionConfig, PgConnection } from '../src/connection.ts';

let database: TestDatabase;
let config: ConnectionConfig;
let sql: PgConnection;
let role: string;

beforeAll(async () => {
  database = await createDatabase();
  role = `plain_${database.name}`;
  config = { ...database.config, ssl: 'disable' };
  sql = await PgConnection.connect(config);
  // A hostile search_path: the catalog's own names must be found all the same.
  await sql.query(`
    CREATE SCHEMA "s ""x""";
    CREATE ROLE ${role} LOGIN PASSWORD 'x';
    GRANT CREATE ON DATABASE ${database.name} TO ${role};
    CREATE TYPE "s ""x""".mood AS ENUM ('happy');
    CREATE DOMAIN "s ""x""".positive AS int;
    CREATE DOMAIN "s ""x""".small AS "s ""x""".positive;
    CREATE TYPE "s ""x""".pair AS (a int, b "s ""x""".mood);
    CREATE TABLE "s ""x"""."T's" (
      b int, dropped text, a "s ""x""".small[] NOT NULL, c varchar(10), d "s ""x""".mood, e "s ""x""".pair[],
      g int GENERATED ALWAYS AS (b * 2) STORED, h box[], PRIMARY KEY (c, b) INCLUDE (a));
    ALTER TABLE "s ""x"""."T's" DROP COLUMN dropped;
    ALTER TABLE "s ""x"""."T's" REPLICA IDENTITY FULL;
    CREATE TABLE root (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE middle PARTITION OF root FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY RANGE (at);
    CREATE TABLE leaf PARTITION OF middle FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
    CREATE TABLE keyless (a int);
    CREATE TABLE parent (a int); CREATE TABLE child () INHERITS (parent);
    CREATE VIEW v AS SELECT 1 AS one`);
});

afterAll(async () => {
  await sql?.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  await sql?.close();
  await database?.drop();
});

describe('tables', () => {
  test('are described with their columns, types and key in key order', async () => {
    const table = (await describeTableByName(sql, 's "x"', "T's"))!;
    expect(table).toMatchObject({
      schema: 's "x"',
      name: "T's",
      kind: 'table',
      replicaIdentity: 'f',
      primaryKey: ['c', 'b'],
    });
    expect(table.root).toEqual({ oid: table.oid, schema: table.schema, name: table.name });
    expect(table.columns.map(({ name, number, notNull, generated }) => [name, number, notNull, generated])).toEqual([
      ['b', 1, true, false],
      ['a', 3, true, false],
      ['c', 4, true, false],
      ['d', 5, false, false],
      ['e', 6, false, false],
      ['g', 7, false, true],
      ['h', 8, false, false],
    ]);
    const types = Object.fromEntries(table.columns.map((column) => [column.name, column.type]));
    expect(types.a!.element).toMatchObject({
      name: 'small',
      kind: 'domain',
      base: { name: 'positive', base: { name: 'int4', oid: 23 } },
    });
    expect(types.d).toMatchObject({ name: 'mood', schema: 's "x"', kind: 'enum' });
    expect(types.e!.element).toMatchObject({ name: 'pair', kind: 'composite' });
    expect(types.h).toMatchObject({ name: '_box', delimiter: ';' });
    expect(table.columns[2]!.typmod).toBe(14);
    expect(await describeTable(sql, table.oid)).toEqual(table);
  });

  test('that are partitions point to the topmost table', async () => {
    const leaf = (await describeTableByName(sql, 'public', 'leaf'))!;
    expect([leaf.kind, leaf.root.name, leaf.primaryKey]).toEqual(['table', 'root', ['id', 'at']]);
    expect((await describeTableByName(sql, 'public', 'middle'))!.root.name).toBe('root');
    expect((await describeTableByName(sql, 'public', 'root'))!.kind).toBe('partitioned');
    expect((await describeTableByName(sql, 'public', 'child'))!.root.name).toBe('child');
  });

  test('without a key, views and missing tables are told apart', async () => {
    expect((await describeTableByName(sql, 'public', 'keyless'))!.primaryKey).toEqual([]);
    expect((await describeTableByName(sql, 'public', 'v'))!.kind).toBe('view');
    expect(await describeTableByName(sql, 'public', 'nothing')).toBeNull();
    expect(await describeTable(sql, 1)).toBeNull();
  });
});

test('an OID that the catalog does not know is missing from the described types', async () => {
  const types = await describeTypes(sql, [23, 1007, 4_000_000_000]);
  expect([...types.keys()].sort()).toEqual([1007, 23]);
});

describe('publications', () => {
  test('are created for tables, listed and read', async () => {
    await createPublication(sql, 'some "p"', [
      { schema: 's "x"', name: "T's" },
      { schema: 'public', name: 'root' },
    ]);
    expect((await listPublishedTables(sql, 'some "p"')).map(({ schema, name }) => [schema, name])).toEqual([
      ['public', 'root'],
      ['s "x"', "T's"],
    ]);
    expect(await readPublication(sql, 'some "p"')).toEqual({
      name: 'some "p"',
      owner: config.user,
      allTables: false,
      insert: true,
      update: true,
      delete: true,
      truncate: true,
      viaPartitionRoot: true,
    });
    expect(await readPublication(sql, 'none')).toBeNull();
  });

  test('for all tables need a superuser, for some their owner; the SQL to run is said', async () => {
    await createPublication(sql, 'everything', null);
    expect(await readPublication(sql, 'everything')).toMatchObject({ allTables: true });
    const plain = await PgConnection.connect({ ...config, user: role, password: 'x' });
    const all = await createPublication(plain, 'p', null).catch((reason: unknown) => reason);
    expect(all).toMatchObject({
      code: 'pg_privilege',
      hint: expect.stringContaining('CREATE PUBLICATION "p" FOR ALL TABLES'),
    });
    const some = await createPublication(plain, 'p', [{ schema: 'public', name: 'keyless' }]).catch(
      (reason: unknown) => reason,
    );
    expect(some).toMatchObject({ code: 'pg_privilege', hint: expect.stringContaining('FOR TABLE "public"."keyless"') });
    expect(await currentUserRights(plain)).toEqual({
      user: role,
      superuser: false,
      replication: false,
      createInDatabase: true,
    });
    await plain.close();
  });
});

test('the rights of a superuser are seen', async () => {
  expect(await currentUserRights(sql)).toMatchObject({ superuser: true, createInDatabase: true });
});
