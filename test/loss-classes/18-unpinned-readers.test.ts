// Class 18: several readers of one table that do not agree on what they see. Ours each have a snapshot of their own, so
// a row that moves from the range of one to the range of another between them must not get lost or come stale.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
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

test(`a table without a key: what is there is delivered, and nothing is read behind the change that removed it (seed ${SEED})`, async () => {
  await db.sql(`CREATE SEQUENCE versions; CREATE TABLE t (id int, version bigint NOT NULL DEFAULT nextval('versions'), pad text);
    ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t (id, pad) SELECT i, repeat('p', 400) FROM generate_series(1, ${ROWS}) i`);
  millrace = await startMillrace(db, { database: { backfill: { connections: 3, rows_per_second: 4000 } } });
  const random = seededRandom(SEED);
  let writing = true;
  const writer = (async () => {
    for (; writing; ) {
      const key = 1 + random.integer(ROWS);
      // The last one is a row that is never the same for long.
      if (random.chance(0.3)) await db.sql(`DELETE FROM t WHERE id = ${key}`);
      else
        await db.sql(
          `UPDATE t SET version = DEFAULT, pad = repeat('x', ${random.integer(700)}) WHERE id IN (${key}, ${ROWS})`,
        );
      if (random.chance(0.2)) await db.sql(`INSERT INTO t (id) VALUES (${key})`);
    }
  })();
  try {
    await managerOf(millrace).create([{ table: { schema: 'public', name: 't' } }]);
    await settled(millrace);
  } finally {
    writing = false;
    await writer;
  }
  await db.sql('INSERT INTO t (id) VALUES (0)');
  let messages = await millrace.atLeast(1);
  while (messages.at(-1)?.record['id'] !== 0) messages = await millrace.atLeast(messages.length + 1);
  // Every row that ever was has a version of its own.
  const there = new Set<unknown>();
  const gone = new Set<unknown>();
  const stale: unknown[] = [];
  for (const { action, record, changes } of messages) {
    const version = record['version'];
    if (action === 'read' && gone.has(version)) stale.push(record['id']);
    const removed = action === 'delete' ? version : action === 'update' ? changes!['version'] : undefined;
    if (removed !== undefined) {
      gone.add(removed);
      there.delete(removed);
    }
    if (action !== 'delete') there.add(version);
  }
  expect(stale).toEqual([]);
  const actual = await db.sql<{ version: string }>('SELECT version FROM t');
  expect([...there].map(Number).sort((a, b) => a - b)).toEqual(
    actual.map(({ version }) => Number(version)).sort((a, b) => a - b),
  );
  expect(gone.size).toBeGreaterThan(20);
}, 60_000);

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
