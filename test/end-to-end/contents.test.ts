/** What a stream holds beyond changes of rows: truncates, logical messages, an outbox, values that were not sent. */
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Message, type Millrace, startMillrace } from './millrace.ts';

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

const ALL = ['insert', 'update', 'delete', 'truncate'];
const places = (messages: readonly Message[]) =>
  messages.map((m) => `${m.metadata.commit_idx} ${m.action} ${m.metadata.table_name}`);

describe('truncates', () => {
  test('are one message per table, in the order of the statement, each with a position of its own', async () => {
    await db.sql(`CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
      CREATE TABLE c (id serial PRIMARY KEY)`);
    millrace = await startMillrace(db, {
      sinks: [{ actions: ALL }, { name: 'only-b', actions: ALL, source: { include_tables: ['b'] } }],
    });
    await db.sql(
      `BEGIN; INSERT INTO a VALUES (1); TRUNCATE c, a, b RESTART IDENTITY CASCADE; INSERT INTO b VALUES (2); COMMIT`,
    );
    const messages = await millrace.atLeast(5, 'sink');
    expect(places(messages)).toEqual(['0 insert a', '1 truncate c', '2 truncate a', '3 truncate b', '4 insert b']);
    const [, truncate] = messages;
    expect(truncate).toMatchObject({ record: null, changes: null });
    expect(truncate!.metadata).toMatchObject({ record_pks: [], cascade: true, restart_identity: true });
    expect(Object.keys(truncate!.metadata)).toEqual([
      ...['table_schema', 'table_name', 'commit_timestamp', 'commit_lsn', 'commit_idx', 'idempotency_key'],
      ...['transaction_annotations', 'record_pks', 'cascade', 'restart_identity'],
      ...['enrichment', 'database_name', 'database', 'consumer'],
    ]);
    const key = Buffer.from(truncate!.metadata.idempotency_key, 'base64').toString();
    expect(key).toBe(`${truncate!.metadata.commit_lsn}:1`);
    expect(places(await millrace.atLeast(2, 'only-b'))).toEqual(['3 truncate b', '4 insert b']);
  });

  test('that a sink does not take are made known', async () => {
    await db.sql(`CREATE TABLE "a b" (id int PRIMARY KEY)`);
    millrace = await startMillrace(db);
    await db.sql(`TRUNCATE "a b"; INSERT INTO "a b" VALUES (1)`);
    expect(places(await millrace.atLeast(1))).toEqual(['1 insert a b']);
    expect(millrace.lines.filter((line) => line.includes('truncate_not_delivered'))).toEqual([
      expect.stringContaining('"public"."a b" was truncated'),
    ]);
  });

  test('of one partition do not read as one of the whole table', async () => {
    await db.sql(`CREATE TABLE t (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
      CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2);
      CREATE PUBLICATION leaves FOR ALL TABLES`);
    millrace = await startMillrace(db, { publication: { name: 'leaves' }, sinks: [{ actions: ALL }] });
    await db.sql(`TRUNCATE t1`);
    await db.sql(`TRUNCATE t`);
    const messages = await millrace.atLeast(3);
    expect(messages.map((m) => [m.metadata.table_name, m.metadata['partition']])).toEqual([
      ['t', { table_schema: 'public', table_name: 't1' }],
      ['t', { table_schema: 'public', table_name: 't1' }],
      ['t', { table_schema: 'public', table_name: 't2' }],
    ]);
  });
});

test('a table that a sink took is missed under its new name, and the sink is told of it', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)`);
  millrace = await startMillrace(db, { sinks: [{ source: { include_tables: ['t'] } }, { name: 'all' }] });
  await db.sql(
    `INSERT INTO t VALUES (1); INSERT INTO other VALUES (1); ALTER TABLE t RENAME TO u; INSERT INTO u VALUES (2)`,
  );
  await db.sql(`ALTER TABLE u RENAME TO t; INSERT INTO t VALUES (3)`);
  expect(places(await millrace.atLeast(2, 'sink'))).toEqual(['0 insert t', '0 insert t']);
  expect(places(await millrace.atLeast(4, 'all')).slice(2)).toEqual(['2 insert u', '0 insert t']);
  expect(millrace.lines.filter((line) => line.includes('table_renamed'))).toEqual([
    expect.stringMatching(/^sink: .*"public"."t" come as "public"."u".*source.include_tables/),
  ]);
});

describe('logical messages', () => {
  const emit = (transactional: boolean, prefix: string, content: string) =>
    `SELECT pg_logical_emit_message(${transactional}, '${prefix}', ${content})`;

  test('stand in their place, by prefix, as JSON, text or base64', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
    millrace = await startMillrace(db, {
      sinks: [{ logical_messages: true }, { name: 'some', logical_messages: ['b'] }, { name: 'none' }],
    });
    const big = '{"n": 12345678901234567890.10,\n "s": "a\\tb"}';
    await db.sql(`BEGIN; INSERT INTO t VALUES (1); ${emit(true, 'a', `'${big}'`)}; INSERT INTO t VALUES (2);
      ${emit(true, 'b', `'say "hi"'`)}; ${emit(true, 'b', `'\\xff00'::bytea`)}; ${emit(true, 'b', `'17'`)};
      ${emit(true, 'sequin:transaction_annotations.set', `'{"by": "ann"}'`)}; ${emit(true, 'millrace.mine', `'x'`)};
      INSERT INTO t VALUES (3); COMMIT`);
    const messages = await millrace.atLeast(7, 'sink');
    expect(messages.map((m) => [m.metadata.commit_idx, m.action])).toEqual([
      [0, 'insert'],
      [1, 'message'],
      [2, 'insert'],
      [3, 'message'],
      [4, 'message'],
      [5, 'message'],
      [8, 'insert'],
    ]);
    expect(messages[3]!.record).toEqual({ prefix: 'b', content: 'say "hi"', encoding: 'text', transactional: true });
    expect(messages[4]!.record).toMatchObject({ content: '/wA=', encoding: 'base64' });
    expect(messages[5]!.record).toMatchObject({ content: '17', encoding: 'text' });
    expect(messages[1]!.metadata).toMatchObject({ table_schema: null, table_name: null, record_pks: [] });
    expect(messages[6]!.metadata.transaction_annotations).toEqual({ by: 'ann' });
    const bodies = await millrace.bodies('sink');
    expect(bodies[1]).toContain('"content":{"n": 12345678901234567890.10,  "s": "a\\tb"},"encoding":"json"');
    expect((await millrace.atLeast(6, 'some')).map((m) => m.metadata.commit_idx)).toEqual([0, 2, 3, 4, 5, 8]);
    expect((await millrace.atLeast(3, 'none')).map((m) => m.action)).toEqual(['insert', 'insert', 'insert']);
  });

  test('that are not transactional arrive even when their transaction is rolled back', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
    millrace = await startMillrace(db, { sinks: [{ logical_messages: true }] });
    await db.sql(
      `BEGIN; INSERT INTO t VALUES (1); ${emit(false, 'log', `'kept'`)}; ${emit(true, 'log', `'gone'`)}; ROLLBACK`,
    );
    await db.sql(`INSERT INTO t VALUES (2)`);
    const messages = await millrace.atLeast(2);
    expect(messages.map((m) => m.record)).toEqual([
      { prefix: 'log', content: 'kept', encoding: 'text', transactional: false },
      { id: 2 },
    ]);
    expect(messages[0]!.metadata.commit_lsn).toBeLessThan(messages[1]!.metadata.commit_lsn);
  });

  test('make an outbox: each event once, with its transaction or not at all, without a table', async () => {
    await db.sql(`CREATE TABLE orders (id int PRIMARY KEY, total numeric)`);
    millrace = await startMillrace(db, { sinks: [{ name: 'outbox', actions: [], logical_messages: ['outbox'] }] });
    const order = (id: number, end: string) =>
      db.sql(`BEGIN; INSERT INTO orders VALUES (${id}, ${id}.50);
        SELECT pg_logical_emit_message(true, 'outbox', jsonb_build_object('type', 'order_placed', 'order', to_jsonb(o))::text)
          FROM orders AS o WHERE id = ${id}; ${end}`);
    await order(1, 'COMMIT');
    await order(2, 'ROLLBACK');
    await millrace.atLeast(1);
    const { dataDir } = millrace;
    await millrace.stop();
    await order(3, 'COMMIT');
    millrace = await startMillrace(db, {
      dataDir,
      sinks: [{ name: 'outbox', actions: [], logical_messages: ['outbox'] }],
    });
    const messages = await millrace.atLeast(2);
    expect(messages.map((m) => m.record['content'])).toEqual([
      { type: 'order_placed', order: { id: 1, total: 1.5 } },
      { type: 'order_placed', order: { id: 3, total: 3.5 } },
    ]);
    expect(new Set(messages.map((m) => m.metadata.idempotency_key)).size).toBe(2);
  });

  test('an annotation that is no JSON is told of, and the change flows', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
    millrace = await startMillrace(db);
    await db.sql(
      `BEGIN; ${emit(true, 'sequin:transaction_annotations.set', `'not json'`)}; INSERT INTO t VALUES (1); COMMIT`,
    );
    const [message] = await millrace.atLeast(1);
    expect(message!.metadata.transaction_annotations).toBeNull();
    expect(millrace.lines.join('\n')).toContain('(invalid_transaction_annotation_received)');
  });
});

describe('a large value that an update left alone', () => {
  const TABLE = `CREATE TABLE t (big text, id int PRIMARY KEY, n int); ALTER TABLE t ALTER big SET STORAGE EXTERNAL`;

  test('is left out and named, or stands as the marker, and is taken from the old row under full identity', async () => {
    await db.sql(TABLE);
    millrace = await startMillrace(db, { sinks: [{}, { name: 'marked', unchanged_toast: 'marker' }] });
    await db.sql(`INSERT INTO t VALUES (repeat('x', 10000), 1, 1)`);
    await db.sql(`UPDATE t SET n = 2`);
    await db.sql(`ALTER TABLE t REPLICA IDENTITY FULL`);
    await db.sql(`UPDATE t SET n = 3`);
    const messages = await millrace.atLeast(3, 'sink');
    expect(messages[1]!.record).toEqual({ id: 1, n: 2 });
    expect(messages[1]!.metadata['unchanged_columns']).toEqual(['big']);
    expect(messages[2]!.record).toEqual({ big: 'x'.repeat(10000), id: 1, n: 3 });
    expect(messages[2]!.changes).toEqual({ n: 2 });
    expect(messages[2]!.metadata).not.toHaveProperty('unchanged_columns');
    const marked = await millrace.atLeast(3, 'marked');
    expect(marked[1]!.record).toEqual({ big: 'unchanged_toast', id: 1, n: 2 });
    expect(marked[1]!.metadata).not.toHaveProperty('unchanged_columns');
    const lines = millrace.lines.filter((line) => line.includes('toast_columns_detected'));
    expect(lines).toHaveLength(2);
    expect(lines[0]).toContain('ALTER TABLE "public"."t" REPLICA IDENTITY FULL;');
  });

  test('in the key itself does not hide the key', async () => {
    await db.sql(`CREATE TABLE t (k text PRIMARY KEY, n int); ALTER TABLE t ALTER k SET STORAGE EXTERNAL`);
    millrace = await startMillrace(db);
    await db.sql(`INSERT INTO t VALUES (repeat('k', 2100), 1)`);
    await db.sql(`UPDATE t SET n = 2`);
    const [, update] = await millrace.atLeast(2);
    expect(update!.record).toEqual({ k: 'k'.repeat(2100), n: 2 });
    expect(update!.metadata.record_pks).toEqual(['k'.repeat(2100)]);
    expect(update!.metadata).not.toHaveProperty('old_record_pks');
  });
});
