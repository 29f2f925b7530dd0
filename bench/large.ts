/**
 * What a long outage of the destination costs the source and this process: rows are written while no sink can be
 * reached, as many small transactions and as a single large one; then the same sink finds a destination and catches up.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { holdDeadPort } from '@millrace/testkit/dead-port';
import { type BenchDatabase, PUBLICATION, TABLES } from './backlog.ts';
import type { BenchServerInput } from './clients/bench-server.ts';
import type { Usage } from './clients/client.ts';
import type { SinksInput, SinksResult } from './clients/sinks.ts';
import type { Session } from './session.ts';

export interface LargeNumbers {
  readonly rows: number;
  readonly rowsPerTransaction: number;
  /** From the first row written to the last one captured. */
  readonly captureSeconds: number;
  readonly captureRssBytesMax: number;
  readonly captureCpuSecondsPerMillionRows: number;
  /** Between the slot's restart_lsn and the end of the WAL: at most while rows were written, and once all were captured. */
  readonly retainedWalBytesMax: number;
  readonly retainedWalBytesAfter: number;
  /** From then to when Postgres could let go of it. */
  readonly releaseSeconds: number;
  readonly catchUpSeconds: number;
  readonly catchUpRssBytesMax: number;
}

export interface LargeSection {
  readonly backlog: LargeNumbers;
  readonly transaction: LargeNumbers;
}

export const WAL_SEGMENT_BYTES = 16 * 1_048_576;
const BACKLOG_ROWS = 10_000_000;
const TRANSACTION_ROWS = 5_000_000;
/** Rows per statement, between which the writer can be interrupted. */
const STRETCH_ROWS = 100_000;
const SAMPLE_MS = 250;
const RELEASE_TIMEOUT_MS = 60_000;
const SLOT = 'large';
const TABLE = TABLES.small.name;

export async function measureLarge(session: Session): Promise<LargeSection> {
  const backlogRows = session.rows(BACKLOG_ROWS, STRETCH_ROWS);
  const transactionRows = session.rows(TRANSACTION_ROWS);
  return {
    backlog: await measureOutage(session, backlogRows, 100),
    transaction: await measureOutage(session, transactionRows, transactionRows),
  };
}

async function measureOutage(session: Session, rows: number, rowsPerTransaction: number): Promise<LargeNumbers> {
  session.progress(`large: ${rows} rows in transactions of ${rowsPerTransaction}, destination down`);
  const database = await (await session.postgres).createDatabase();
  const dead = await holdDeadPort();
  try {
    await database.createTables(TABLES.small, [TABLE]);
    await database.createSlot(SLOT);
    return await session.withDirectory(async (dataDir) => {
      const server = { connection: database.connection, slot: SLOT, publication: PUBLICATION, dataDir };
      const captured = await capture(
        session,
        database,
        server,
        `http://127.0.0.1:${dead.port}`,
        rows,
        rowsPerTransaction,
      );
      session.progress(`large: captured in ${captured.captureSeconds.toFixed(1)} s; destination is back`);
      const input: SinksInput = { ...server, sinks: [{ name: 'rows' }], records: rows };
      const beganAtMs = Date.now();
      const caughtUp = await session.client<SinksResult>('sinks', input).result;
      return {
        ...captured,
        catchUpSeconds: (caughtUp.endedAtMs - beganAtMs) / 1000,
        catchUpRssBytesMax: caughtUp.rssBytesMax,
      };
    });
  } finally {
    await dead.release();
    await database.drop();
  }
}

async function capture(
  session: Session,
  database: BenchDatabase,
  server: Omit<BenchServerInput, 'sinks'>,
  endpoint: string,
  rows: number,
  rowsPerTransaction: number,
): Promise<Omit<LargeNumbers, 'catchUpSeconds' | 'catchUpRssBytesMax'>> {
  const input: BenchServerInput = { ...server, sinks: [{ name: 'rows', endpoint }] };
  const client = session.client<Usage>('down-server', input);
  await client.event('ready');
  const beganAt = performance.now();
  const wal = watchWal(database, client.result);
  const stretch = Math.max(STRETCH_ROWS, rowsPerTransaction);
  for (let first = 1; first <= rows; first += stretch) {
    await database.fill(TABLE, first, Math.min(rows, first + stretch - 1), rowsPerTransaction);
  }
  await wal.caughtUp();
  const captureSeconds = (performance.now() - beganAt) / 1000;
  const retainedWalBytesMax = wal.stop();
  const release = await untilReleased(database);
  client.tell('end');
  const { cpuSeconds, rssBytesMax } = await client.result;
  return {
    rows,
    rowsPerTransaction,
    captureSeconds,
    captureRssBytesMax: rssBytesMax,
    captureCpuSecondsPerMillionRows: (cpuSeconds * 1e6) / rows,
    retainedWalBytesMax,
    ...release,
  };
}

interface SlotPlace {
  readonly retained: number;
  readonly behind: number;
}

async function placeOf(database: BenchDatabase, end: string): Promise<SlotPlace> {
  const [row] = await database.sql<SlotPlace>(`
    SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 AS retained,
           pg_wal_lsn_diff(${end}, confirmed_flush_lsn)::float8 AS behind
    FROM pg_replication_slots WHERE slot_name = '${SLOT}'`);
  return row!;
}

function watchWal(database: BenchDatabase, client: Promise<unknown>) {
  let most = 0;
  let stopped = false;
  let failure: unknown = null;
  client.catch((error: unknown) => (failure = error));
  const look = async (end: string) => {
    const place = await placeOf(database, end);
    most = Math.max(most, place.retained);
    return place;
  };
  const watching = (async () => {
    while (!stopped) {
      await look('pg_current_wal_lsn()');
      await delay(SAMPLE_MS);
    }
  })();
  // Whoever waits for the end of the rows sees the failure too.
  watching.catch((error: unknown) => (failure ??= error));
  return {
    async caughtUp(): Promise<void> {
      const [row] = await database.sql<{ lsn: string }>('SELECT pg_current_wal_insert_lsn()::text AS lsn');
      while (failure === null && (await look(`'${row!.lsn}'::pg_lsn`)).behind > 0) await delay(SAMPLE_MS);
      if (failure !== null) throw failure;
    },
    stop(): number {
      stopped = true;
      return most;
    },
  };
}

/**
 * A slot can let go only at a place where the server noted down its running transactions, which by itself it does every
 * 15 seconds. It is asked to, so that what is measured is ours and not the server's beat.
 */
async function untilReleased(
  database: BenchDatabase,
): Promise<{ retainedWalBytesAfter: number; releaseSeconds: number }> {
  const beganAt = performance.now();
  for (;;) {
    await database.sql('SELECT pg_log_standby_snapshot()');
    await delay(SAMPLE_MS);
    const { retained } = await placeOf(database, 'pg_current_wal_lsn()');
    const tookMs = performance.now() - beganAt;
    if (retained < 2 * WAL_SEGMENT_BYTES || tookMs > RELEASE_TIMEOUT_MS) {
      return { retainedWalBytesAfter: retained, releaseSeconds: tookMs / 1000 };
    }
  }
}
