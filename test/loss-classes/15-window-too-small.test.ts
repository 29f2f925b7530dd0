// Class 15: a transaction is in progress while a chunk is read and commits later; or its commit is in the WAL, and was
// delivered, but is not visible yet. Its version of a row must win over the one that was read.
import { type OwnPostgres, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { managerOf, replay, settled } from '../end-to-end/backfills.ts';
import { eventually, type Message, type Millrace, startMillrace } from '../end-to-end/millrace.ts';

let postgres: OwnPostgres;
let db: TestDatabase;
let millrace: Millrace | undefined;
let writer: pg.Client;
beforeAll(async () => {
  postgres = await startOwnPostgres({ fsync: 'off' });
});
afterAll(() => postgres.remove());
beforeEach(async () => {
  db = await postgres.createDatabase();
  writer = new pg.Client(db.config);
  writer.on('error', () => {}); // When the test fails, its session is ended.
  await writer.connect();
  await db.sql(
    `CREATE TABLE t (id int PRIMARY KEY, version int); INSERT INTO t SELECT i, 1 FROM generate_series(1, 500) i`,
  );
});
afterEach(async () => {
  await standby(null);
  await writer.end();
  await millrace?.remove();
  millrace = undefined;
  await db.drop();
});

const T = { table: { schema: 'public', name: 't' } };
const versionsOf = (messages: readonly Message[], id: number) =>
  messages.filter(({ record }) => record['id'] === id).map(({ action, record }) => `${action} ${record['version']}`);

/** The first change of a table makes its shape known, which takes a transaction that others see. */
async function firstChange(): Promise<void> {
  await db.sql('DELETE FROM t WHERE id = 1');
  await millrace!.atLeast(1);
}

/** Commits wait for a standby that is not there; null: for none. */
async function standby(name: string | null): Promise<void> {
  await db.sql(
    name === null
      ? 'ALTER SYSTEM RESET synchronous_standby_names'
      : `ALTER SYSTEM SET synchronous_standby_names = '${name}'`,
  );
  await db.sql('SELECT pg_reload_conf()');
  await eventually('the setting holds', async () => {
    const [row] = await db.sql(`SELECT current_setting('synchronous_standby_names') AS names`);
    return row.names === (name ?? '');
  });
}

for (const order of ['physical', 'key'] as const) {
  test(`a transaction that is open over the whole backfill (${order}) wins, and does not hold it up`, async () => {
    millrace = await startMillrace(db);
    // Savepoints: the stream names the transaction, the rows were changed by its subtransactions.
    await writer.query(`BEGIN; UPDATE t SET version = 2 WHERE id = 250; SAVEPOINT a;
      UPDATE t SET version = 2 WHERE id = 251; RELEASE a; SAVEPOINT b; DELETE FROM t WHERE id = 252`);
    await managerOf(millrace).create([{ ...T, order }]);
    await settled(millrace);
    expect(versionsOf(await millrace.messages(), 250)).toEqual(['read 1']);
    await writer.query('COMMIT');
    const messages = await millrace.atLeast(503);
    expect(versionsOf(messages, 250)).toEqual(['read 1', 'update 2']);
    expect(versionsOf(messages, 251)).toEqual(['read 1', 'update 2']);
    expect(replay(messages, (record) => String(record['id'])).faults).toEqual([]);
  });
}

test('a commit that was delivered and is not visible, because no standby answers, is waited for, also after a restart', async () => {
  millrace = await startMillrace(db, { sinks: [{ name: 'sink' }] });
  const { dataDir } = millrace;
  await firstChange();
  await standby('nobody');
  const committing = writer.query('UPDATE t SET version = 2 WHERE id = 7');
  const [, delivered] = await millrace.atLeast(2);
  expect(delivered).toMatchObject({ action: 'update', record: { id: 7, version: 2 } });
  // Nobody else sees it.
  expect(await db.sql('SELECT version FROM t WHERE id = 7')).toEqual([{ version: 1 }]);
  await millrace.stop();
  // One sink that was given the change before the restart, and one that begins behind it and will never be given it.
  const sinks = [{ name: 'sink' }, { name: 'fresh', initial_backfill: true }];
  millrace = await startMillrace(db, { dataDir, sinks });
  await managerOf(millrace).create([T]);
  for (const sink of ['sink', 'fresh']) {
    const manager = managerOf(millrace, sink);
    await eventually('the backfill says what it waits for', () =>
      manager.list().some(({ waiting }) => waiting === 'a transaction that has written to the table is committing'),
    );
    expect((await millrace.messages(sink)).filter(({ action }) => action === 'read')).toEqual([]);
  }
  await standby(null);
  await committing;
  await settled(millrace);
  await settled(millrace, 'fresh');
  const messages = await millrace.messages('sink');
  expect(versionsOf(messages, 7)).toEqual(['update 2', 'read 2']);
  expect(messages).toHaveLength(2 + 499);
  const fresh = await millrace.messages('fresh');
  expect(versionsOf(fresh, 7)).toEqual(['read 2']);
  expect(fresh).toHaveLength(499);
}, 60_000);

test('a commit that waits for a standby while the backfill runs is delivered once, and its row is not read behind it', async () => {
  millrace = await startMillrace(db);
  await firstChange();
  await standby('nobody');
  const committing = writer.query('UPDATE t SET version = 2 WHERE id = 7');
  await millrace.atLeast(2);
  await managerOf(millrace).create([{ ...T, order: 'key' }]);
  const other = new pg.Client(db.config);
  await other.connect();
  // This one is delivered after the backfill began.
  const later = other.query('UPDATE t SET version = 2 WHERE id = 8');
  await millrace.atLeast(3);
  await standby(null);
  await Promise.all([committing, later]);
  await settled(millrace);
  const messages = await millrace.messages();
  expect(replay(messages, (record) => String(record['id'])).faults).toEqual([]);
  expect(versionsOf(messages, 7).at(-1)).toMatch(/ 2$/);
  expect(versionsOf(messages, 8).at(-1)).toMatch(/ 2$/);
  await other.end();
}, 60_000);

test('an update of a key that a replica identity by another index does not say is waited for, not followed by the old row', async () => {
  const rows = 6000;
  await db.sql(`CREATE TABLE coded (id int PRIMARY KEY, code int NOT NULL UNIQUE); ALTER TABLE coded REPLICA IDENTITY USING INDEX coded_code_key;
    INSERT INTO coded SELECT i, i FROM generate_series(1, ${rows}) i`);
  millrace = await startMillrace(db, { database: { backfill: { rows_per_second: 1500, connections: 1 } } });
  await db.sql('DELETE FROM coded WHERE id = 1');
  await millrace.atLeast(1);
  await standby('nobody');
  const [job] = await managerOf(millrace).create([{ table: { schema: 'public', name: 'coded' }, order: 'key' }]);
  await millrace.atLeast(100);
  const committing = writer.query(`UPDATE coded SET id = ${rows + 1} WHERE id = ${rows}`);
  await eventually('the backfill waits for it', () =>
    managerOf(millrace!)
      .list()
      .some(
        ({ id, waiting }) => id === job!.id && waiting === 'a transaction that has written to the table is committing',
      ),
  );
  await standby(null);
  await committing;
  await settled(millrace);
  const last = (await millrace.messages()).filter(({ record }) => record['code'] === rows);
  expect(last.map(({ action, record }) => `${action} ${record['id']}`)).toEqual([
    `update ${rows + 1}`,
    `read ${rows + 1}`,
  ]);
}, 60_000);
