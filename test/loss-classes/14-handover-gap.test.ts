// Class 14: a gap between snapshot and stream. Rows are lost, or stale, or come twice, where the one gives way to the
// other, above all when the process dies on the way.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { settled } from '../end-to-end/backfills.ts';
import { startMillrace } from '../end-to-end/millrace.ts';
import { expectSame, startWorkload, WORKLOAD_TABLE } from './backfill-workload.ts';
import { engineProcess } from './engine-process.ts';

const SEED = Number(process.env['MILLRACE_TEST_SEED'] ?? 20_261_122);
const KILLS = Number(process.env['MILLRACE_TEST_KILLS'] ?? 4);
const ROWS = 4_000;

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(() => db.drop());

test(`killed at ${KILLS} points of a backfill under writers, every row is there once it is over, and none is stale (seed ${SEED})`, async () => {
  await db.sql(
    `${WORKLOAD_TABLE}; INSERT INTO t (id, pad) SELECT i, repeat('p', 300) FROM generate_series(1, ${ROWS}) i`,
  );
  const random = seededRandom(SEED);
  const sinks = [{ name: 'sink', initial_backfill: true }];
  // So slowly that the kills fall into it.
  const engine = await engineProcess(db, { sinks, database: { backfill: { rows_per_second: 900, connections: 2 } } });
  const workload = startWorkload(db, SEED, ROWS);
  try {
    engine.start();
    let reads = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      await engine.streaming();
      await new Promise((resolve) => setTimeout(resolve, random.integer(700)));
      await engine.process.kill('SIGKILL');
      const messages = await engine.messages();
      const now = messages.filter(({ action }) => action === 'read').length;
      // From where it stood, not from the start.
      expect(now).toBeGreaterThanOrEqual(reads);
      reads = now;
      engine.start();
    }
    await engine.process.kill('SIGKILL');
    expect(reads).toBeLessThan(ROWS);
    const millrace = await startMillrace(db, { dataDir: engine.dataDir, sinks });
    await settled(millrace);
    await workload.stop();
    await db.sql(`INSERT INTO t (id) VALUES (0)`);
    const end = await endOf(millrace);
    await millrace.stop();
    const read = await expectSame(db, end);
    expect(workload.commits).toBeGreaterThan(50);
    expect(read).toBeGreaterThan(ROWS / 3);
    // A row that moves on disk may be read again, in its newer state; what was not touched comes once.
    const untouched = end.filter(({ action, record }) => action === 'read' && String(record['pad']).startsWith('p'));
    expect(new Set(untouched.map(({ record }) => record['id'])).size).toBe(untouched.length);
  } finally {
    await workload.stop();
    await engine.remove();
  }
}, 90_000);

/** All messages, once the last change has arrived. */
async function endOf(millrace: Awaited<ReturnType<typeof startMillrace>>) {
  for (let count = 1; ; ) {
    const messages = await millrace.atLeast(count);
    if (messages.at(-1)?.record['id'] === 0) return messages;
    count = messages.length + 1;
  }
}
