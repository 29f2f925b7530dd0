/**
 * The random run: random tables, random transactions and random changes of the schema on several connections, while
 * Millrace and Postgres are killed at random moments. Then the stream is judged (judge.ts).
 *
 *   npm run test:random -- [--seed N] [--runs 1] [--transactions 400] [--serial] [--kills 4] [--postgres-kills 1] [--keep DIR]
 *
 * Everything follows from the seed; with --serial (one connection, no kills while it writes) exactly so.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { type OwnPostgres, startOwnPostgres, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { type ProcessHarness, processHarness } from '@millrace/testkit/process-harness';
import { type Random, seededRandom } from '@millrace/testkit/random';
import pg from 'pg';
import { stringify } from 'yaml';
import { bodiesOf } from '../stream-bodies.ts';
import { createJudge } from './judge.ts';
import { createReference, readReference } from './reference.ts';
import { initialSchema } from './schema.ts';
import { runSerially, type ScriptCounts, type ScriptOptions, startScripts } from './script.ts';

export interface RunOptions {
  readonly seed: number;
  /** Committed at least. */
  readonly transactions: number;
  /** One connection and no kill while it writes: the same seed gives the same run. */
  readonly serial: boolean;
  /** SIGKILLs of Millrace. */
  readonly kills: number;
  /** SIGKILLs and immediate restarts of Postgres. */
  readonly postgresKills: number;
  /** Absent: the seed decides. */
  readonly backfill?: boolean;
  /** A directory for what a run was judged by, should it be wrong. */
  readonly keep?: string | undefined;
  readonly report?: (line: string) => void;
}

export interface RunResult {
  readonly problems: readonly string[];
  /** What the seed chose, in words. */
  readonly kind: string;
  readonly script: ScriptCounts;
  readonly changes: number;
  readonly reads: number;
}

const CLI = fileURLToPath(new URL('../../packages/cli/bin/millrace.js', import.meta.url));
const PUBLICATION = 'everything';
const SLOT = 'random';
const SINK = 'all';
const BASIN = 'random-basin';
const CATCH_UP_MS = 240_000;
/** Of a process, on a machine that has much else to do. */
const STARTED_MS = 120_000;
/** A backfill that is still under way when the last change has arrived gets so many times so long. */
const BACKFILL_LIVES = 10;
const BACKFILL_LIFE_MS = 2_000;
/** On demand, while writers run: one within this time. */
const BACKFILL_EVERY_MS = 1_500;
/** Streams large transactions and spills them early. */
const SETTINGS = { logical_decoding_work_mem: '64kB', autovacuum: 'off', max_wal_senders: '8' };

/** What the seed decides about a run as a whole. */
interface Kind {
  readonly serial: boolean;
  readonly viaRoot: boolean;
  readonly backfill: boolean;
  /** Of the sink. */
  readonly truncates: boolean;
  readonly messages: boolean;
  readonly schemaChanges: boolean;
  readonly fillUnchanged: boolean;
  readonly marker: boolean;
  readonly script: Omit<ScriptOptions, 'config' | 'seed'>;
}

function chooseKind(random: Random, { serial, backfill: asked }: RunOptions): Kind {
  const viaRoot = random.chance(0.4);
  const byChance = random.chance(0.4);
  const backfill = asked ?? byChance;
  // A reader of tables as they are now cannot say what they were called and looked like before.
  const ddl = random.chance(0.75) ? 0.03 + random.next() * 0.05 : 0;
  return {
    serial,
    viaRoot,
    backfill,
    truncates: random.chance(0.6),
    messages: random.chance(0.5),
    schemaChanges: random.chance(0.3),
    fillUnchanged: random.chance(0.3),
    marker: random.chance(0.3),
    script: {
      connections: serial ? 1 : 2 + random.integer(4),
      ddl,
      truncates: random.chance(0.7),
      partitionMoves: random.chance(0.5),
      partitionTruncates: !viaRoot,
      largeRowsMax: random.chance(0.6) ? 1_500 : 0,
      pauseMs: serial ? 0 : random.integer(8),
    },
  };
}

export async function runRandom(options: RunOptions): Promise<RunResult> {
  const { seed, serial, transactions, report = () => {} } = options;
  const random = seededRandom(seed);
  const kind = chooseKind(random, options);
  const own = await startOwnPostgres(SETTINGS);
  const dir = testDirectory('random');
  let child: ProcessHarness | null = null;
  try {
    const db = await own.createDatabase();
    const truth = await createReference(db, PUBLICATION);
    if (kind.viaRoot) await db.sql(`ALTER PUBLICATION ${PUBLICATION} SET (publish_via_partition_root = true)`);
    const script: ScriptOptions = { ...kind.script, config: db.config, seed };
    const dataDir = join(dir, 'data');
    const file = join(dir, 'millrace.yaml');
    writeFileSync(file, configuration(db, kind));
    child = processHarness({ args: [CLI, 'start', '--config', file, '--data', dataDir, '--port', '0'] });
    const schema = async () => {
      for (const sql of initialSchema(random, 2 + random.integer(3), true)) await db.sql(sql);
    };
    let counts: ScriptCounts;
    if (kind.backfill) await schema();
    if (serial) {
      const before = kind.backfill ? transactions >> 1 : 0;
      counts = await runSerially(script, 0, before);
      await startMillrace(child);
      if (!kind.backfill) await schema();
      const first = counts;
      counts = await runSerially(script, before, transactions);
      counts.committed += first.committed;
      counts.rolledBack += first.rolledBack;
    } else {
      const early = kind.backfill ? startScripts(script) : null;
      await early?.reached(transactions >> 2);
      const token = await startMillrace(child);
      if (!kind.backfill) await schema();
      const scripts = early ?? startScripts(script);
      const asking = askForBackfills(child, seededRandom(seed + 1), token);
      try {
        await killAround(options, random, own, child, scripts.reached, transactions);
      } finally {
        await asking.stop();
      }
      counts = await scripts.stop();
    }
    report(`written: ${counts.committed} transactions`);
    await db.sql(`CREATE TABLE r.the_end (id int PRIMARY KEY); INSERT INTO r.the_end VALUES (1)`);
    await child.waitForLine(/listening/, { timeoutMs: STARTED_MS });
    await caughtUp(db, child, dataDir);
    let judged = await judgeStream(db, dataDir, truth, kind);
    for (let lives = BACKFILL_LIVES; lives > 0 && isBackfilling(kind, judged.problems); lives--) {
      child.start();
      await child.waitForLine(/listening/, { timeoutMs: STARTED_MS });
      await delay(BACKFILL_LIFE_MS);
      await child.kill('SIGTERM');
      judged = await judgeStream(db, dataDir, truth, kind);
    }
    if (judged.problems.length > 0 && options.keep !== undefined) {
      await keepEvidence(join(options.keep, String(seed)), db, dataDir, truth, child);
    }
    return { ...judged, kind: describeKind(kind), script: counts };
  } finally {
    await child?.kill('SIGKILL');
    await own.remove();
    rmSync(dir, { recursive: true, force: true });
  }
}

/** What both streams held, a line each, and what Millrace said. */
async function keepEvidence(dir: string, db: TestDatabase, dataDir: string, truth: string, child: ProcessHarness) {
  mkdirSync(dir, { recursive: true });
  const client = new pg.Client(db.config);
  await client.connect();
  const reference = await readReference(client, truth, PUBLICATION).finally(() => client.end());
  const line = (value: unknown) =>
    `${JSON.stringify(value, (_, each) => (typeof each === 'bigint' ? `0x${each.toString(16)}` : each))}\n`;
  writeFileSync(join(dir, 'reference.jsonl'), reference.map(line).join(''));
  const stream: string[] = [];
  await readStream(dataDir, (body) => stream.push(body));
  writeFileSync(join(dir, 'stream.jsonl'), stream.map((body) => `${body}\n`).join(''));
  writeFileSync(join(dir, 'transcript.log'), child.transcript());
}

function describeKind({ script, serial: _, ...sink }: Kind): string {
  const flags = { ...sink, emptied: script.truncates, moves: script.partitionMoves };
  const on = Object.entries(flags).flatMap(([name, set]) => (set ? [name] : []));
  return `${script.connections} connections, ddl ${script.ddl.toFixed(2)}, large ${script.largeRowsMax}, ${on.join(' ')}`;
}

/** Returns the token that is shown at the first start. */
async function startMillrace(child: ProcessHarness): Promise<string> {
  child.start();
  await child.waitForLine(/listening/, { timeoutMs: STARTED_MS });
  await child.waitForLine(/streaming/, { timeoutMs: STARTED_MS });
  return /mr_[\w-]+/.exec(child.transcript())![0];
}

/** Asks for backfills of single tables at random moments. What is refused, or asked of a process that is gone, is not repeated. */
function askForBackfills(child: ProcessHarness, random: Random, token: string) {
  const stopping = new AbortController();
  const asking = (async () => {
    while (!stopping.signal.aborted) {
      await delay(BACKFILL_EVERY_MS * random.next());
      const line = child.lines.find(({ text }) => text.includes('listening'));
      const url = /http:\S+/.exec(line?.text ?? '')?.[0];
      const order = random.pick(['physical', 'key', undefined]);
      const body = JSON.stringify({ table: `r.${random.pick(['t0', 't1', 'parts'])}`, ...(order && { order }) });
      const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
      const request = { method: 'POST', headers, body, signal: AbortSignal.timeout(5_000) };
      if (url !== undefined) await fetch(`${url}/api/sinks/${SINK}/backfills`, request).catch(() => {});
    }
  })();
  return {
    async stop() {
      stopping.abort();
      await asking;
    },
  };
}

async function killAround(
  options: RunOptions,
  random: Random,
  own: OwnPostgres,
  child: ProcessHarness,
  reached: (committed: number) => Promise<void>,
  transactions: number,
): Promise<void> {
  const all = [
    ...Array.from({ length: options.kills }, () => 'millrace'),
    ...Array.from({ length: options.postgresKills }, () => 'postgres'),
  ].map((what) => ({
    what,
    at: Math.floor(transactions * (0.25 + 0.75 * random.next())),
    afterMs: random.integer(120),
  }));
  for (const { what, at, afterMs } of all.sort((a, b) => a.at - b.at)) {
    await reached(at);
    await delay(afterMs);
    if (what === 'postgres') {
      if (random.chance(0.5)) await own.server.kill();
      else await own.server.stop('immediate');
      await own.server.restart();
    } else {
      if (!child.running) throw new Error(`Millrace ended by itself:\n${child.transcript()}`);
      await child.kill('SIGKILL');
      child.start();
    }
  }
  await reached(transactions);
}

function configuration(db: TestDatabase, kind: Kind): string {
  return stringify({
    databases: [
      {
        name: 'random',
        url: db.url,
        slot: { name: SLOT, create_if_not_exists: true },
        publication: { name: PUBLICATION },
      },
    ],
    sinks: [
      {
        name: SINK,
        database: 'random',
        actions: ['insert', 'update', 'delete', ...(kind.truncates ? ['truncate'] : [])],
        logical_messages: kind.messages,
        schema_changes: kind.schemaChanges,
        fill_unchanged: kind.fillUnchanged,
        unchanged_toast: kind.marker ? 'marker' : 'omit',
        initial_backfill: kind.backfill,
        destination: { type: 's2', basin: BASIN, stream: SINK },
      },
    ],
  });
}

/** Ends Millrace when the stream holds the last change. */
async function caughtUp(db: TestDatabase, child: ProcessHarness, dataDir: string): Promise<void> {
  const deadline = performance.now() + CATCH_UP_MS;
  let starts = 0;
  const [{ lsn }] = await db.sql('SELECT pg_current_wal_flush_lsn() AS lsn');
  for (;;) {
    const [slot] = await db.sql(
      `SELECT confirmed_flush_lsn >= '${lsn}'::pg_lsn AS done FROM pg_replication_slots WHERE slot_name = '${SLOT}'`,
    );
    if (slot?.done === true) {
      await delay(200 + starts * 500);
      await child.kill('SIGTERM');
      if (await isComplete(dataDir)) return;
      starts++;
      child.start();
      await child.waitForLine(/listening/, { timeoutMs: STARTED_MS });
    }
    if (!child.running) throw new Error(`Millrace ended by itself:\n${child.transcript()}`);
    if (performance.now() > deadline)
      throw new Error(
        `Millrace does not catch up (the slot has: ${slot?.done}, starts: ${starts}):\n${child.transcript()}`,
      );
    await delay(100);
  }
}

function isBackfilling({ backfill }: Kind, problems: readonly string[]): boolean {
  return backfill && problems.length > 0 && problems.every((text) => /was never delivered|^and \d+ more/.test(text));
}

async function isComplete(dataDir: string): Promise<boolean> {
  let ended = false;
  await readStream(dataDir, (body) => {
    if (body.includes('"table_name":"the_end"') && body.includes('"action":"insert"')) ended = true;
  });
  return ended;
}

async function judgeStream(db: TestDatabase, dataDir: string, truth: string, kind: Kind) {
  const client = new pg.Client(db.config);
  await client.connect();
  try {
    const reference = await readReference(client, truth, PUBLICATION);
    const { viaRoot, truncates, messages } = kind;
    const judge = createJudge({
      reference,
      fromStart: !kind.backfill,
      viaRoot,
      truncates,
      messages,
      killed: !kind.serial,
    });
    await readStream(dataDir, (body) => judge.take(body));
    const problems = await judge.end(client);
    return { problems, changes: judge.counts.changes, reads: judge.counts.reads };
  } finally {
    await client.end();
  }
}

async function readStream(dataDir: string, take: (body: string) => void): Promise<void> {
  const store = await openLocalStore({ dir: dataDir });
  try {
    const stream = await store.openStream(BASIN, SINK, 'read');
    for await (const body of bodiesOf(stream)) take(body);
  } finally {
    await store.close();
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      runs: { type: 'string', default: '1' },
      transactions: { type: 'string', default: '400' },
      serial: { type: 'boolean', default: false },
      keep: { type: 'string' },
      kills: { type: 'string', default: '4' },
      'postgres-kills': { type: 'string', default: '1' },
    },
  });
  let failed = 0;
  for (let run = 0; run < Number(values.runs); run++) {
    const seed = Number(values.seed) + run;
    const options = {
      seed,
      serial: values.serial,
      keep: values.keep,
      transactions: Number(values.transactions),
      kills: Number(values.kills),
      postgresKills: Number(values['postgres-kills']),
    };
    const started = performance.now();
    const result = await runRandom(options).catch(
      (error: Error) => ({ problems: [error.stack ?? error.message] }) as never as RunResult,
    );
    for (const problem of result.problems) process.stdout.write(`  ${problem}\n`);
    const { committed, rolledBack, schemaChanges, refused } = result.script ?? { refused: new Map() };
    const codes = [...refused].map(([code, count]) => `${code} ${count}`).join(', ');
    process.stdout.write(
      `seed ${seed}: ${result.problems.length === 0 ? 'right' : 'WRONG'} (${result.kind}; ${committed} committed, ${rolledBack} rolled back [${codes}], ` +
        `${schemaChanges} schema changes, ${result.changes} changes, ${result.reads} reads, ${Math.round((performance.now() - started) / 1000)} s)\n`,
    );
    if (result.problems.length > 0) failed++;
  }
  process.exitCode = failed === 0 ? 0 : 1;
}
