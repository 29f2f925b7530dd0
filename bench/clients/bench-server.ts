/** The whole of Millrace, as `millrace start` composes it, configured for a measurement. */
import { loadConfig } from '@millrace/api/config';
import type { ConnectionConfig } from '@millrace/postgres/connection';
import { type Server, type ServerOptions, startServer } from '@millrace/server/main';
import { DEFAULT_BASIN_CONFIG } from '@millrace/stream-store/model';
import type { Stream } from '@millrace/stream-store/store';
import { startMeter, type Usage } from './client.ts';

export interface BenchSink {
  readonly name: string;
  /** Of the schema public; absent: every table. */
  readonly table?: string;
  /** Absent: the store in the process. */
  readonly endpoint?: string;
  /** Of its entry in the configuration, for a destination that is no stream. */
  readonly push?: Readonly<Record<string, unknown>>;
}

export interface BenchServerInput {
  readonly connection: ConnectionConfig;
  readonly slot: string;
  readonly publication: string;
  readonly dataDir: string;
  readonly sinks: readonly BenchSink[];
  readonly backfillConnections?: number;
  /** Of the HTTP endpoint `bench`. */
  readonly endpointUrl?: string;
  /** What else stands in the configuration, such as `functions`. */
  readonly more?: Readonly<Record<string, unknown>>;
}

export interface BenchServer {
  readonly server: Server;
  readonly token: string;
  /** Since Postgres began to send. */
  readonly used: () => Usage;
  /** Of each sink into the store of the process. */
  readonly streams: readonly Stream[];
  /** What it said last. */
  readonly lines: readonly string[];
  /** How many lines it has said. */
  readonly linesSaid: () => number;
}

export const BASIN = 'bench-basin';
const TAIL_POLL_MS = 5;
const LINES_MAX = 20;
/** Longer than Postgres takes to decode the largest transaction before it sends the first row of it. */
const STALL_MS = 60_000;

export async function startBenchServer(input: BenchServerInput): Promise<BenchServer> {
  const { connection, slot, publication, dataDir } = input;
  let used: (() => Usage) | null = null;
  const lines: string[] = [];
  let linesSaid = 0;
  const config: ServerOptions['config'] = async (store) => {
    await store.ensureBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
    for (const { name, push } of input.sinks) if (push === undefined) await store.ensureStream(BASIN, name, {});
    // As a configuration file would say it, so that every default is the product's own.
    const file = {
      databases: [
        {
          name: 'bench',
          hostname: connection.host,
          port: connection.port,
          database: connection.database,
          username: connection.user,
          password: connection.password ?? '',
          ssl: 'disable',
          slot: { name: slot },
          publication: { name: publication },
          ...(input.backfillConnections !== undefined && { backfill: { connections: input.backfillConnections } }),
        },
      ],
      ...(input.endpointUrl !== undefined && { http_endpoints: [{ name: 'bench', url: input.endpointUrl }] }),
      sinks: input.sinks.map(({ name, table, endpoint, push }) => ({
        name,
        database: 'bench',
        ...(table !== undefined && { source: { include_tables: [`public.${table}`] } }),
        destination: {
          type: 's2',
          basin: BASIN,
          stream: name,
          ...(endpoint !== undefined && { endpoint, access_token: 'bench' }),
        },
        ...push,
      })),
      ...input.more,
    };
    return loadConfig(JSON.stringify(file), { file: 'bench', env: {} });
  };
  const server = await startServer({
    config,
    dataDir,
    host: '127.0.0.1',
    port: 0,
    network: { brokers: { allowPrivate: true, allow: [] }, webhooks: { allowPrivate: true, allow: [] } },
    log(line) {
      // The first thing it says is that it is streaming.
      used ??= startMeter();
      linesSaid++;
      lines.push(line);
      if (lines.length > LINES_MAX) lines.shift();
    },
  });
  const local = input.sinks.filter(({ endpoint, push }) => endpoint === undefined && push === undefined);
  const streams = await Promise.all(local.map(({ name }) => server.store.openStream(BASIN, name, 'read')));
  return {
    server,
    token: server.firstRootToken ?? '',
    streams,
    lines,
    linesSaid: () => linesSaid,
    used: used ?? startMeter(),
  };
}

/**
 * Resolves once the durable tails hold `rows` records together. Looks at them now and then: a follower would make the
 * store keep the newest records in memory for it.
 */
export async function untilDurable({ server, streams, lines }: BenchServer, rows: number): Promise<void> {
  const held = () => streams.reduce((sum, stream) => sum + stream.tail.seqNum, 0);
  let failure: unknown = null;
  server.done.catch((error: unknown) => (failure = error));
  let last = 0;
  let movedAt = performance.now();
  for (let now = held(); now < rows; now = held()) {
    if (failure !== null) throw failure;
    if (now !== last) movedAt = performance.now();
    else if (performance.now() - movedAt > STALL_MS) {
      throw new Error([`The streams stay at ${now} records of ${rows}. The server said:`, ...lines].join('\n'));
    }
    last = now;
    await new Promise((resolve) => setTimeout(resolve, TAIL_POLL_MS));
  }
  if (held() !== rows) throw new Error(`The streams hold ${held()} records instead of ${rows}.`);
}
