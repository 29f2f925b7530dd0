/** The three ways to read a table that bench/backfill.ts compares; each runs in a process of its own. */
import { BackfillRun } from '@millrace/engine/backfill/backfill-run';
import { RateLimit } from '@millrace/engine/backfill/read-pacing';
import { ReaderPool } from '@millrace/engine/backfill/reader-pool';
import { PgConnection } from '@millrace/postgres/connection';
import { MessageBatch } from '@millrace/sinks/message-batch';
import type { BackfillInput, BackfillResult } from './backfill.ts';
import { startBenchServer, untilDurable } from './clients/bench-server.ts';
import { startMeter } from './clients/client.ts';

const NO_LIMITS = { messagesMax: 1 << 20, bytesMax: Number.MAX_SAFE_INTEGER, messageOverhead: 0 };
/** Beyond any position: everything the stream had was delivered. */
const ALL_DELIVERED = 1n << 62n;

export function backfillJob(input: BackfillInput): Promise<BackfillResult> {
  switch (input.way) {
    case 'copy':
      return copy(input);
    case 'read':
      return read(input);
    case 'stream':
      return stream(input);
  }
}

async function copy({ connection: config, table, columns }: BackfillInput): Promise<BackfillResult> {
  const connection = await PgConnection.connect(config);
  const used = startMeter();
  const began = performance.now();
  await connection.query(`COPY (SELECT ${columns} FROM ${table}) TO STDOUT`);
  const seconds = (performance.now() - began) / 1000;
  const usage = used();
  await connection.close();
  return { seconds, ...usage };
}

async function read({ connection, table, oid, publication, connections, order, rows }: BackfillInput) {
  const pool = new ReaderPool(connection, connections);
  // Opened before the clock starts, as that of the copy is.
  const signal = new AbortController().signal;
  await Promise.all(
    Array.from({ length: connections }, () => pool.use(signal, (session) => session.query('SELECT 1'))),
  );
  const used = startMeter();
  const began = performance.now();
  let wake = () => {};
  let counted = 0;
  const run = new BackfillRun({
    job: {
      id: 'bench',
      kind: 'ad_hoc',
      table: { schema: 'public', name: table },
      oid,
      order,
      range: {},
      state: 'active',
      error: null,
      rowsInitial: rows,
      rowsInitialExact: true,
      rowsProcessed: 0,
      rowsIngested: 0,
      activeMs: 0,
      insertedAt: 0,
      updatedAt: 0,
      completedAt: null,
      canceledAt: null,
    },
    mark: null,
    pool,
    rate: new RateLimit(null),
    rowsPerSecondMax: null,
    publication,
    takes: () => true,
    takesUpdates: () => true,
    blocked: () => null,
    write: () => {
      counted++;
      return true;
    },
    currentXid: () => null,
    poke: () => {},
    notify: () => wake(),
    onEstimate: () => {},
    onProgress: () => {},
    ends: new Map(),
    begun: { since: null },
    remember: async () => {},
  });
  const batch = new MessageBatch(NO_LIMITS);
  while (!run.finished) {
    if (run.failure !== null) throw run.failure;
    const event = new Promise<void>((resolve) => {
      wake = resolve;
    });
    if (!run.fill(batch, { lsn: 0n, ordinal: -1 }, ALL_DELIVERED)) await event;
  }
  const seconds = (performance.now() - began) / 1000;
  const usage = used();
  await run.stop();
  await pool.close();
  if (counted !== rows) throw new Error(`${counted} rows were read instead of ${rows}.`);
  return { seconds, ...usage };
}

async function stream({ connection, table, publication, connections, order, rows, slot, dataDir }: BackfillInput) {
  const bench = await startBenchServer({
    connection,
    slot,
    publication,
    dataDir,
    sinks: [{ name: 'rows' }],
    backfillConnections: connections,
  });
  const manager = bench.server.pipelines[0]!.backfills.get('rows')!;
  const used = startMeter();
  const began = performance.now();
  await manager.create([{ table: { schema: 'public', name: table }, order }]);
  await untilDurable(bench, rows);
  const seconds = (performance.now() - began) / 1000;
  const usage = used();
  await bench.server.stop();
  return { seconds, ...usage };
}
