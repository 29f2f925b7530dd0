// Class 18: several readers of one table that do not agree on what they see. Ours each have a snapshot of their own, so
// a row that moves from the range of one to the range of another between them must not get lost or come stale.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { managerOf, settled } from '../end-to-end/backfills.ts';
import { type Millrace, startMillrace } from '../end-to-end/millrace.ts';
import { expectSame, startWorkload, WORKLOAD_TABLE } from './backfill-workload.ts';

const SEED = Number(process.env['MILLRACE_TEST_SEED'] ?? 20_261_122);
const ROWS = 3_000;

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

for (const order of ['physical', 'key'] as const) {
  test(`four readers by ${order}, while rows move between their ranges, make the table as it is (seed ${SEED})`, async () => {
    await db.sql(
      `${WORKLOAD_TABLE}; INSERT INTO t (id, pad) SELECT i, repeat('p', 400) FROM generate_series(1, ${ROWS}) i`,
    );
    millrace = await startMillrace(db, { database: { backfill: { connections: 4, rows_per_second: 3000 } } });
    const workload = startWorkload(db, SEED, ROWS, 4);
    try {
      // Twice: the second one reads what the first one's writers have left.
      for (let round = 0; round < 2; round++) {
        await managerOf(millrace).create([{ table: { schema: 'public', name: 't' }, order }]);
        await settled(millrace);
      }
    } finally {
      await workload.stop();
    }
    await db.sql('INSERT INTO t (id) VALUES (0)');
    let messages = await millrace.atLeast(1);
    while (messages.at(-1)?.record['id'] !== 0) messages = await millrace.atLeast(messages.length + 1);
    expect(await expectSame(db, messages)).toBeGreaterThan(ROWS);
    expect(workload.commits).toBeGreaterThan(50);
  }, 60_000);
}
