/** Millrace with any number of databases, each with a sink of its name, and what its management API says. */
import { rmSync } from 'node:fs';
import { type Config, loadConfig } from '@millrace/api/config';
import { HEALTH_TIMING, type HealthTiming } from '@millrace/engine/health/health-timing';
import { type Server, type ServerOptions, startServer } from '@millrace/server/main';
import type { StreamStore } from '@millrace/stream-store/store';
import { testDirectory } from '@millrace/testkit/postgres';
import { stringify } from 'yaml';
import { ALL_ADDRESSES } from './hook-server.ts';
import { BASIN, eventually } from './millrace.ts';

/** A minute of the real ones is a second or so here. */
export const QUICK: HealthTiming = {
  ...HEALTH_TIMING,
  sampleMs: 50,
  probeMs: 150,
  tablesMs: 300,
  captureStallMs: 1_500,
  sinkStallMs: 1_500,
  sinkRetryMs: 500,
};

export interface DatabaseEntry {
  readonly name: string;
  readonly url: string;
  readonly slot: string;
  readonly database?: object;
  /** Of the sink that has its name. */
  readonly sink?: object;
  /** Another one, into a stream of its name in the store of the process. */
  readonly secondSink?: string;
}

export interface Reason {
  readonly entity: string;
  readonly name: string;
  readonly check: string;
  readonly status: string;
}

export interface Watched {
  readonly server: Server;
  readonly lines: readonly string[];
  /** How many messages the sink of this database has. */
  count(name: string): Promise<number>;
  ready(): Promise<{ status: number; ready: boolean; reasons: Reason[] }>;
  untilGreen(): Promise<void>;
  /** Until `/ready` is red for a reason that holds, and says 503. */
  untilRed(because: (reason: Reason) => boolean): Promise<Reason>;
  // biome-ignore lint/suspicious/noExplicitAny: whatever the route answers.
  api(path: string, init?: RequestInit): Promise<any>;
  remove(): Promise<void>;
}

export async function startWatched(
  entries: readonly DatabaseEntry[],
  timing: Partial<HealthTiming> = QUICK,
  /** For webhooks, by name; they may be on this machine. */
  endpoints: Readonly<Record<string, string>> = {},
  storage: ServerOptions['storage'] = {},
): Promise<Watched> {
  const dataDir = testDirectory('data');
  const lines: string[] = [];
  const text = stringify({
    databases: entries.map(({ name, url, slot, database }) => ({
      name,
      url,
      slot: { name: slot, create_if_not_exists: true },
      publication: { name: 'millrace', create_if_not_exists: true },
      await_database: { timeout_ms: 2_000 },
      ...database,
    })),
    http_endpoints: Object.entries(endpoints).map(([name, url]) => ({ name, url })),
    sinks: entries.flatMap(({ name, sink, secondSink }) => [
      { name, database: name, destination: { type: 's2', basin: BASIN, stream: name }, ...sink },
      ...(secondSink === undefined
        ? []
        : [{ name: secondSink, database: name, destination: { type: 's2', basin: BASIN, stream: secondSink } }]),
    ]),
  });
  const config = async (store: StreamStore): Promise<Config> => {
    await store.ensureBasin(BASIN, {
      defaultStreamConfig: {},
      streamCipher: null,
      createStreamOnAppend: true,
      createStreamOnRead: true,
    });
    return loadConfig(text, { file: 'millrace.yaml', env: {} });
  };
  const server = await startServer({
    config,
    dataDir,
    host: '127.0.0.1',
    port: 0,
    healthTiming: timing,
    network: ALL_ADDRESSES,
    storage,
    log: (line) => void lines.push(line),
  });

  async function ready() {
    const answer = await fetch(`${server.url}/ready`);
    const body = (await answer.json()) as { ready: boolean; reasons: Reason[] };
    if ((answer.status === 200) !== body.ready) throw new Error('the status of /ready is not what its body says');
    return { status: answer.status, ...body };
  }

  return {
    server,
    lines,
    async count(name) {
      return (await server.store.openStream(BASIN, name, 'read')).tail.seqNum;
    },
    ready,
    async untilGreen() {
      let last: unknown;
      await eventually('ready', async () => ((last = await ready()) as { ready: boolean }).ready).catch((error) => {
        throw new Error(`${error.message}: ${JSON.stringify(last)}; log: ${lines.join(' | ')}`);
      });
    },
    async untilRed(because) {
      let found: Reason | undefined;
      let last: unknown;
      await eventually('red', async () => {
        const now = await ready();
        last = now;
        found = now.reasons.find(because);
        return found !== undefined && now.status === 503;
      }).catch((error) => {
        throw new Error(`${error.message}: ${JSON.stringify(last)}; log: ${lines.join(' | ')}`);
      });
      return found!;
    },
    async api(path, init = {}) {
      const headers = { authorization: `Bearer ${server.firstRootToken}` };
      return await (await fetch(`${server.url}/api${path}`, { ...init, headers })).json();
    },
    async remove() {
      await server.stop();
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
}
