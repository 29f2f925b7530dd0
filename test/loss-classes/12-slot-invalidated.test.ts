// The server throws away WAL that the slot still needs (max_slot_wal_keep_size, or an idle timeout). Nothing shows what
// happened in the gap any more. It is refused, or repaired as configured: a bounded number of times, and so that also
// the rows that were deleted meanwhile are gone at the destination.
import { cpSync, rmSync } from 'node:fs';
import { SourceState } from '@millrace/engine/capture/source-state';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { type OwnPostgres, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, expect, test, vi } from 'vitest';
import { eventually, type Message, type Millrace, startMillrace } from '../end-to-end/millrace.ts';

// Servers start here, beside other tests.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 120_000 });

const SETTINGS = { fsync: 'off', full_page_writes: 'off', autovacuum: 'off', min_wal_size: '32MB' };
const REPAIR = { on_loss: 'repair' };

let own: OwnPostgres;
let db: TestDatabase;
let millrace: Millrace | undefined;
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await own.remove();
});

async function lose(): Promise<void> {
  // Not before: a backfill takes its time while the slot is near its limit.
  await db.sql(`ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'`);
  await db.sql(`SELECT pg_reload_conf()`);
  await eventually('the server gives up the slot', async () => {
    await db.sql(`SELECT pg_logical_emit_message(false, 'filler', ''), pg_switch_wal()`);
    await db.sql('CHECKPOINT');
    const [slot] = await db.sql(`SELECT wal_status FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
    return slot.wal_status === 'lost';
  });
}

/** The tables as somebody knows them who has applied the messages one by one. */
function applied(messages: readonly Message[]): Map<string, unknown> {
  const rows = new Map<string, unknown>();
  for (const { action, record, metadata } of messages) {
    const key = `${metadata.table_name} ${record['id']}`;
    if (action === 'delete') expect(rows.delete(key)).toBe(true);
    else rows.set(key, record['v']);
  }
  return rows;
}
async function actual(): Promise<Map<string, unknown>> {
  const rows = await db.sql(`SELECT 't ' || id AS key, v FROM t UNION ALL SELECT 'u ' || id, v FROM u`);
  return new Map(rows.map(({ key, v }) => [key, v]));
}
const sorted = (rows: Map<string, unknown>) => [...rows].sort(([a], [b]) => (a < b ? -1 : 1));

test('the gap is refused, or bridged by one transaction that also holds the deletes, a bounded number of times', async () => {
  own = await startOwnPostgres(SETTINGS);
  db = await own.createDatabase();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)`);
  millrace = await startMillrace(db, { slot: REPAIR });
  const { dataDir } = millrace;
  await db.sql(`INSERT INTO t SELECT i, 'captured' FROM generate_series(1, 50) i`);
  await db.sql(`INSERT INTO u SELECT i, 'captured' FROM generate_series(1, 50) i`);
  await millrace.atLeast(100);
  const index = millrace.server.pipelines[0]!.rowIndex!;
  await eventually('the row index is filled', () => index.filled);
  await millrace.stop();

  await db.sql(`DELETE FROM t WHERE id <= 10; UPDATE t SET v = 'changed' WHERE id BETWEEN 11 AND 20`);
  await db.sql(`INSERT INTO t VALUES (51, 'new'); DELETE FROM u WHERE id > 5; UPDATE u SET id = id + 100`);
  await lose();

  // On a copy, because a row index that nothing needs any more is removed.
  const copy = `${dataDir}-copy`;
  cpSync(dataDir, copy, { recursive: true });
  await expect(startMillrace(db, { dataDir: copy })).rejects.toMatchObject({
    code: 'pg_slot_invalidated',
    detail: expect.stringMatching(/wal_removed.*\d+ bytes of WAL between/),
  });
  rmSync(copy, { recursive: true });

  const options = { dataDir, slot: REPAIR };
  millrace = await startMillrace(db, options);
  const differences = 10 + 10 + 1 + 50 + 5;
  const messages = await millrace.atLeast(100 + differences);
  const repair = messages.slice(100);
  expect(new Set(repair.map(({ metadata }) => metadata.commit_lsn)).size).toBe(1);
  expect(repair.map(({ metadata }) => metadata.commit_idx)).toEqual(Array.from({ length: differences }, (_, i) => i));
  expect(sorted(applied(messages))).toEqual(sorted(await actual()));
  expect(millrace.lines.join(' ')).toMatch(/attempt 1 of 5.*repaired up to .* 6 inserts, 10 updates and 60 deletes/s);

  // And it streams on from there.
  await db.sql(`DELETE FROM t WHERE id = 51`);
  const all = await millrace.atLeast(101 + differences);
  expect(all.at(-1)).toMatchObject({ action: 'delete', record: { id: 51 } });
  expect(sorted(applied(all))).toEqual(sorted(await actual()));
  await millrace.stop();

  // As many repairs as a day allows were made: the next loss needs a person.
  const store = await openLocalStore({ dir: dataDir, log: () => {} });
  const state = new SourceState(store.state, 'source/shop/identity');
  expect(state.repairs.attempts).toHaveLength(1);
  await state.saveRepairs({ ...state.repairs, attempts: Array(5).fill(Date.now()) });
  await store.close();
  await lose();
  await expect(startMillrace(db, options)).rejects.toMatchObject({
    code: 'pg_repair_failed',
    hint: expect.stringContaining('max_slot_wal_keep_size'),
  });
  const [slot] = await db.sql(`SELECT wal_status FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
  expect(slot.wal_status).toBe('lost');
  // Who may want it under another name.
  millrace = await startMillrace(db, { ...options, slot: { ...REPAIR, name: `${db.name}_anew` } });
  expect(millrace.lines.join(' ')).toContain('attempt 1 of 5');
});

test('an idle timeout of Postgres 18 is told by its name', async () => {
  own = await startOwnPostgres({ ...SETTINGS, idle_replication_slot_timeout: '1s' }, 18);
  db = await own.createDatabase();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
  millrace = await startMillrace(db);
  await db.sql(`INSERT INTO t VALUES (1)`);
  await millrace.atLeast(1);
  await millrace.stop();
  await eventually('the slot is given up', async () => {
    await db.sql('CHECKPOINT');
    const [slot] = await db.sql(`SELECT wal_status FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
    return slot.wal_status === 'lost';
  });
  await expect(startMillrace(db, { dataDir: millrace.dataDir })).rejects.toMatchObject({
    code: 'pg_slot_invalidated',
    detail: expect.stringContaining('idle_timeout'),
    hint: expect.stringContaining('idle_replication_slot_timeout'),
  });
});
