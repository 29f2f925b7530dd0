import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Millrace, startMillrace } from './millrace.ts';

let db: TestDatabase;
let millrace: Millrace | undefined;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await db.drop();
});

const PRODUCTS = `CREATE TABLE products (id serial PRIMARY KEY, name varchar(100), price decimal(10,2),
  inserted_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now())`;

describe('messages', () => {
  test('carry the keys, order and value kinds of Sequin', async () => {
    await db.sql(PRODUCTS);
    await db.sql(`INSERT INTO products (name, price, inserted_at, updated_at)
      VALUES ('Avocados (3 pack)', 5.99, '2026-01-02 03:04:05.6', '2026-01-02 03:04:05')`);
    millrace = await startMillrace(db, { sinks: [{ initial_backfill: true }] });
    await millrace.atLeast(1);
    await db.sql(`UPDATE products SET price = 4.99`);
    await millrace.atLeast(2);
    const [read, update] = await millrace.bodies();
    const record = (price: string) =>
      `{"id":1,"name":"Avocados (3 pack)","price":"${price}","inserted_at":"2026-01-02T03:04:05.600000","updated_at":"2026-01-02T03:04:05.000000"}`;
    const metadata = (body: string) => JSON.parse(body).metadata;
    const tail = (m: Record<string, unknown>) =>
      `"metadata":{"table_schema":"public","table_name":"products","commit_timestamp":"${m['commit_timestamp']}",` +
      `"commit_lsn":${m['commit_lsn']},"commit_idx":0,"idempotency_key":"${m['idempotency_key']}",` +
      `"transaction_annotations":null,"record_pks":["1"],"enrichment":null,"database_name":"shop",` +
      `"database":${JSON.stringify(m['database'])},"consumer":${JSON.stringify(m['consumer'])}}}`;
    expect(read).toBe(`{"record":${record('5.99')},"changes":null,"action":"read",${tail(metadata(read!))}`);
    expect(update).toBe(`{"record":${record('4.99')},"changes":{},"action":"update",${tail(metadata(update!))}`);
    const m = metadata(update!);
    expect(Buffer.from(m.idempotency_key, 'base64').toString()).toBe(`${m.commit_lsn}:0`);
    expect(m.commit_timestamp).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
    expect(m.database).toMatchObject({ name: 'shop', annotations: {}, database: db.name, hostname: '127.0.0.1' });
    expect(m.consumer).toMatchObject({ name: 'sink', annotations: {} });
  });

  test('follow inserts, updates and deletes in commit order with dense ordinals', async () => {
    await db.sql(PRODUCTS);
    millrace = await startMillrace(db);
    await db.sql(`BEGIN; INSERT INTO products (name) SELECT 'n' || i FROM generate_series(1, 12) i;
      UPDATE products SET name = 'm' WHERE id = 3; DELETE FROM products WHERE id = 4; COMMIT`);
    const messages = await millrace.atLeast(14);
    expect(messages.map((m) => m.metadata.commit_idx)).toEqual([...Array(14).keys()]);
    expect(new Set(messages.map((m) => m.metadata.commit_lsn)).size).toBe(1);
    expect(messages.map((m) => m.action)).toEqual([...Array(12).fill('insert'), 'update', 'delete']);
    expect(messages[13]!.record).toEqual({ id: 4, name: null, price: null, inserted_at: null, updated_at: null });
    expect(messages[13]!.metadata.record_pks).toEqual(['4']);
    for (const { metadata } of messages) {
      const key = Buffer.from(metadata.idempotency_key, 'base64').toString();
      expect(key).toBe(`${metadata.commit_lsn}:${metadata.commit_idx}`);
    }
  });

  test('show old values of changed columns under full replica identity, and the primary key as such', async () => {
    await db.sql(`CREATE TABLE t (a int, b text, c numeric, PRIMARY KEY (b, a)); ALTER TABLE t REPLICA IDENTITY FULL`);
    millrace = await startMillrace(db);
    await db.sql(`INSERT INTO t VALUES (1, 'x', 2.50)`);
    await db.sql(`UPDATE t SET c = 3`);
    await db.sql(`UPDATE t SET c = NULL`);
    await db.sql(`UPDATE t SET c = 7, a = 2`);
    await db.sql(`DELETE FROM t`);
    const messages = await millrace.atLeast(5);
    expect(messages.map((m) => m.changes)).toEqual([null, { c: '2.50' }, { c: '3' }, { a: 1, c: null }, null]);
    expect(messages.map((m) => m.metadata.record_pks)).toEqual([
      ['x', '1'],
      ['x', '1'],
      ['x', '1'],
      ['x', '2'],
      ['x', '2'],
    ]);
    expect(messages[4]!.record).toEqual({ a: 2, b: 'x', c: '7' });
  });

  test('show the old key alone when a primary key changes under the default identity', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text)`);
    millrace = await startMillrace(db);
    await db.sql(`INSERT INTO t VALUES (1, 'x')`);
    await db.sql(`UPDATE t SET id = 2, v = 'y'`);
    const messages = await millrace.atLeast(2);
    expect(messages[1]!).toMatchObject({ action: 'update', record: { id: 2, v: 'y' }, changes: { id: 1 } });
  });

  test('carry transaction annotations from where they are set to where they are cleared', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)`);
    const source = (table: string) => ({ source: { include_tables: [table] } });
    millrace = await startMillrace(db, { sinks: [source('t'), { name: 'other', stream: 'other', ...source('u') }] });
    const set = (json: string) =>
      `SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.set', '${json}')`;
    await db.sql(`BEGIN; INSERT INTO t VALUES (1); ${set('{"by": "ann"}')}; INSERT INTO t VALUES (2);
      ${set('not json')}; INSERT INTO t VALUES (3);
      SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.clear', ''); INSERT INTO t VALUES (4); COMMIT`);
    await db.sql(`INSERT INTO t VALUES (5)`);
    const messages = await millrace.atLeast(5);
    expect(messages.map((m) => m.metadata.transaction_annotations)).toEqual([
      null,
      { by: 'ann' },
      { by: 'ann' },
      null,
      null,
    ]);
    // Logical messages take an ordinal.
    expect(messages.map((m) => m.metadata.commit_idx)).toEqual([0, 2, 4, 6, 0]);
    // It is told of the sink that has rows of the transaction.
    await db.sql(`INSERT INTO u VALUES (1)`);
    await millrace.atLeast(1, 'other');
    const told = millrace.lines.filter((line) => line.includes('invalid_transaction_annotation_received'));
    expect(told.map((line) => line.split(':')[0])).toEqual(['sink']);
  });

  test('name the partitioned table for changes of its partitions, at any depth', async () => {
    await db.sql(`CREATE TABLE t (id int, k int, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
      CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10) PARTITION BY LIST (k);
      CREATE TABLE t1a PARTITION OF t1 FOR VALUES IN (1);
      CREATE PUBLICATION leaves FOR ALL TABLES`);
    await db.sql(`INSERT INTO t VALUES (1, 1)`);
    const source = { include_tables: ['t'] };
    millrace = await startMillrace(db, {
      publication: { name: 'leaves' },
      sinks: [{ source, initial_backfill: true }],
    });
    await millrace.atLeast(1);
    await db.sql(`INSERT INTO t VALUES (2, 1)`);
    const messages = await millrace.atLeast(2);
    expect(messages.map((m) => [m.action, m.metadata.table_name, m.record['id']])).toEqual([
      ['read', 't', 1],
      ['insert', 't', 2],
    ]);
  });

  test('are chosen by schema, table and action', async () => {
    await db.sql(`CREATE SCHEMA other; CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
      CREATE TABLE other.c (id int PRIMARY KEY)`);
    millrace = await startMillrace(db, {
      sinks: [
        { name: 'all' },
        { name: 'only-a', source: { include_tables: ['a'] }, actions: ['delete'] },
        { name: 'not-a', source: { include_schemas: ['public'], exclude_tables: ['public.a'] } },
        { name: 'other', source: { exclude_schemas: ['public'] } },
      ],
    });
    await db.sql(`INSERT INTO a VALUES (1); INSERT INTO b VALUES (2); INSERT INTO other.c VALUES (3); DELETE FROM a`);
    const names = (messages: { action: string; metadata: { table_name: string } }[]) =>
      messages.map((m) => `${m.action} ${m.metadata.table_name}`);
    expect(names(await millrace.atLeast(4, 'all'))).toEqual(['insert a', 'insert b', 'insert c', 'delete a']);
    expect(names(await millrace.atLeast(1, 'only-a'))).toEqual(['delete a']);
    expect(names(await millrace.atLeast(1, 'not-a'))).toEqual(['insert b']);
    expect(names(await millrace.atLeast(1, 'other'))).toEqual(['insert c']);
  });

  test('decode each row with the schema at its position, also in the middle of a transaction', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text)`);
    millrace = await startMillrace(db);
    await db.sql(`BEGIN; INSERT INTO t VALUES (1, 'one'); ALTER TABLE t RENAME v TO w; INSERT INTO t VALUES (2, 'two');
      ALTER TABLE t ALTER w TYPE int USING 0; INSERT INTO t VALUES (3, 3); ALTER TABLE t DROP w; ALTER TABLE t ADD v bool;
      INSERT INTO t VALUES (4, true); COMMIT`);
    const messages = await millrace.atLeast(4);
    expect(messages.map((m) => m.record)).toEqual([
      { id: 1, v: 'one' },
      { id: 2, w: 'two' },
      { id: 3, w: 3 },
      { id: 4, v: true },
    ]);
  });

  test('of a transaction larger than any chunk arrive whole, and a row larger than a chunk as well', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text)`);
    millrace = await startMillrace(db, { sinks: [{ actions: ['insert', 'delete'] }] });
    await db.sql(`BEGIN; INSERT INTO t SELECT i, repeat('v', 300) FROM generate_series(1, 15000) i;
      INSERT INTO t VALUES (0, repeat('w', 900000)); UPDATE t SET v = repeat('z', 5000000) WHERE id = 1;
      DELETE FROM t WHERE id = 15000; COMMIT`);
    const messages = await millrace.atLeast(15_002);
    expect(messages.map((m) => m.metadata.commit_idx)).toEqual([...Array(15_001).keys(), 15_002]);
    expect(messages[15_000]!.record['v']).toBe('w'.repeat(900_000));
    expect(messages.at(-1)!.action).toBe('delete');
  });
});
