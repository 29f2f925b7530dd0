import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Config, loadConfig } from '@millrace/api/config';
import { type EmbeddedPostgres, startPostgres } from '@millrace/embedded-postgres/launcher';
import { type Server, startServer } from '@millrace/server/main';
import { makeDataDir } from '@millrace/stream-store/journal/data-dir';
import type { AccessTokenScope } from '@millrace/stream-store/model';
import { S2Error as StoreError } from '@millrace/stream-store/s2-error';
import type { StreamStore } from '@millrace/stream-store/store';
import { S2, S2Error, type S2Stream } from '@s2-dev/streamstore';
import type { DemoOptions } from '../commands/demo.ts';
import { CommandFailure } from '../failure.ts';
import { type Life, superviseProcess } from '../process-life.ts';
import { notice } from '../terminal.ts';
import { makeChanges, openShop, type Shop } from './shop.ts';
import { type StreamWatch, watchStream } from './stream-watch.ts';

/**
 * The whole product in one terminal: Postgres, its table, the engine, the store, a reader. The sink goes over the wire
 * with a token that may only append, exactly as it would to s2.dev.
 */

const BASIN = 'millrace-demo';
const STREAM = 'products';
const ARRIVAL_TIMEOUT_MS = 30_000;
const PAUSE_MS = 700;
const IDLE_PAUSE_MS = 8_000;
const POLL_MS = 10;
const CHANGES_PER_ROUND = 3;

export async function runDemo(options: DemoOptions): Promise<void> {
  const life = superviseProcess();
  const directory = options.data === undefined ? mkdtempSync(join(tmpdir(), 'millrace-demo-')) : resolve(options.data);
  await makeDataDir(directory);
  try {
    await runIn(directory, options, life);
  } finally {
    if (options.data === undefined) rmSync(directory, { recursive: true, force: true });
  }
}

async function runIn(directory: string, options: DemoOptions, life: Life): Promise<void> {
  const closing: (() => Promise<void>)[] = [];
  try {
    notice('note', 'Starting an embedded Postgres with a table products ...');
    const postgres = await startPostgres({ dir: join(directory, 'postgres') });
    closing.push(() => (options.data === undefined ? postgres.remove() : postgres.stop()));
    const shop = await openShop(postgres);
    closing.push(() => shop.close());
    if (life.stop.aborted) return;

    notice('note', 'Starting Millrace: the engine and a stream store ...');
    const tokens = { reader: '' };
    const server = await startServer({
      config: (store, url) => prepare(store, url, postgres, tokens),
      dataDir: join(directory, 'millrace'),
      host: '127.0.0.1',
      port: options.port,
      log: withoutRepetition((line) => notice('note', line)),
    });
    closing.push(() => server.stop());
    const scene: Scene = { postgres, server, shop, token: tokens.reader, life };
    // The play itself ends on a signal, after what it has under way.
    const playing = play(scene, options);
    await Promise.race([playing, server.done.then(() => playing)]);
  } finally {
    for (const close of closing.reverse()) await close();
  }
}

/** The engine may say the same thing many times over; on a stage once is enough. */
function withoutRepetition(log: (line: string) => void): (line: string) => void {
  let recent: readonly string[] = [];
  return (line) => {
    if (recent.includes(line)) return;
    recent = [...recent, line].slice(-8);
    log(line);
  };
}

interface Scene {
  readonly postgres: EmbeddedPostgres;
  readonly server: Server;
  readonly shop: Shop;
  readonly token: string;
  readonly life: Life;
}

async function play(scene: Scene, options: DemoOptions): Promise<void> {
  const { server, shop, token, life } = scene;
  const stream = openStream(server.url, token);
  if (shop.isNew) await waitForTail(openStream(server.url, token), shop.rows, life.stop);
  notice('note', `$ millrace read s2://${BASIN}/${STREAM}`);
  const stopReading = new AbortController();
  const watch = watchStream(stream, AbortSignal.any([life.stop, stopReading.signal]));
  try {
    if (shop.isNew && !(await watch.waitForCount(shop.rows, ARRIVAL_TIMEOUT_MS))) {
      throw missing(`the ${shop.rows} rows of the initial backfill`);
    }
    const changes = makeChanges(shop);
    for (let made = 0; made < CHANGES_PER_ROUND && !life.stop.aborted; made++) {
      await showNextChange(changes, watch, life);
      if (options.once !== true) await pause(PAUSE_MS, life.stop);
    }
    if (options.once === true || life.stop.aborted) return;
    explainConnections(scene);
    while (!life.stop.aborted) {
      await pause(IDLE_PAUSE_MS, life.stop);
      if (!life.stop.aborted) await showNextChange(changes, watch, life);
    }
  } finally {
    stopReading.abort();
    await watch.done;
  }
}

/** The sink creates the stream with its first append: until then there is nothing to read. */
async function waitForTail(stream: S2Stream, count: number, stop: AbortSignal): Promise<void> {
  const deadline = performance.now() + ARRIVAL_TIMEOUT_MS;
  while (!stop.aborted) {
    const tail = await stream.checkTail().catch((error: unknown) => {
      if (error instanceof S2Error && error.status === 404) return null;
      throw error;
    });
    if (tail !== null && tail.tail.seqNum >= count) break;
    if (performance.now() > deadline) throw missing(`the ${count} rows of the initial backfill`);
    await pause(POLL_MS, stop);
  }
  await stream.close();
}

async function showNextChange(changes: ReturnType<typeof makeChanges>, watch: StreamWatch, life: Life): Promise<void> {
  const { value: change } = await changes.next();
  if (change === undefined) return;
  const readableAtMs = await watch.waitFor(change.matches, ARRIVAL_TIMEOUT_MS);
  if (readableAtMs === null) {
    if (life.stop.aborted) return;
    throw missing(change.sql);
  }
  // The commit can reach the stream before its confirmation has reached us.
  const ms = Math.max(0, readableAtMs - change.committedAtMs);
  notice('done', `✓ ${change.sql};  -- readable ${ms < 1 ? 'less than 1' : Math.round(ms)} ms after the commit`);
}

function missing(what: string): CommandFailure {
  return new CommandFailure(
    'demo_incomplete',
    `not in the stream after ${ARRIVAL_TIMEOUT_MS / 1000} s: ${what}`,
    'The lines above may say why.',
  );
}

function openStream(url: string, token: string): S2Stream {
  const s2 = new S2({ accessToken: token, endpoints: { account: url, basin: url } });
  return s2.basin(BASIN).stream(STREAM);
}

async function pause(ms: number, stop: AbortSignal): Promise<void> {
  await delay(ms, undefined, { signal: stop }).catch(() => {});
}

/** What a user would do with `create-basin` and `issue-access-token` before writing the config file. */
async function prepare(
  store: StreamStore,
  url: string,
  postgres: EmbeddedPostgres,
  tokens: { reader: string },
): Promise<Config> {
  await store.ensureBasin(BASIN, {
    defaultStreamConfig: {},
    streamCipher: null,
    createStreamOnAppend: true,
    createStreamOnRead: false,
  });
  const none = { read: false, write: false };
  const appendOnly: AccessTokenScope = {
    basins: { exact: BASIN },
    streams: { prefix: '' },
    accessTokens: null,
    opGroups: { account: none, basin: none, stream: none },
    ops: ['append'],
  };
  const all = { read: true, write: true };
  const everything: AccessTokenScope = {
    basins: { prefix: '' },
    streams: { prefix: '' },
    accessTokens: { prefix: '' },
    opGroups: { account: all, basin: all, stream: all },
    ops: [],
  };
  const sinkToken = await issueAnew(store, 'demo-sink', appendOnly);
  tokens.reader = await issueAnew(store, 'demo', everything);
  return configOf(postgres, url, sinkToken);
}

/** With --data, the token of the run before is still there, and its secret is not. */
async function issueAnew(store: StreamStore, id: string, scope: AccessTokenScope): Promise<string> {
  await store.revokeAccessToken(id).catch((error: unknown) => {
    if (!(error instanceof StoreError) || error.code !== 'access_token_not_found') throw error;
  });
  return store.issueAccessToken({ id, expiresAt: null, autoPrefixStreams: false, scope });
}

/** As a configuration file would say it, so that every default is the product's own. */
function configOf(postgres: EmbeddedPostgres, url: string, accessToken: string): Config {
  const file = {
    databases: [
      {
        name: 'shop',
        hostname: postgres.host,
        port: postgres.port,
        database: postgres.database,
        username: postgres.user,
        password: postgres.password,
        slot: { name: 'millrace_demo', create_if_not_exists: true },
        publication: { name: 'millrace_demo', create_if_not_exists: true },
        await_database: { timeout_ms: 10_000, interval_ms: 100 },
      },
    ],
    sinks: [
      {
        name: 'products',
        database: 'shop',
        source: { include_tables: ['public.products'] },
        initial_backfill: true,
        destination: { type: 's2', basin: BASIN, stream: STREAM, access_token: accessToken, endpoint: url },
      },
    ],
  };
  return loadConfig(JSON.stringify(file), { file: 'demo', env: {} });
}

function explainConnections({ postgres, server, token }: Scene): void {
  notice(
    'note',
    `
Change the table yourself:
  psql '${postgres.url}'

Read the stream in another terminal:
  export S2_ACCESS_TOKEN=${token}
  export S2_ACCOUNT_ENDPOINT=${server.url} S2_BASIN_ENDPOINT=${server.url}
  npx millrace read s2://${BASIN}/${STREAM}
  s2 read s2://${BASIN}/${STREAM} -s 0        (S2's own CLI)

A change comes every ${IDLE_PAUSE_MS / 1000} s. Ctrl-C ends the demo.`,
  );
}
