import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { chosenMajor } from '@millrace/testkit/postgres-majors';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { managerOf, settled } from './backfills.ts';
import { eventually, type Millrace, startMillrace } from './millrace.ts';

const ALL_ACTIONS = ['insert', 'update', 'delete', 'truncate'];

let db: TestDatabase;
let millrace: Millrace | null = null;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  millrace = null;
  await db.drop();
});

// Row filters and column lists came with Postgres 15.
test.skipIf(chosenMajor() < 15)(
  'a repair keeps to row filters, column lists, partitions and identity indexes of the publication',
  async () => {
    await db.sql(`CREATE TABLE f (id int, v int, secret text, PRIMARY KEY (id, v));
    CREATE TABLE p (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 (k int NOT NULL, v text, id int NOT NULL);
    ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2);
    CREATE TABLE u (a int, code text NOT NULL); CREATE UNIQUE INDEX u_code ON u (code); ALTER TABLE u REPLICA IDENTITY USING INDEX u_code;
    INSERT INTO f SELECT i, i % 7 - 3, 'hidden' FROM generate_series(1, 70) i;
    INSERT INTO p SELECT i, 1 + i % 2, 'v' FROM generate_series(1, 60) i; INSERT INTO u SELECT i, 'c' || i FROM generate_series(1, 20) i;
    CREATE PUBLICATION millrace FOR TABLE f (id, v) WHERE (v > 0), p, u WITH (publish_via_partition_root = false)`);
    const options = {
      slot: { on_loss: 'repair' },
      publication: { create_if_not_exists: false },
      sinks: [{ initial_backfill: true }],
    };
    millrace = await startMillrace(db, options);
    const { dataDir } = millrace;
    await eventually('the index has all rows', () => millrace!.server.pipelines[0]!.rowIndex!.filled);
    const before = (await millrace.atLeast(30 + 60 + 20)).length;
    await millrace.stop();
    await db.sql('SELECT pg_drop_replication_slot($1)', [db.name]);
    await db.sql(`UPDATE f SET v = -v WHERE id <= 14; UPDATE f SET secret = 'other'; DELETE FROM f WHERE id > 60;
    UPDATE p SET k = 3 - k WHERE id <= 5; UPDATE p SET v = 'w' WHERE id = 10; DELETE FROM p WHERE id = 11;
    UPDATE u SET code = 'moved' WHERE a = 1; UPDATE u SET a = -a WHERE a = 2; DELETE FROM u WHERE a = 3`);
    millrace = await startMillrace(db, { ...options, dataDir });
    const request = { rowsPerSecond: 0, signal: AbortSignal.timeout(30_000) };
    const report = await millrace.server.pipelines[0]!.verifier.sink('sink', request);
    expect(report.tables.map(({ name, skipped }) => [name, skipped])).toEqual([
      ['f', null],
      ['p', null],
      ['u', 'it has no primary key'],
    ]);
    expect(report.drift).toBe(0);
    expect((await millrace.server.pipelines[0]!.verifier.index(request)).drift).toBe(0);
    expect((await millrace.bodies()).join('')).not.toMatch(/hidden|other/);
    const sent = (await millrace.messages()).slice(before);
    const of = (table: string, action: string) =>
      sent.filter((message) => message.metadata.table_name === table && message.action === action);
    // What the filter does not admit is neither there nor missed.
    expect([of('f', 'insert').length, of('f', 'delete').length, of('f', 'update').length]).toEqual([6, 11, 0]);
    expect(of('u', 'delete').map(({ record }) => record.code)).toEqual(expect.arrayContaining(['c1', 'c3']));
    expect(of('u', 'insert').map(({ record }) => record)).toEqual([{ a: 1, code: 'moved' }]);
    expect(of('u', 'update').map(({ record }) => record)).toEqual([{ a: -2, code: 'c2' }]);
    expect(of('p', 'insert')).toHaveLength(5);
    expect(of('p', 'delete')).toHaveLength(6);
    expect(of('p', 'update')).toHaveLength(1);
  },
);

test('a repair finds what happened to a table that took over the name of another in the gap', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE made (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT i, 'v' FROM generate_series(1, 20) i; INSERT INTO made SELECT i, 'v' FROM generate_series(1, 10) i;
    INSERT INTO made VALUES (30, 'gone')`);
  const options = { slot: { on_loss: 'repair' }, sinks: [{ initial_backfill: true, actions: ALL_ACTIONS }] };
  millrace = await startMillrace(db, options);
  const { dataDir } = millrace;
  await eventually('the index has all rows', () => millrace!.server.pipelines[0]!.rowIndex!.filled);
  await db.sql(`UPDATE t SET v = 'w' WHERE id = 1; UPDATE made SET v = 'w' WHERE id = 1`);
  await millrace.atLeast(20 + 11 + 2);
  await millrace.stop();
  await db.sql('SELECT pg_drop_replication_slot($1)', [db.name]);
  await db.sql(`INSERT INTO made SELECT i, 'v' FROM generate_series(11, 20) i; DELETE FROM made WHERE id = 30;
    ALTER TABLE t RENAME TO before; ALTER TABLE made RENAME TO t`);
  millrace = await startMillrace(db, { ...options, dataDir });
  await db.sql(`UPDATE t SET v = 'x' WHERE id = 2; UPDATE before SET v = 'x' WHERE id = 2`);
  const request = { rowsPerSecond: 0, signal: AbortSignal.timeout(30_000) };
  const compared = async () => {
    const { drift, tables } = await millrace!.server.pipelines[0]!.verifier.index(request);
    return { drift, tables: tables.map(({ name, skipped }) => [name, skipped]) };
  };
  await expect.poll(compared, { timeout: 20_000 }).toEqual({
    drift: 0,
    tables: [
      ['before', null],
      ['t', null],
    ],
  });
  expect(await millrace.server.pipelines[0]!.verifier.sink('sink', request)).toMatchObject({ drift: 0 });
});

test('under replica identity full the deletes of a repair pass filters that look at the key', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY FULL;
    INSERT INTO t SELECT i, 'v' FROM generate_series(1, 6) i`);
  const where = [{ column: 'id', operator: '<', value: 4 }];
  const options = { slot: { on_loss: 'repair' }, sinks: [{ initial_backfill: true, where }] };
  millrace = await startMillrace(db, options);
  const { dataDir } = millrace;
  await eventually('the index has all rows', () => millrace!.server.pipelines[0]!.rowIndex!.filled);
  await millrace.atLeast(3);
  await millrace.stop();
  await db.sql('SELECT pg_drop_replication_slot($1)', [db.name]);
  await db.sql('DELETE FROM t WHERE id IN (2, 5)');
  millrace = await startMillrace(db, { ...options, dataDir });
  await db.sql('DELETE FROM t WHERE id = 3');
  const last = async () => (await millrace!.messages()).at(-1)!;
  await expect.poll(last, { timeout: 20_000 }).toMatchObject({ action: 'delete', record: { id: 3 } });
  expect((await millrace.messages()).slice(3).map(({ action, record }) => [action, record.id])).toEqual([
    ['delete', 2],
    ['delete', 3],
  ]);
});

test('a row that a backfill read in the gap and that was gone before the repair is not delivered after it', async () => {
  await db.sql(
    `CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int); INSERT INTO t SELECT generate_series(1, 5)`,
  );
  millrace = await startMillrace(db, { slot: { on_loss: 'repair' }, sinks: [{ initial_backfill: false }] });
  await eventually('the index has all rows', () => millrace!.server.pipelines[0]!.rowIndex!.filled);
  const other = new pg.Client(db.config);
  await other.connect();
  try {
    // As long as it is open no slot is made, and nothing is repaired.
    await other.query('BEGIN; INSERT INTO other VALUES (1)');
    await eventually('the slot is dropped', async () => {
      const [{ gone }] = (await db.sql(
        `SELECT pg_terminate_backend(active_pid) IS NULL AS gone FROM pg_replication_slots WHERE slot_name = $1`,
        [db.name],
      )) as [{ gone: boolean }];
      if (gone) await db.sql('SELECT pg_drop_replication_slot($1)', [db.name]);
      return gone;
    });
    await db.sql('INSERT INTO t VALUES (100)');
    await managerOf(millrace).create([{ table: { schema: 'public', name: 't' } }]);
    await eventually('the rows are read', async () => {
      const read =
        await db.sql(`SELECT FROM pg_stat_activity WHERE application_name LIKE '% backfill' AND datname = current_database()
        AND state = 'idle' AND (query LIKE '%LOCK TABLE%' OR query LIKE '%flush_lsn() <%' OR query LIKE '%millrace.flush%')`);
      return read.length > 0;
    });
    await db.sql('DELETE FROM t WHERE id = 100');
    await other.query('COMMIT');
  } finally {
    await other.end();
  }
  await settled(millrace);
  const ids = (await millrace.messages())
    .filter(({ metadata }) => metadata.table_name === 't')
    .map(({ record }) => record.id);
  expect(ids.sort()).toEqual([1, 2, 3, 4, 5]);
}, 60_000);
