/** I3: what Postgres is told is durable, whatever keepalives ask for and however slow the disk is. */
import { rmSync } from 'node:fs';
import { startPipeline } from '@millrace/engine/pipeline';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { createDatabase, testDirectory } from '@millrace/testkit/postgres';
import { expect, test } from 'vitest';
import { gatedDisk } from './gated-disk.ts';

/** Acknowledging an idle position waits this long; the test asks for longer. */
const ASKED_FOR_MS = 1_500;

async function until(holds: () => Promise<boolean> | boolean): Promise<void> {
  const deadline = performance.now() + 40_000;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error('it never held');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test('Postgres is never told of a commit that the log has not synced, not even when it asks', async () => {
  const db = await createDatabase();
  const dir = testDirectory('acknowledge');
  const disk = gatedDisk();
  const store = await openLocalStore({ dir, fileSystem: disk.fileSystem });
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
  const { host, port, user, password, database } = db.config;
  const pipeline = await startPipeline({
    source: {
      name: 'shop',
      connection: { host, port, user, password, database, ssl: 'disable' },
      slot: { name: db.name, createIfNotExists: true },
      publication: { name: 'all', createIfNotExists: true },
    },
    sinks: [],
    logStream: await store.createLogStream('changes/shop'),
    state: store.state,
    logBytesMax: 2 ** 30,
    awaitMs: 1_000,
  });
  const position = async () => {
    const [row] =
      await db.sql(`SELECT s.confirmed_flush_lsn AS confirmed, r.flush_lsn AS flushed, r.reply_time::text AS replied
      FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE s.slot_name = '${db.name}'`);
    return row as { confirmed: string; flushed: string; replied: string };
  };
  const reaches = async (lsn: string) => {
    pipeline.capture.poke();
    const [row] = await db.sql(
      `SELECT confirmed_flush_lsn >= '${lsn}' AS yes FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
    );
    return row.yes as boolean;
  };
  try {
    await db.sql(`INSERT INTO t VALUES (1)`);
    const [{ lsn: first }] = await db.sql(`SELECT pg_current_wal_flush_lsn() AS lsn`);
    await until(() => reaches(first));
    for (let round = 0; round < 3; round++) {
      disk.shut();
      await db.sql(`INSERT INTO t SELECT generate_series(${round * 100 + 10}, ${round * 100 + 60})`);
      const [{ committed }] = await db.sql(`SELECT pg_current_wal_insert_lsn() AS committed`);
      await until(() => disk.waiting > 0);
      // Several status updates go out while the disk hangs; none of them may name the commit.
      let { replied } = await position();
      const asked = performance.now();
      for (let replies = 0; replies < 4 || performance.now() - asked < ASKED_FOR_MS; replies++) {
        const last = replied;
        await until(async () => {
          // Again in each round: a second update within the same millisecond does not change the time that is shown.
          pipeline.capture.poke();
          return (replied = (await position()).replied) !== last;
        });
        const [{ early }] = await db.sql(
          `SELECT confirmed_flush_lsn >= '${committed}'::pg_lsn AS early FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
        );
        expect(early).toBe(false);
      }
      const [{ after }] = await db.sql(`SELECT pg_current_wal_flush_lsn() AS after`);
      disk.open();
      await until(() => reaches(after));
    }
  } finally {
    disk.open();
    await pipeline.stop();
    await store.close();
    await db.drop();
    rmSync(dir, { recursive: true, force: true });
  }
}, 60_000);
