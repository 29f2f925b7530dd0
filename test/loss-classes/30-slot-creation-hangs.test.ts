// Making a slot waits for the transactions that are open. That wait has to end, and must leave no slot behind that
// nobody reads, also when whoever asked for it is killed meanwhile.
import { parseLsn } from '@millrace/core/lsn';
import { SourceState } from '@millrace/engine/capture/source-state';
import { PgConnection } from '@millrace/postgres/connection';
import { startReplication } from '@millrace/postgres/replication';
import { createSlot, identifySystem, readSlot } from '@millrace/postgres/slot';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { type OwnPostgres, startOwnPostgres, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { eventually, type Millrace, startMillrace } from '../end-to-end/millrace.ts';

// Processes and servers start here, beside other tests.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 120_000 });

// A server of its own: in that of the others their slots would wait for the transaction that is open here.
let own: OwnPostgres;
let db: TestDatabase;
let writer: pg.Client;
beforeAll(async () => {
  own = await startOwnPostgres();
});
afterAll(() => own.remove());
beforeEach(async () => {
  db = await own.createDatabase();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
  writer = new pg.Client(db.config);
  await writer.connect();
  await writer.query('BEGIN');
  await writer.query('INSERT INTO t VALUES (0)');
});
afterEach(async () => {
  await writer.end();
  await db.drop();
});

const connect = () => {
  const { host, port, user, password, database } = db.config;
  return PgConnection.connect({ host, port, user, password, database, ssl: 'disable', replication: true });
};
const slots = () => db.sql(`SELECT slot_name FROM pg_replication_slots WHERE database = current_database()`);

test('behind an idle transaction it gives up by lock_timeout, says who to look for, and leaves no slot', async () => {
  const connection = await connect();
  await expect(createSlot(connection, db.name, { lockTimeoutMs: 200 })).rejects.toMatchObject({
    code: 'pg_slot_creation_timeout',
    hint: expect.stringContaining('pg_stat_activity'),
  });
  await connection.close();
  expect(await slots()).toEqual([]);
});

test('when the connection is lost in the middle, the server gives up by itself', async () => {
  const connection = await connect();
  // As if this process had been killed: nobody is left to cancel it.
  connection.cancel = async () => {};
  const creating = createSlot(connection, db.name, { lockTimeoutMs: 500 }).catch(() => {});
  const waiting = async () => {
    const rows = await db.sql(
      `SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%REPLICATION_SLOT%' AND datname = '${db.name}'`,
    );
    return rows.length > 0;
  };
  await eventually('the creation waits', waiting);
  void connection.close();
  await creating;
  await eventually('the walsender has given up', async () => !(await waiting()));
  await eventually('and left no slot', async () => (await slots()).length === 0);
});

test('a start behind an idle transaction ends its wait, and the next one captures all from its own slot', async () => {
  let millrace: Millrace | undefined;
  const starting = startMillrace(db).then((started) => (millrace = started));
  await eventually('the slot is being made', async () => (await slots()).length === 1);
  await writer.query('COMMIT');
  await starting;
  try {
    await db.sql(`INSERT INTO t VALUES (1)`);
    expect((await millrace!.atLeast(1)).map(({ record }) => record['id'])).toEqual([1]);
  } finally {
    await millrace!.remove();
  }
});

test('a slot that a start made and then died is recognised by the next one, from its beginning', async () => {
  await writer.query('ROLLBACK');
  const millrace = await startMillrace(db);
  const { dataDir } = millrace;
  await millrace.stop();
  // What is on disk when the process dies right after the server has made the slot: the intent, no identity, no log.
  const store = await openLocalStore({ dir: dataDir, log: () => {} });
  const state = new SourceState(store.state, 'source/shop/identity');
  const { systemId, slot } = state.identity!;
  await state.saveIntent({ systemId, slot, after: 0n, settled: true });
  await store.state.delete('source/shop/identity');
  await store.close();
  await db.sql(`INSERT INTO t VALUES (1)`);
  const again = await startMillrace(db, { dataDir });
  try {
    expect((await again.atLeast(1)).map(({ record }) => record['id'])).toEqual([1]);
    expect(again.lines.join('\n')).toContain('was made by a start that did not get further');
    expect(new SourceState(again.server.store.state, 'source/shop/identity').intent).toBeNull();
  } finally {
    await again.remove();
  }
  const connection = await connect();
  expect(await readSlot(connection, db.name)).not.toBeNull();
  await connection.close();
});

test('one that died before its slot stood where it may be read from has the next one move it there', async () => {
  await writer.query('ROLLBACK');
  const connection = await connect();
  await db.sql(`CREATE PUBLICATION millrace FOR TABLE t`);
  const { consistentPoint } = await createSlot(connection, db.name);
  const { systemId } = await identifySystem(connection);
  await connection.close();
  const dataDir = testDirectory('data');
  const store = await openLocalStore({ dir: dataDir, log: () => {} });
  await new SourceState(store.state, 'source/shop/identity').saveIntent({ systemId, slot: db.name, after: 0n });
  await store.close();
  const millrace = await startMillrace(db, { dataDir });
  try {
    const [slot] = await db.sql(
      `SELECT confirmed_flush_lsn::text AS lsn FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
    );
    expect(parseLsn(slot!.lsn as string)!).toBeGreaterThan(consistentPoint);
    await db.sql(`INSERT INTO t VALUES (1)`);
    expect((await millrace.atLeast(1)).map(({ record }) => record['id'])).toEqual([1]);
  } finally {
    await millrace.remove();
  }
});

test('a slot of ours that another reads before it stood is left to him, and taken over where he ended', async () => {
  await writer.query('ROLLBACK');
  const [connection, other] = [await connect(), await connect()];
  await db.sql(`CREATE PUBLICATION millrace FOR TABLE t`);
  await createSlot(connection, db.name);
  const { systemId } = await identifySystem(connection);
  await connection.close();
  const dataDir = testDirectory('data');
  const store = await openLocalStore({ dir: dataDir, log: () => {} });
  await new SourceState(store.state, 'source/shop/identity').saveIntent({ systemId, slot: db.name, after: 0n });
  await store.close();
  // It cannot be moved while this one is open.
  await writer.query('BEGIN; INSERT INTO t VALUES (0)');
  const starting = startMillrace(db, { dataDir });
  const settling = () =>
    db.sql(`SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_snapshot_xmin%' AND pid <> pg_backend_pid()`);
  await eventually('it waits for the transaction', async () => (await settling()).length > 0);
  const nothing = { message() {}, keepalive() {}, burst() {}, closed() {} };
  const stream = await startReplication(other, { slot: db.name, publications: ['millrace'], startLsn: 0n }, nothing);
  await writer.query('ROLLBACK');
  await eventually('it has let go of the slot', async () => (await settling()).length === 0);
  expect(await slots()).toHaveLength(1);
  await db.sql(`INSERT INTO t VALUES (1)`);
  await stream.stop();
  const millrace = await starting;
  try {
    await db.sql(`INSERT INTO t VALUES (2)`);
    expect((await millrace.atLeast(2)).map(({ record }) => record['id'])).toEqual([1, 2]);
  } finally {
    await millrace.remove();
  }
});

test('a slot that somebody makes after ours was refused is read from where he made it', async () => {
  const dataDir = testDirectory('data');
  const refused = await startMillrace(db, { dataDir }).catch((error: unknown) => error);
  expect(refused).toMatchObject({ code: 'pg_slot_creation_timeout' });
  await writer.query('ROLLBACK');
  await db.sql(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
  await db.sql(`INSERT INTO t VALUES (1)`);
  const millrace = await startMillrace(db, { dataDir });
  try {
    expect((await millrace.atLeast(1)).map(({ record }) => record['id'])).toEqual([1]);
  } finally {
    await millrace.remove();
  }
}, 90_000);
