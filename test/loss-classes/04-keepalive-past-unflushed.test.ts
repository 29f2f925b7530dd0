// A keepalive names a position behind what was received and not yet synced, and that position is acknowledged: after a
// crash Postgres has forgotten what we never had. Here the disk hangs while Postgres asks and asks, also in the middle of
// the replay of a large transaction.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startCapturing } from '../../packages/engine/test/captured-log.ts';
import { gatedDisk } from '../../packages/engine/test/gated-disk.ts';
import { eventually } from '../end-to-end/millrace.ts';

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`ALTER DATABASE ${db.name} SET logical_decoding_work_mem = '64kB'`);
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE unpublished (id int)');
});
afterEach(() => db.drop());

/** Rounds of questions while the disk hangs, and for how long at least: an idle position is acknowledged after a second. */
const QUESTIONS = 8;
const ASKED_FOR_MS = 1_500;

test.each([
  ['a small transaction', 20],
  ['one that was sent while it was in progress', 20_000],
])('%s is not acknowledged before it is synced, whatever keepalives say', async (_, rows) => {
  const disk = gatedDisk();
  const publicationSql = 'CREATE PUBLICATION "all" FOR TABLE t';
  const captured = await startCapturing(db, { store: { fileSystem: disk.fileSystem }, publicationSql });
  const passed = async (lsn: string) => {
    const [row] = await db.sql(
      `SELECT confirmed_flush_lsn >= '${lsn}'::pg_lsn AS yes FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
    );
    return row.yes as boolean;
  };
  try {
    await db.sql(`INSERT INTO t VALUES (-1, '')`);
    await captured.caughtUp();
    disk.shut();
    await db.sql(`INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, ${rows}) i`);
    const [{ after }] = await db.sql('SELECT pg_current_wal_insert_lsn() AS after');
    await eventually('the sync hangs', () => disk.waiting > 0);
    const asked = performance.now();
    for (let i = 0; i < QUESTIONS || performance.now() - asked < ASKED_FOR_MS; i++) {
      // Something goes on elsewhere, so that keepalives name ever later positions.
      await db.sql(`INSERT INTO unpublished VALUES (${i})`);
      const { statusUpdates } = captured.capture.stats!;
      captured.capture.poke();
      await eventually('a status update is sent', () => captured.capture.stats!.statusUpdates > statusUpdates);
      expect(await passed(after)).toBe(false);
    }
    disk.open();
    await eventually('what is synced is acknowledged', () => {
      captured.capture.poke();
      return passed(after);
    });
    // Before version 15, transactions without a published change are sent, too.
    const written = (await captured.transactions()).filter(({ changes }) => changes.length > 0);
    expect(written.at(-1)!.changes.length).toBe(rows);
  } finally {
    disk.open();
    await captured.remove();
  }
});
