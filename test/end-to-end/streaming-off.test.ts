import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually, type Millrace, startMillrace } from './millrace.ts';

const ROWS = 2_000;

let db: TestDatabase;
let millrace: Millrace | null = null;

beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`ALTER DATABASE ${db.name} SET logical_decoding_work_mem = '64kB'`);
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
});

afterEach(async () => {
  await millrace?.remove();
  await db.drop();
});

/** Of the slot: transactions that were sent while they ran, and that the server had to put on its own disk. */
async function statistics(): Promise<{ streamed: number; spilled: number }> {
  const [row] = await db.sql<{ streamed: number; spilled: number }>(
    `SELECT stream_txns::int AS streamed, spill_txns::int AS spilled FROM pg_stat_replication_slots WHERE slot_name = '${db.name}'`,
  );
  return row ?? { streamed: 0, spilled: 0 };
}

test.each([
  ['a large transaction is taken while it runs', true],
  ['with streaming: false the server keeps it until it commits', false],
])('%s', async (_, streaming) => {
  millrace = await startMillrace(db, { database: { streaming } });
  await db.sql(`INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, ${ROWS}) i`);
  expect(await millrace.atLeast(ROWS)).toHaveLength(ROWS);
  await eventually('the server has counted it', async () => {
    const { streamed, spilled } = await statistics();
    return streamed + spilled > 0;
  });
  const { streamed, spilled } = await statistics();
  expect({ streamed: streamed > 0, spilled: spilled > 0 }).toEqual({ streamed: streaming, spilled: !streaming });
});
