/**
 * From the moment a COMMIT returns at its client to the moment the transaction's last record is readable, at a tenth of
 * the rate that the same path drains a backlog at. Negative when the record was there before the client had its answer.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { PgConnection } from '@millrace/postgres/connection';
import { type BenchDatabase, PUBLICATION, TABLES } from './backlog.ts';
import { type Arrivals, monotonicMs } from './clients/arrivals.ts';
import type { FollowHttpInput } from './clients/follow-http.ts';
import type { LatencyServerInput, LatencyServerReady, LatencyServerResult } from './clients/latency-server.ts';
import type { Session } from './session.ts';
import { percentile, type Spread, spreadOf } from './statistics.ts';

export type Follower = 'in-process' | 'http';

export interface FollowerNumbers {
  readonly p50Ms: Spread;
  readonly p99Ms: Spread;
  readonly rowsPerSecond: Spread;
  readonly cpuSecondsPerMillionRows: Spread;
}

export interface LatencyNumbers {
  readonly runs: number;
  readonly rowsPerTransaction: number;
  readonly transactionsPerSecond: number;
  readonly seconds: number;
  readonly followers: Readonly<Record<Follower, FollowerNumbers>>;
}

interface Run {
  readonly latencies: Float64Array;
  readonly rowsPerSecond: number;
  readonly cpuSecondsPerMillionRows: number;
}

export interface Load {
  readonly rowsPerTransaction: number;
  readonly transactions: number;
  readonly warmUp: number;
}

const TRANSACTIONS_PER_SECOND = 500;
const WARM_UP_SECONDS = 2;
const SECONDS = 10;
const STREAM = 'rows';

export async function measureLatency(session: Session, drainRowsPerSecond: number): Promise<LatencyNumbers> {
  const { runs, scale } = session.settings;
  const seconds = Math.max(2, Math.round(SECONDS * Math.min(1, scale)));
  const load = steadyLoad(drainRowsPerSecond / 10, seconds);
  const measured: Record<Follower, Run[]> = { 'in-process': [], http: [] };
  for (let i = 0; i < runs; i++) {
    for (const follower of ['in-process', 'http'] as const) {
      const run = await followLoad(session, follower, load);
      measured[follower].push(run);
      const p50 = percentile(run.latencies, 0.5).toFixed(2);
      session.progress(
        `latency ${i + 1}/${runs} ${follower}: p50 ${p50} ms at ${Math.round(run.rowsPerSecond)} rows/s`,
      );
    }
  }
  return {
    runs,
    rowsPerTransaction: load.rowsPerTransaction,
    transactionsPerSecond: TRANSACTIONS_PER_SECOND,
    seconds,
    followers: { 'in-process': numbersOf(measured['in-process']), http: numbersOf(measured.http) },
  };
}

export function steadyLoad(rowsPerSecond: number, seconds: number): Load {
  return {
    rowsPerTransaction: Math.max(1, Math.round(rowsPerSecond / TRANSACTIONS_PER_SECOND)),
    warmUp: WARM_UP_SECONDS * TRANSACTIONS_PER_SECOND,
    transactions: (WARM_UP_SECONDS + seconds) * TRANSACTIONS_PER_SECOND,
  };
}

export async function followLoad(
  session: Session,
  follower: Follower,
  load: Load,
  env: Readonly<Record<string, string>> = {},
): Promise<Run> {
  const database = await (await session.postgres).createDatabase();
  try {
    await database.createTables(TABLES.small, [TABLES.small.name]);
    await database.createSlot();
    return await session.withDirectory(async (dataDir) => {
      const rows = load.transactions * load.rowsPerTransaction;
      const input: LatencyServerInput = {
        connection: database.connection,
        slot: 'origin',
        publication: PUBLICATION,
        dataDir,
        sinks: [{ name: STREAM }],
        rows,
        follow: follower === 'in-process',
      };
      const server = session.client<LatencyServerResult>('latency-server', input, env);
      const { url, token } = await server.event<LatencyServerReady>('ready');
      let remote: ReturnType<typeof session.client<Arrivals>> | null = null;
      if (follower === 'http') {
        remote = session.client<Arrivals>('follow-http', {
          url,
          token,
          stream: STREAM,
          rows,
        } satisfies FollowHttpInput);
        await remote.event('ready');
      }
      const commits = await write(database, load);
      const arrived = await remote?.result;
      server.tell('end');
      const result = await server.result;
      const busyMs = commits.at(-1)! - commits[load.warmUp]!;
      return {
        latencies: latenciesOf(commits, arrived ?? result.arrivals!, load),
        rowsPerSecond: ((load.transactions - load.warmUp) * load.rowsPerTransaction * 1000) / busyMs,
        cpuSecondsPerMillionRows: (result.cpuSeconds * 1e6) / rows,
      };
    });
  } finally {
    await database.drop();
  }
}

/** When each COMMIT returned. Transactions start on a fixed beat, whether the one before was slow or not. */
async function write(database: BenchDatabase, { rowsPerTransaction, transactions }: Load): Promise<Float64Array> {
  const connection = await PgConnection.connect(database.connection);
  try {
    await connection.query(
      `PREPARE add(bigint, bigint) AS INSERT INTO ${TABLES.small.name} ` +
        `SELECT ${TABLES.small.values} FROM generate_series($1, $2) AS i`,
    );
    const commits = new Float64Array(transactions);
    const beganAt = monotonicMs();
    for (let i = 0; i < transactions; i++) {
      const waitMs = beganAt + (i * 1000) / TRANSACTIONS_PER_SECOND - monotonicMs();
      if (waitMs > 0) await delay(waitMs);
      const first = i * rowsPerTransaction + 1;
      await connection.query(`EXECUTE add(${first}, ${first + rowsPerTransaction - 1})`);
      commits[i] = monotonicMs();
    }
    return commits;
  } finally {
    await connection.close();
  }
}

/** Ascending. One writer, one table and commit order: transaction i is the i-th run of records. */
function latenciesOf(commits: Float64Array, { ends, atMs }: Arrivals, load: Load): Float64Array {
  const latencies = new Float64Array(load.transactions - load.warmUp);
  let at = 0;
  for (let i = load.warmUp; i < load.transactions; i++) {
    const end = (i + 1) * load.rowsPerTransaction;
    while (ends[at]! < end) at++;
    latencies[i - load.warmUp] = atMs[at]! - commits[i]!;
  }
  return latencies.sort();
}

function numbersOf(runs: readonly Run[]): FollowerNumbers {
  return {
    p50Ms: spreadOf(runs.map((run) => percentile(run.latencies, 0.5))),
    p99Ms: spreadOf(runs.map((run) => percentile(run.latencies, 0.99))),
    rowsPerSecond: spreadOf(runs.map((run) => run.rowsPerSecond)),
    cpuSecondsPerMillionRows: spreadOf(runs.map((run) => run.cpuSecondsPerMillionRows)),
  };
}
