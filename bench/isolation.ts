/**
 * What bad sinks cost the good ones beside them: ten good sinks of one slot under a steady load, from the return of
 * COMMIT to the receipt that the destination acknowledges; alone, beside ten others that behave, and beside the same ten
 * when their destinations are gone, stall, fail, dawdle or lie and a function runs into its time limit.
 */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { PgConnection } from '@millrace/postgres/connection';
import { type BenchDatabase, PUBLICATION, TABLES } from './backlog.ts';
import { monotonicMs } from './clients/arrivals.ts';
import type { BenchSink } from './clients/bench-server.ts';
import type { IsolationReceiverInput, RowArrivals } from './clients/isolation-receiver.ts';
import type { Drain, IsolationServerInput, IsolationServerResult, StretchUsage } from './clients/isolation-server.ts';
import type { Session } from './session.ts';
import { percentile, type Spread, spreadOf } from './statistics.ts';

export const ISOLATION_VARIANTS = {
  alone: 'alone',
  healthy: 'beside ten others that behave',
  bad: 'beside ten others that do not',
} as const;
export type IsolationVariant = keyof typeof ISOLATION_VARIANTS;

/** Before and after so much was written that the windows of the bad ones are full. */
export const ISOLATION_STRETCHES = ['filling', 'full'] as const;
export type IsolationStretch = (typeof ISOLATION_STRETCHES)[number];

export interface GoodNumbers {
  readonly p50Ms: Spread;
  readonly p99Ms: Spread;
}

export interface StretchNumbers {
  readonly webhooks: GoodNumbers;
  readonly streams: GoodNumbers;
  readonly cores: Spread;
  readonly mainThreadCores: Spread;
  readonly loopDelayP99Ms: Spread;
  readonly loopDelayMaxMs: Spread;
  readonly rssBytes: Spread;
  /** V8's heap and the buffers outside of it. */
  readonly usedBytes: Spread;
  readonly logLines: Spread;
  /** WAL that was written and that the slot had not confirmed, at most, looked at now and then. */
  readonly lagBytesMax: Spread;
}

export interface VariantNumbers {
  readonly stretches: Readonly<Record<IsolationStretch, StretchNumbers>>;
  /** Nothing is written. */
  readonly idle: Readonly<Record<'cores' | 'mainThreadCores' | 'lagBytes' | 'logLines', Spread>>;
  readonly rssBytesMax: Spread;
  /** Requests of the good webhooks that failed; each is tried again after a second, so one of a hundred makes the p99. */
  readonly goodFailures: Spread;
}

export interface IsolationNumbers {
  readonly runs: number;
  readonly transactionsPerSecond: number;
  readonly seconds: number;
  readonly burstRows: number;
  readonly idleSeconds: number;
  readonly goodWebhooks: number;
  readonly goodStreams: number;
  /** What the others are when they are bad. */
  readonly others: readonly string[];
  readonly variants: Readonly<Record<IsolationVariant, VariantNumbers>>;
}

/** Twenty sinks that behave must leave cores idle: beside a machine that is busy anyway bad ones would look good. */
const TRANSACTIONS_PER_SECOND = 100;
/** Until the code that runs was compiled: before, that is what would be measured. */
const WARM_UP_SECONDS = 6;
const SECONDS = 20;
const IDLE_SECONDS = 5;
/** More than the default of max_ack_pending, so that a sink that gets rid of nothing has a full window and a backlog. */
const BURST_ROWS = 12_000;
const BURST_ROWS_PER_TRANSACTION = 100;
const LAG_EVERY_MS = 250;
const GOOD_WEBHOOKS = Array.from({ length: 5 }, (_, i) => `webhook-${i}`);
const GOOD_STREAMS = Array.from({ length: 5 }, (_, i) => `stream-${i}`);

/** Of the configuration. `closed` is an endpoint that nobody listens at. */
type Endpoint = 'others' | 'closed';

interface Other {
  readonly about: string;
  readonly bad: { readonly endpoint: Endpoint; readonly path: string };
  readonly sink?: Readonly<Record<string, unknown>>;
  readonly destination?: Readonly<Record<string, unknown>>;
  /** When it behaves. Absent: a plain 200. */
  readonly path?: string;
}

/** Everything but the destination's conduct is the product's default, and the same whether they behave or not. */
const OTHERS: readonly Other[] = [
  { about: 'refusing connections', bad: { endpoint: 'closed', path: '/ok' } },
  { about: 'refusing connections', bad: { endpoint: 'closed', path: '/ok' } },
  { about: 'accepting and never answering', bad: { endpoint: 'others', path: '/stalled' } },
  {
    about: 'never answering, given up after a second',
    bad: { endpoint: 'others', path: '/stalled' },
    sink: { ack_wait_ms: 1_000 },
  },
  { about: 'answering 500', bad: { endpoint: 'others', path: '/error' } },
  { about: 'answering 400 to each message', bad: { endpoint: 'others', path: '/refusing' } },
  { about: 'answering 503 to every second request', bad: { endpoint: 'others', path: '/flaky' } },
  { about: 'answering after 2 s', bad: { endpoint: 'others', path: '/slow' } },
  {
    about: 'answering 200 with garbage where the body counts',
    bad: { endpoint: 'others', path: '/lying' },
    destination: { partial_success: true },
    path: '/taken',
  },
  {
    about: 'with a transform that never ends',
    bad: { endpoint: 'others', path: '/ok' },
    sink: { transform: 'tried' },
  },
];
const OTHER_NAMES = OTHERS.map((_, i) => `other-${i}`);
const FUNCTIONS = {
  behaves: 'export default (action, record, changes, metadata) => ({ id: record.id, action });',
  bad: 'export default () => { for (;;); };',
};

interface StretchRun extends StretchUsage {
  /** Ascending. */
  readonly webhooks: Float64Array;
  readonly streams: Float64Array;
  readonly lagBytesMax: number;
}

export interface IsolationRun {
  readonly stretches: Readonly<Record<IsolationStretch, StretchRun>>;
  readonly idle: StretchUsage & { readonly lagBytes: number };
  readonly result: IsolationServerResult;
}

interface Sizes {
  readonly transactions: number;
  readonly warmUp: number;
  readonly burstRows: number;
  readonly idleSeconds: number;
}

export async function measureIsolation(session: Session): Promise<IsolationNumbers> {
  const { runs } = session.settings;
  const sizes = isolationSizes(session);
  const measured: Record<IsolationVariant, IsolationRun[]> = { alone: [], healthy: [], bad: [] };
  for (let i = 0; i < runs; i++) {
    for (const variant of ['alone', 'healthy', 'bad'] as const) {
      const run = await isolationOnce(session, variant, sizes);
      measured[variant].push(run);
      const shown = ISOLATION_STRETCHES.map((name) => {
        const { webhooks, streams, cores } = run.stretches[name];
        const ms = (sorted: Float64Array) =>
          `${percentile(sorted, 0.5).toFixed(1)}/${percentile(sorted, 0.99).toFixed(1)} ms`;
        return `${name} webhooks ${ms(webhooks)}, streams ${ms(streams)}, ${cores.toFixed(2)} cores`;
      });
      session.progress(`isolation ${i + 1}/${runs} ${variant}: ${shown.join('; ')}; idle ${run.idle.cores.toFixed(3)}`);
    }
  }
  return {
    runs,
    transactionsPerSecond: TRANSACTIONS_PER_SECOND,
    seconds: (sizes.transactions - sizes.warmUp) / TRANSACTIONS_PER_SECOND,
    burstRows: sizes.burstRows,
    idleSeconds: sizes.idleSeconds,
    goodWebhooks: GOOD_WEBHOOKS.length,
    goodStreams: GOOD_STREAMS.length,
    others: OTHERS.map(({ about }) => about),
    variants: {
      alone: numbersOf(measured.alone),
      healthy: numbersOf(measured.healthy),
      bad: numbersOf(measured.bad),
    },
  };
}

export function isolationSizes(session: Session): Sizes {
  const { scale } = session.settings;
  const seconds = Math.max(2, Math.round(SECONDS * Math.min(1, scale)));
  return {
    transactions: (WARM_UP_SECONDS + seconds) * TRANSACTIONS_PER_SECOND,
    warmUp: WARM_UP_SECONDS * TRANSACTIONS_PER_SECOND,
    burstRows: session.rows(BURST_ROWS, BURST_ROWS_PER_TRANSACTION),
    idleSeconds: Math.max(2, Math.round(IDLE_SECONDS * Math.min(1, scale))),
  };
}

export async function isolationOnce(
  session: Session,
  variant: IsolationVariant,
  { transactions, warmUp, burstRows, idleSeconds }: Sizes,
  env: Readonly<Record<string, string>> = {},
): Promise<IsolationRun> {
  const table = TABLES.small.name;
  const database = await (await session.postgres).createDatabase();
  const rows = 2 * transactions + burstRows;
  const receiver = () => session.client<RowArrivals>('isolation-receiver', { rows } satisfies IsolationReceiverInput);
  const good = receiver();
  const others = receiver();
  try {
    await database.createTables(TABLES.small, [table]);
    await database.createSlot();
    const [goodAt, othersAt] = await Promise.all(
      [good, others].map(async (one) => (await one.event<{ url: string }>('listening')).url),
    );
    const closedAt = await nobodysUrl();
    return await session.withDirectory(async (dataDir) => {
      const input: IsolationServerInput = {
        connection: database.connection,
        slot: 'origin',
        publication: PUBLICATION,
        dataDir,
        rows,
        sinks: [...goodSinks(), ...(variant === 'alone' ? [] : otherSinks(variant))],
        more: {
          http_endpoints: [
            { name: 'good', url: goodAt },
            { name: 'others', url: othersAt },
            { name: 'closed', url: closedAt },
          ],
          functions: [{ name: 'tried', type: 'transform', code: FUNCTIONS[variant === 'bad' ? 'bad' : 'behaves'] }],
        },
      };
      const server = session.client<IsolationServerResult>('isolation-server', input, env);
      await server.event('ready');
      // What the bad ones never get rid of is not waited for.
      const drained = [...GOOD_WEBHOOKS, ...GOOD_STREAMS, ...(variant === 'healthy' ? OTHER_NAMES : [])];
      let stretch = 0;
      const during = async <T>(sofar: number, work: () => Promise<T>): Promise<{ used: StretchUsage; done: T }> => {
        server.tell(`drain:${stretch}`, { sinks: drained, rows: sofar } satisfies Drain);
        await server.event(`drained:${stretch}`);
        server.tell(`begin:${stretch}`);
        const done = await work();
        server.tell(`end:${stretch}`);
        return { used: await server.event<StretchUsage>(`usage:${stretch++}`), done };
      };
      const load = (first: number) => withLag(database, () => writeSteadily(database, table, first, transactions));

      const filling = await during(0, () => load(1));
      await database.fill(table, transactions + 1, transactions + burstRows, BURST_ROWS_PER_TRANSACTION);
      const full = await during(transactions + burstRows, () => load(transactions + burstRows + 1));
      const idle = await during(rows, () => withLag(database, () => delay(idleSeconds * 1000)));
      server.tell('end');
      good.tell('end');
      const [result, received] = await Promise.all([server.result, good.result]);
      const stretchOf = ({ used, done }: typeof filling, before: number): StretchRun => ({
        ...used,
        lagBytesMax: done.lagBytesMax,
        webhooks: latenciesOf(received, GOOD_WEBHOOKS, done.value, before, warmUp),
        streams: latenciesOf(result.arrivals, GOOD_STREAMS, done.value, before, warmUp),
      });
      return {
        stretches: { filling: stretchOf(filling, 0), full: stretchOf(full, transactions + burstRows) },
        idle: { ...idle.used, lagBytes: idle.done.lagBytesLast },
        result,
      };
    });
  } finally {
    await Promise.all([good.end(), others.end()]);
    await database.drop();
  }
}

function goodSinks(): BenchSink[] {
  return [
    ...GOOD_STREAMS.map((name) => ({ name })),
    ...GOOD_WEBHOOKS.map((name) => ({
      name,
      push: { destination: { type: 'webhook', http_endpoint: 'good', http_endpoint_path: `/good/${name}` } },
    })),
  ];
}

function otherSinks(variant: 'healthy' | 'bad'): BenchSink[] {
  return OTHERS.map(({ bad, sink, destination, path = '/ok' }, i) => ({
    name: OTHER_NAMES[i]!,
    push: {
      ...sink,
      destination: {
        type: 'webhook',
        http_endpoint: variant === 'bad' ? bad.endpoint : 'others',
        http_endpoint_path: variant === 'bad' ? bad.path : path,
        ...destination,
      },
    },
  }));
}

/** Of a port that was free a moment ago. */
async function nobodysUrl(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return `http://127.0.0.1:${port}`;
}

/** When each COMMIT returned; row by row. Transactions start on a fixed beat, whether the one before was slow or not. */
async function writeSteadily(
  database: BenchDatabase,
  table: string,
  first: number,
  transactions: number,
): Promise<Float64Array> {
  const connection = await PgConnection.connect(database.connection);
  try {
    await connection.query(
      `PREPARE add(bigint) AS INSERT INTO ${table} SELECT ${TABLES.small.values} FROM (VALUES ($1)) AS one (i)`,
    );
    const commits = new Float64Array(transactions);
    const beganAt = monotonicMs();
    for (let i = 0; i < transactions; i++) {
      const waitMs = beganAt + (i * 1000) / TRANSACTIONS_PER_SECOND - monotonicMs();
      if (waitMs > 0) await delay(waitMs);
      await connection.query(`EXECUTE add(${first + i})`);
      commits[i] = monotonicMs();
    }
    return commits;
  } finally {
    await connection.close();
  }
}

interface WithLag<T> {
  readonly value: T;
  readonly lagBytesMax: number;
  readonly lagBytesLast: number;
}

async function withLag<T>(database: BenchDatabase, work: () => Promise<T>): Promise<WithLag<T>> {
  const over = new AbortController();
  let lagBytesMax = 0;
  let lagBytesLast = 0;
  const look = async () => {
    const [row] = await database.sql<{ lag: number }>(
      "SELECT (pg_current_wal_flush_lsn() - confirmed_flush_lsn)::float8 AS lag FROM pg_replication_slots WHERE slot_name = 'origin'",
    );
    lagBytesLast = Number(row!.lag);
    lagBytesMax = Math.max(lagBytesMax, lagBytesLast);
  };
  const looking = (async () => {
    while (!over.signal.aborted) {
      await look();
      await delay(LAG_EVERY_MS, undefined, { signal: over.signal }).catch(() => {});
    }
  })();
  try {
    const value = await work();
    return { value, lagBytesMax, lagBytesLast };
  } finally {
    over.abort();
    await looking;
  }
}

/** Of all these sinks together, ascending. A row that never came makes the run fail. */
function latenciesOf(
  arrivals: RowArrivals,
  sinks: readonly string[],
  commits: Float64Array,
  before: number,
  warmUp: number,
): Float64Array {
  const latencies = new Float64Array(sinks.length * (commits.length - warmUp));
  let at = 0;
  for (const sink of sinks) {
    for (let i = warmUp; i < commits.length; i++) {
      const arrived = arrivals[sink]?.[before + i] ?? 0;
      if (arrived === 0) throw new Error(`Row ${before + i + 1} never came to "${sink}".`);
      latencies[at++] = arrived - commits[i]!;
    }
  }
  return latencies.sort();
}

function numbersOf(runs: readonly IsolationRun[]): VariantNumbers {
  const stretch = (name: IsolationStretch): StretchNumbers => {
    const all = runs.map(({ stretches }) => stretches[name]);
    const good = (which: 'webhooks' | 'streams'): GoodNumbers => ({
      p50Ms: spreadOf(all.map((run) => percentile(run[which], 0.5))),
      p99Ms: spreadOf(all.map((run) => percentile(run[which], 0.99))),
    });
    return {
      webhooks: good('webhooks'),
      streams: good('streams'),
      cores: spreadOf(all.map(({ cores }) => cores)),
      mainThreadCores: spreadOf(all.map(({ mainThreadCores }) => mainThreadCores)),
      loopDelayP99Ms: spreadOf(all.map(({ loopDelayP99Ms }) => loopDelayP99Ms)),
      loopDelayMaxMs: spreadOf(all.map(({ loopDelayMaxMs }) => loopDelayMaxMs)),
      rssBytes: spreadOf(all.map(({ rssBytes }) => rssBytes)),
      usedBytes: spreadOf(all.map(({ heapBytes, bufferBytes }) => heapBytes + bufferBytes)),
      logLines: spreadOf(all.map(({ logLines }) => logLines)),
      lagBytesMax: spreadOf(all.map(({ lagBytesMax }) => lagBytesMax)),
    };
  };
  return {
    stretches: { filling: stretch('filling'), full: stretch('full') },
    idle: {
      cores: spreadOf(runs.map(({ idle }) => idle.cores)),
      mainThreadCores: spreadOf(runs.map(({ idle }) => idle.mainThreadCores)),
      lagBytes: spreadOf(runs.map(({ idle }) => idle.lagBytes)),
      logLines: spreadOf(runs.map(({ idle }) => idle.logLines)),
    },
    rssBytesMax: spreadOf(runs.map(({ result }) => result.rssBytesMax)),
    goodFailures: spreadOf(
      runs.map(({ result }) => GOOD_WEBHOOKS.reduce((sum, name) => sum + result.failed[name]!, 0)),
    ),
  };
}
