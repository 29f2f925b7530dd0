/** The whole of Millrace, as `millrace start` composes it, configured for a measurement. */
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
}

export interface BenchServerInput {
  readonly connection: ConnectionConfig;
  readonly slot: string;
  readonly publication: string;
  readonly dataDir: string;
  readonly sinks: readonly BenchSink[];
}

export interface BenchServer {
  readonly server: Server;
  readonly token: string;
  /** Since Postgres began to send. */
  readonly used: () => Usage;
  /** Of each sink into the store of the process. */
  readonly streams: readonly Stream[];
}

export const BASIN = 'bench-basin';
const TAIL_POLL_MS = 5;

export async function startBenchServer(input: BenchServerInput): Promise<BenchServer> {
  const { connection, slot, publication, dataDir } = input;
  let used: (() => Usage) | null = null;
  const config: ServerOptions['config'] = async (store) => {
    await store.ensureBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
    for (const { name } of input.sinks) await store.ensureStream(BASIN, name, {});
    return {
      databases: [
        {
          name: 'bench',
          hostname: connection.host,
          port: connection.port,
          database: connection.database,
          username: connection.user,
          password: connection.password ?? '',
          ssl: 'disable',
          slot: { name: slot, createIfNotExists: false },
          publication: { name: publication, createIfNotExists: false },
          poolSize: 10,
          annotations: {},
          awaitDatabase: { timeoutMs: 30_000, intervalMs: 3_000 },
        },
      ],
      sinks: input.sinks.map(({ name, table, endpoint }) => ({
        name,
        database: 'bench',
        status: 'active',
        source: table === undefined ? {} : { includeTables: [{ schema: 'public', name: table }] },
        actions: ['insert', 'update', 'delete'],
        initialBackfill: false,
        annotations: {},
        destination: {
          type: 's2',
          basin: BASIN,
          stream: name,
          ...(endpoint !== undefined && { endpoint, accessToken: 'bench' }),
        },
      })),
    };
  };
  const server = await startServer({
    config,
    dataDir,
    host: '127.0.0.1',
    port: 0,
    log() {
      // The first thing it says is that it is streaming.
      used ??= startMeter();
    },
  });
  const local = input.sinks.filter(({ endpoint }) => endpoint === undefined);
  const streams = await Promise.all(local.map(({ name }) => server.store.openStream(BASIN, name, 'read')));
  return { server, token: server.firstRootToken ?? '', streams, used: used ?? startMeter() };
}

/**
 * Resolves once the durable tails hold `rows` records together. Looks at them now and then: a follower would make the
 * store keep the newest records in memory for it.
 */
export async function untilDurable({ server, streams }: BenchServer, rows: number): Promise<void> {
  const held = () => streams.reduce((sum, stream) => sum + stream.tail.seqNum, 0);
  let failure: unknown = null;
  server.done.catch((error: unknown) => (failure = error));
  while (held() < rows && failure === null) await new Promise((resolve) => setTimeout(resolve, TAIL_POLL_MS));
  if (failure !== null) throw failure;
  if (held() !== rows) throw new Error(`The streams hold ${held()} records instead of ${rows}.`);
}
