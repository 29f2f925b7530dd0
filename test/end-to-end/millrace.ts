/** Millrace whole, in the process of a test: a database in, streams out, and what they hold. */
import { rmSync } from 'node:fs';
import { type Config, loadConfig } from '@millrace/api/config';
import { type Server, type ServerOptions, startServer } from '@millrace/server/main';
import type { StreamStore } from '@millrace/stream-store/store';
import { type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { stringify } from 'yaml';
import { bodiesOf } from '../stream-bodies.ts';

export const BASIN = 'test-basin';

export interface Message {
  readonly record: Record<string, unknown>;
  readonly changes: Record<string, unknown> | null;
  readonly action: 'insert' | 'update' | 'delete' | 'read' | 'truncate' | 'message' | 'schema' | 'ddl';
  readonly metadata: {
    readonly table_schema: string;
    readonly table_name: string;
    readonly commit_timestamp: string;
    readonly commit_lsn: number;
    readonly commit_idx: number;
    readonly idempotency_key: string;
    readonly transaction_annotations: unknown;
    readonly record_pks: string[];
    readonly [key: string]: unknown;
  };
}

export interface SinkOptions {
  readonly name?: string;
  readonly stream?: string;
  readonly source?: object;
  readonly actions?: readonly string[];
  readonly status?: string;
  readonly initial_backfill?: boolean | readonly object[];
  readonly logical_messages?: boolean | readonly string[];
  readonly schema_changes?: boolean;
  readonly unchanged_toast?: 'omit' | 'marker';
  readonly fill_unchanged?: boolean;
  /** Over the keys of a stream's; one with another type stands alone. */
  readonly destination?: object;
  readonly where?: readonly object[];
  readonly columns?: object;
  readonly push_down?: boolean;
  readonly tables?: readonly object[];
  readonly timestamp_format?: string;
  /** Names of functions. */
  readonly filter?: string;
  readonly transform?: string;
  readonly routing?: string;
  readonly enrichment?: string;
  readonly max_retry_count?: number;
  readonly retry?: object;
  readonly oversize?: object;
  readonly start?: 'now' | 'beginning' | object;
}

export interface MillraceOptions {
  readonly sinks?: readonly SinkOptions[];
  readonly functions?: readonly object[];
  readonly httpEndpoints?: readonly object[];
  readonly network?: ServerOptions['network'];
  readonly slot?: object;
  readonly publication?: object;
  /** Other keys of the database. */
  readonly database?: object;
  readonly dataDir?: string;
  readonly changeLogBytesMax?: number;
}

export interface Millrace {
  readonly server: Server;
  readonly dataDir: string;
  readonly lines: readonly string[];
  /** Text of each record's body. */
  bodies(stream?: string): Promise<string[]>;
  messages(stream?: string): Promise<Message[]>;
  /** Waits until the stream holds `count` messages, and returns all it holds then. */
  atLeast(count: number, stream?: string): Promise<Message[]>;
  stop(): Promise<void>;
  /** Stops and removes the data. */
  remove(): Promise<void>;
}

export function configText(db: TestDatabase, options: MillraceOptions): string {
  const sinks = options.sinks ?? [{}];
  return stringify({
    databases: [
      {
        name: 'shop',
        url: db.url,
        slot: { name: db.name, create_if_not_exists: true, ...options.slot },
        publication: { name: 'millrace', create_if_not_exists: true, ...options.publication },
        await_database: { timeout_ms: 2_000 },
        ...options.database,
      },
    ],
    ...(options.functions && { functions: options.functions }),
    ...(options.httpEndpoints && { http_endpoints: options.httpEndpoints }),
    sinks: sinks.map(({ name = 'sink', stream = name, destination, ...rest }) => ({
      name,
      database: 'shop',
      destination:
        destination !== undefined && 'type' in destination
          ? destination
          : { type: 's2', basin: BASIN, stream, ...destination },
      ...rest,
    })),
  });
}

export async function startMillrace(db: TestDatabase, options: MillraceOptions = {}): Promise<Millrace> {
  const dataDir = options.dataDir ?? testDirectory('data');
  const lines: string[] = [];
  const config = async (store: StreamStore): Promise<Config> => {
    await store.ensureBasin(BASIN, {
      defaultStreamConfig: {},
      streamCipher: null,
      createStreamOnAppend: true,
      createStreamOnRead: true,
    });
    return loadConfig(configText(db, options), { file: 'millrace.yaml', env: {} });
  };
  const server = await startServer({
    config,
    dataDir,
    host: '127.0.0.1',
    port: 0,
    log: (line) => void lines.push(line),
    changeLogBytesMax: options.changeLogBytesMax,
    network: options.network,
  });
  const defaultStream = options.sinks?.[0]?.stream ?? options.sinks?.[0]?.name ?? 'sink';

  async function bodies(stream = defaultStream): Promise<string[]> {
    const target = await server.store.openStream(BASIN, stream, 'read');
    const found: string[] = [];
    for await (const body of bodiesOf(target)) found.push(body);
    return found;
  }

  const millrace: Millrace = {
    server,
    dataDir,
    lines,
    bodies,
    async messages(stream) {
      return (await bodies(stream)).map((body) => JSON.parse(body) as Message);
    },
    async atLeast(count, stream = defaultStream) {
      const target = await server.store.openStream(BASIN, stream, 'read');
      const arrived = await target.waitBeyond(count - 1, AbortSignal.timeout(50_000));
      if (arrived !== 'records') {
        throw new Error(`${stream} holds ${target.tail.seqNum} of ${count} messages; log: ${lines.join(' | ')}`);
      }
      return millrace.messages(stream);
    },
    async stop() {
      await server.stop();
    },
    async remove() {
      await server.stop();
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
  return millrace;
}

/** Polls until it holds, because Postgres announces nothing here. */
export async function eventually(
  what: string,
  holds: () => Promise<boolean> | boolean,
  timeoutMs = 40_000,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
