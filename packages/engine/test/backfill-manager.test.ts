/** The backfills of a sink on real tables, beside a stream that the test plays. */
import type { BackfillJob } from '@millrace/engine/backfill/backfill-job';
import { BackfillManager } from '@millrace/engine/backfill/backfill-manager';
import { BackfillSource, DEFAULT_BACKFILL_LIMITS } from '@millrace/engine/backfill/backfill-source';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';

const AT = { lsn: 1n, ordinal: 0 };
const ALL_DELIVERED = 1n << 62n;

let db: TestDatabase;
let source: BackfillSource;
let manager: BackfillManager;
let saved: readonly BackfillJob[];
beforeEach(async () => {
  db = await createDatabase();
  source = new BackfillSource({
    connection: { ...db.config, ssl: 'disable' },
    publication: 'played',
    slot: 'none',
    limits: DEFAULT_BACKFILL_LIMITS,
    logLeft: async () => null,
    diskLeft: async () => null,
  });
  saved = [];
  manager = new BackfillManager({
    sink: 'sink',
    store: {
      load: () => [],
      async save(jobs) {
        saved = jobs;
      },
      holds: (job) => saved.includes(job),
      forget: async () => {},
    },
    source,
    initial: false,
    initialId: (schema, table) => `${schema}.${table}`,
    takes: () => true,
    takesUpdates: () => true,
  });
});
afterEach(async () => {
  await manager.detach();
  await source.close();
  await db.drop();
});

function attach(): void {
  manager.attach({
    marks: new Map(),
    write: () => true,
    partialLsn: null,
    inTransaction: () => false,
    poke: () => {},
  });
}

/** The mark of the next batch that has one. */
async function nextMark(): Promise<readonly string[]> {
  const batch = new MessageBatch({ messagesMax: 10, bytesMax: 1000, messageOverhead: 0 });
  while (!manager.fill(batch, AT, ALL_DELIVERED)) await manager.changedNext(new AbortController().signal);
  return batch.mark!.key;
}

test('the counts are on record before it is marked as done, for after a crash there is no mark that has them', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 5);
    CREATE PUBLICATION played FOR TABLE t`);
  attach();
  await manager.create([{ table: { schema: 'public', name: 't' } }]);
  expect((await nextMark())[1]).toBe('5/5');
  expect(await nextMark()).toEqual([]);
  expect(saved).toMatchObject([{ state: 'active', rowsProcessed: 5, rowsIngested: 5 }]);
});

test('ended backfills that are forgotten leave room for others, in memory too', async () => {
  await db.sql('CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION played FOR TABLE t');
  // All of them would be more than a sink may keep, the 200 that are remembered are not.
  const where = `true -- ${'a long condition '.repeat(550)}`;
  for (let i = 0; i < 240; i++) {
    const [job] = await manager.create([{ table: { schema: 'public', name: 't' }, range: { where } }], 'paused');
    await manager.cancel(job!.id);
  }
  expect(manager.list().length).toBeLessThanOrEqual(201);
}, 120_000);
