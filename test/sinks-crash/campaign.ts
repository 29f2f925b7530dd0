/**
 * The crash campaign of sinks: one database, one slot, a sink of every kind on it, each into a real server (the three of
 * AWS into an emulator); writers change many keys; Millrace is killed with SIGKILL at random moments, and its connections
 * to the destinations and to Postgres are cut.
 * At the end each destination is held against what was committed: nothing lost, nothing out of order within its key,
 * duplicates no more than what can have been under way at the kills and cuts, and none where the destination drops what
 * it has already.
 *
 *   npm run test:sinks-crash -- [--kills 50] [--seed N] [--kinds a,b] [--writers 4] [--keys 300] [--pause 40]
 */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { startOwnPostgres, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { type ProcessHarness, processHarness } from '@millrace/testkit/process-harness';
import { startProxy } from '@millrace/testkit/proxy';
import { seededRandom } from '@millrace/testkit/random';
import { stringify } from 'yaml';
import {
  BASIN,
  type Destination,
  ENDPOINT,
  KINDS,
  type Kind,
  missingOf,
  ROUTING_FUNCTION,
  startDestinations,
} from './destinations.ts';
import { judgeHistory, judgeLatest, type Verdict } from './judge.ts';
import { CREATE_TABLE, type History, startKeyedWorkload, TABLE } from './keyed-workload.ts';

export interface SinksCampaignOptions {
  readonly kills: number;
  readonly seed: number;
  readonly kinds: readonly Kind[];
  readonly writers: number;
  readonly keys: number;
  /** Rest of a writer between transactions, on average. */
  readonly pauseMs: number;
  readonly report?: (line: string) => void;
}

export interface SinkVerdict extends Verdict {
  readonly kind: Kind;
  /** How many duplicates there may be. */
  readonly duplicatesMax: number;
}

export interface SinksCampaignResult {
  /** What is wrong; empty when nothing is. */
  readonly problems: readonly string[];
  readonly sinks: readonly SinkVerdict[];
  readonly kills: number;
  readonly cuts: number;
  readonly changes: number;
}

const CLI = fileURLToPath(new URL('../../packages/cli/bin/millrace.js', import.meta.url));
const TOKEN = 'the-root-token-of-the-campaign';
const SLOT = 'sinks_crash';
/** Of each sink: what may be under way when it is killed, and so the most that can come twice for it. */
const WINDOW = 200;
/** A kill comes this long at most after Millrace listens, or at once: into start-up, catch-up or steady state. */
const LIFE_MS_MAX = 1_500;
const START_SHARE = 0.15;
const CUTS_PER_LIFE_MAX = 3;
const AWAY_MS_MAX = 600;
const CATCH_UP_MS = 180_000;
const POLL_MS = 100;

export async function runSinksCampaign(options: SinksCampaignOptions): Promise<SinksCampaignResult> {
  const { kills, seed, kinds, report = () => {} } = options;
  const random = seededRandom(seed);
  const dir = testDirectory('sinks-crash');
  const dataDir = join(dir, 'data');
  const own = await startOwnPostgres();
  let child: ProcessHarness | null = null;
  let url: string | null = null;
  const closing: (() => Promise<void>)[] = [];
  try {
    const db = await own.createDatabase();
    await db.sql(CREATE_TABLE);
    const proxy = await startProxy({ port: db.config.port });
    closing.push(() => proxy.close());
    const destinations = await startDestinations(kinds, seed, () => (url === null ? null : { url, token: TOKEN }));
    closing.push(() => destinations.stop());
    const config = join(dir, 'millrace.yaml');
    writeFileSync(config, configuration(db, proxy.port, destinations.all));
    writeFileSync(join(dir, 'token'), TOKEN);
    await prepareStore(dataDir);
    const millrace = processHarness({
      args: [
        ...[CLI, 'start', '--config', config, '--data', dataDir, '--port', '0'],
        ...['--root-token-file', join(dir, 'token'), '--sinks-allow', '127.0.0.1'],
      ],
    });
    child = millrace;
    const listening = async () => {
      const line = await millrace.waitForLine(/listening on /, { timeoutMs: 60_000 });
      url = /http:\S+/.exec(line)?.[0] ?? null;
    };
    const alive = () => {
      if (!millrace.running) throw new Error(`Millrace ended by itself:\n${millrace.transcript()}`);
    };
    millrace.start();
    await listening();
    await millrace.waitForLine(/streaming/, { timeoutMs: 60_000 });
    const workload = startKeyedWorkload({ ...options, config: db.config });
    closing.push(async () => void (await workload.stop().catch(() => {})));
    const proxies = new Set([proxy, ...destinations.all.flatMap((one) => one.proxy ?? [])]);
    let cuts = 0;
    for (let kill = 1; kill <= kills; kill++) {
      if (!random.chance(START_SHARE)) {
        await listening();
        for (let left = random.integer(CUTS_PER_LIFE_MAX + 1); left > 0; left--) {
          await delay((random.next() * LIFE_MS_MAX) / CUTS_PER_LIFE_MAX);
          // All at once, as when a network goes; or one is cut, or is away for a while.
          const hit = random.chance(0.5) ? [...proxies] : [random.pick([...proxies])];
          const awayMs = random.chance(0.5) ? 0 : random.next() * AWAY_MS_MAX;
          await Promise.all(hit.map((one) => (awayMs === 0 ? one.cut() : one.refuse())));
          if (awayMs > 0) await delay(awayMs);
          await Promise.all(hit.map((one) => one.pass()));
          cuts++;
        }
      }
      await delay((random.next() * LIFE_MS_MAX) / 2);
      alive();
      url = null;
      await millrace.kill('SIGKILL');
      millrace.start();
      if (kill % 10 === 0) report(`${kill} kills, ${cuts} cuts, ${workload.changes} changes committed`);
    }
    const history = await workload.stop();
    await listening();
    report(`${kills} kills, ${cuts} cuts, ${workload.changes} changes committed; now what is left is delivered`);
    await delivered(db, millrace, url ?? '');
    await millrace.kill('SIGTERM');
    url = null;
    const problems: string[] = [];
    const sinks: SinkVerdict[] = [];
    for (const destination of destinations.all) {
      const more = destination.unanswered?.() ?? 0;
      const duplicatesMax = destination.dedupes ? 0 : (kills + cuts) * WINDOW + more;
      const verdict = { kind: destination.kind, duplicatesMax, ...(await judge(destination, history, dataDir)) };
      sinks.push(verdict);
      problems.push(...problemsOf(verdict), ...(destination.problems?.() ?? []));
    }
    return { problems, sinks, kills, cuts, changes: workload.changes };
  } finally {
    await child?.kill('SIGKILL');
    for (const close of closing.reverse()) await close();
    await own.remove();
    rmSync(dir, { recursive: true, force: true });
  }
}

async function judge(destination: Destination, all: History, dataDir: string): Promise<Verdict> {
  const arrivals = await destination.arrivals(dataDir);
  const { lastKey } = destination;
  const history = lastKey === undefined ? all : new Map([...all].filter(([id]) => id <= lastKey));
  if (destination.keeps === 'history') return judgeHistory(history, arrivals);
  return judgeLatest(history, new Map(arrivals.map((change) => [change.id, change])));
}

function problemsOf({ kind, duplicatesMax, ...verdict }: SinkVerdict): string[] {
  const wrong = (['lost', 'reordered', 'unknown'] as const).filter((what) => verdict[what] > 0);
  return [
    ...wrong.map((what) => `${kind}: ${verdict[what]} ${what} of ${verdict.expected}`),
    ...(verdict.duplicates > duplicatesMax
      ? [`${kind}: ${verdict.duplicates} duplicates, at most ${duplicatesMax}`]
      : []),
    ...(verdict.expected === 0 ? [`${kind}: nothing was expected of it`] : []),
  ];
}

async function prepareStore(dir: string): Promise<void> {
  const store = await openLocalStore({ dir, log: () => {} });
  await store.ensureBasin(BASIN, {
    defaultStreamConfig: {},
    streamCipher: null,
    createStreamOnAppend: true,
    createStreamOnRead: true,
  });
  await store.close();
}

function configuration(db: TestDatabase, port: number, all: readonly Destination[]): string {
  const endpoint = all.find(({ endpointUrl }) => endpointUrl !== undefined);
  return stringify({
    databases: [
      {
        name: 'campaign',
        url: db.url.replace(`:${db.config.port}/`, `:${port}/`),
        slot: { name: SLOT, create_if_not_exists: true },
        publication: { name: SLOT, create_if_not_exists: true },
      },
    ],
    functions: [ROUTING_FUNCTION],
    ...(endpoint !== undefined && { http_endpoints: [{ name: ENDPOINT, url: endpoint.endpointUrl }] }),
    sinks: all.map(({ kind, sink, lastKey }) => ({
      name: kind,
      database: 'campaign',
      source: { include_tables: [`public.${TABLE}`] },
      ...(kind !== 's2' && { max_ack_pending: WINDOW, retry: { min_ms: 20, max_ms: 500 } }),
      ...(lastKey !== undefined && { where: [{ column: 'id', operator: '<=', value: lastKey }] }),
      ...sink,
    })),
  });
}

/** All that was committed is captured, and every sink has got it. */
async function delivered(db: TestDatabase, child: ProcessHarness, url: string): Promise<void> {
  const [{ lsn }] = (await db.sql(`SELECT pg_logical_emit_message(true, 'campaign', '')::text AS lsn`)) as [
    { lsn: string },
  ];
  const headers = { authorization: `Bearer ${TOKEN}` };
  let deadline = performance.now() + CATCH_UP_MS;
  let least = Number.POSITIVE_INFINITY;
  for (;;) {
    const [row] = await db.sql(
      `SELECT confirmed_flush_lsn > '${lsn}'::pg_lsn AS passed FROM pg_replication_slots WHERE slot_name = '${SLOT}'`,
    );
    const answer = await fetch(new URL('/api/sinks', url), { headers });
    const { data } = (await answer.json()) as { data: { name: string; lag: { bytes: string | null } }[] };
    const behind = data.filter(({ lag }) => lag.bytes !== '0');
    if (row?.passed === true && behind.length === 0) return;
    const bytes = behind.reduce((sum, { lag }) => sum + Number(lag.bytes ?? 0), 0);
    // As long as it gets less it may take its time.
    if (bytes < least) deadline = performance.now() + CATCH_UP_MS;
    least = Math.min(least, bytes);
    if (performance.now() > deadline) {
      const names = behind.map(({ name, lag }) => `${name} (${lag.bytes} bytes)`).join(', ');
      throw new Error(`Millrace does not catch up: ${names}\n${child.transcript()}`);
    }
    if (!child.running) throw new Error(`Millrace ended by itself:\n${child.transcript()}`);
    await delay(POLL_MS);
  }
}

export function tableOf({ sinks }: SinksCampaignResult): string {
  const header = ['sink', 'expected', 'arrived', 'lost', 'reordered', 'duplicates', 'at most', 'unknown'];
  const rows = sinks.map((sink) => [
    sink.kind,
    ...[sink.expected, sink.arrived, sink.lost, sink.reordered].map(String),
    ...[sink.duplicates, sink.duplicatesMax, sink.unknown].map(String),
  ]);
  const widths = header.map((name, column) => Math.max(name.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const lineOf = (cells: readonly string[]) =>
    cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  ');
  return [header, ...rows].map(lineOf).join('\n');
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      kills: { type: 'string', default: '50' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      kinds: { type: 'string' },
      writers: { type: 'string', default: '4' },
      keys: { type: 'string', default: '300' },
      pause: { type: 'string', default: '40' },
    },
  });
  const seed = Number(values.seed);
  const wanted = values.kinds?.split(',');
  const unknown = wanted?.find((name) => !KINDS.some((kind) => kind === name));
  if (unknown !== undefined) {
    process.stderr.write(`--kinds knows no "${unknown}"; it takes ${KINDS.join(',')}\n`);
    process.exit(2);
  }
  const kinds: Kind[] = [];
  for (const kind of KINDS.filter((name) => wanted?.includes(name) ?? true)) {
    const missing = await missingOf(kind);
    if (missing === null) kinds.push(kind);
    else process.stderr.write(`without ${kind}: ${missing}\n`);
  }
  process.stderr.write(`crash campaign of sinks: ${values.kills} kills, seed ${seed}, ${kinds.join(', ')}\n`);
  const result = await runSinksCampaign({
    kills: Number(values.kills),
    seed,
    kinds,
    writers: Number(values.writers),
    keys: Number(values.keys),
    pauseMs: Number(values.pause),
    report: (line) => process.stderr.write(`${line}\n`),
  });
  process.stdout.write(`${tableOf(result)}\n`);
  for (const problem of result.problems.slice(0, 50)) process.stdout.write(`${problem}\n`);
  const outcome = result.problems.length === 0 ? 'nothing lost, nothing out of order' : 'PROBLEMS';
  process.stdout.write(
    `${result.kills} kills, ${result.cuts} connections cut, ${result.changes} changes: ${outcome} (seed ${seed})\n`,
  );
  process.exit(result.problems.length === 0 ? 0 : 1);
}
