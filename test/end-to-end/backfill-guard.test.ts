import { type OwnPostgres, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { managerOf, settled } from './backfills.ts';
import { eventually, type Millrace, startMillrace } from './millrace.ts';

let postgres: OwnPostgres;
let db: TestDatabase;
let other: pg.Client;
let millrace: Millrace | undefined;
beforeAll(async () => {
  postgres = await startOwnPostgres({ fsync: 'off', max_slot_wal_keep_size: '64MB', autovacuum: 'off' });
});
afterAll(() => postgres.remove());
beforeEach(async () => {
  db = await postgres.createDatabase();
  other = new pg.Client(db.config);
  other.on('error', () => {}); // When the test fails, its session is ended.
  await other.connect();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 3000)');
});
afterEach(async () => {
  await other.end();
  await millrace?.remove();
  millrace = undefined;
  await db.drop();
});

const T = { table: { schema: 'public', name: 't' } };
const waiting = () => managerOf(millrace!).list()[0]?.waiting ?? '';

test('a backfill waits while the source is busier than it may be', async () => {
  const asleep = other.query('SELECT pg_sleep(60)').catch(() => {});
  const third = new pg.Client(db.config);
  await third.connect();
  const too = third.query('SELECT pg_sleep(60)').catch(() => {});
  millrace = await startMillrace(db, { database: { backfill: { active_sessions_max: 1, rows_per_second: 1000 } } });
  await managerOf(millrace).create([T]);
  await eventually('it says why it waits', () => /^the source is busy: [23] active sessions$/.test(waiting()));
  const { rowsProcessed } = managerOf(millrace).list()[0]!;
  expect(rowsProcessed).toBeLessThan(3000);
  await db.sql(`SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'`);
  await Promise.all([asleep, too]);
  await third.end();
  await settled(millrace);
  expect(managerOf(millrace).list()[0]).toMatchObject({ state: 'completed', rowsProcessed: 3000 });
}, 60_000);

test('a backfill waits before the slot holds more WAL than it may, and goes on when it holds less', async () => {
  millrace = await startMillrace(db, { database: { backfill: { rows_per_second: 200 } } });
  // As long as it is open, the slot cannot let go of what came after it.
  await other.query('BEGIN; INSERT INTO t VALUES (0)');
  await managerOf(millrace).create([T]);
  let written = 0;
  await eventually('it says why it waits', async () => {
    if (waiting().startsWith('WAL that the slot may hold: ')) return true;
    if (written++ < 20) await db.sql(`SELECT pg_logical_emit_message(false, 'noise', repeat('x', 2000000))`);
    return false;
  });
  expect(await db.sql(`SELECT wal_status FROM pg_replication_slots WHERE slot_name = '${db.name}'`)).toEqual([
    { wal_status: expect.stringMatching(/^(reserved|extended)$/) },
  ]);
  expect(managerOf(millrace).list()[0]).toMatchObject({ state: 'active' });
  await other.query('COMMIT');
  await eventually('it goes on', async () => {
    await db.sql('CHECKPOINT');
    return waiting() === '' || managerOf(millrace!).list()[0]!.state === 'completed';
  });
  const { id, error } = managerOf(millrace).list()[0]!;
  expect(error).toBe(null);
  await managerOf(millrace)
    .cancel(id)
    .catch(() => {}); // It may be complete by now.
}, 60_000);
