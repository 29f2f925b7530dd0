/**
 * The crash campaign: concurrent writers, and beside them changes of the schema, truncates and transactions larger than a
 * decoder's memory; Millrace killed with SIGKILL at random moments, its connections to Postgres cut, Postgres killed,
 * stopped or restarted now and then, and once or more failed over to a standby.
 * At the end the stream has to hold every committed change exactly once and in commit order, and the tables rebuilt from
 * it have to equal Postgres. After each kill the slot must not stand beyond what the log on disk holds (I3).
 * The same is asked of the streams of two more sinks: one into another Millrace over the wire, which is killed and cut off
 * as well, and one that fills in the large values that updates leave alone.
 *
 *   npm run test:crash -- [--kills 200] [--seed N] [--writers 4] [--postgres-every 10] [--backfill | --no-backfill]
 *                         [--no-ddl] [--no-truncates] [--no-large] [--no-failover] [--no-remote] [--no-filled]
 */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { maxLsn, parseLsn } from '@millrace/core/lsn';
import { backfillStore } from '@millrace/engine/backfill/backfill-store';
import { SourceState } from '@millrace/engine/capture/source-state';
import { ChangeLog } from '@millrace/engine/change-log/change-log';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { createOracle } from '@millrace/testkit/oracle';
import { startOwnPostgres, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { type ProcessHarness, processHarness } from '@millrace/testkit/process-harness';
import { startProxy } from '@millrace/testkit/proxy';
import { seededRandom } from '@millrace/testkit/random';
import { startStandby } from '@millrace/testkit/replica';
import { startWorkload, type WorkloadCounts } from '@millrace/testkit/workload';
import {
  createDisturbedTables,
  type DisturbanceCounts,
  LARGE_TABLE,
  PASSING_COLUMNS,
  startDisturbance,
} from '@millrace/testkit/workload-disturbance';
import {
  AUDIT_TABLE,
  createWorkloadTables,
  SCRATCH_TABLE,
  WORKLOAD_TABLE_NAMES,
  WORKLOAD_TABLES,
} from '@millrace/testkit/workload-tables';
import { stringify } from 'yaml';
import { bodiesOf } from '../stream-bodies.ts';
import { FilledValues } from './filled-values.ts';
import { type SecondServer, startSecondServer } from './second-server.ts';

export interface CampaignOptions {
  readonly kills: number;
  readonly seed: number;
  readonly writers: number;
  /** Postgres is crashed after every so many kills of Millrace; 0: never. */
  readonly postgresEvery: number;
  /** The tables are filled before Millrace comes, and read by an initial backfill while it is killed. */
  readonly backfill: boolean;
  /** Columns, types and replica identities of the tables change while they are written. */
  readonly ddl?: boolean;
  readonly truncates?: boolean;
  /** Transactions that the server streams before they are committed. */
  readonly large?: boolean;
  /** Half way through, the primary is killed for good and a standby promoted. Postgres 17 and later. */
  readonly failover?: boolean;
  /** A second sink, into another Millrace that is killed at random moments as well. */
  readonly remote?: boolean;
  /** A third one, with fill_unchanged. */
  readonly filled?: boolean;
  readonly report?: (line: string) => void;
}

export interface CampaignResult {
  /** What is wrong; empty when nothing is. */
  readonly problems: readonly string[];
  readonly kills: number;
  readonly postgresCrashes: number;
  readonly messages: number;
  readonly reads: number;
  readonly failovers: number;
  /** Of the other Millrace. */
  readonly remoteKills: number;
  /** Updates whose large values were filled in, and compared. */
  readonly filled: number;
  readonly workload: WorkloadCounts;
  readonly beside: DisturbanceCounts;
}

const CLI = fileURLToPath(new URL('../../packages/cli/bin/millrace.js', import.meta.url));
const BASIN = 'crash-basin';
const SLOT = 'crash';
const SINK = 'everything';
const REMOTE = 'away';
const FILLED = 'filled';
/** A kill comes this long after the start at most: into start-up, catch-up, steady state or an idle moment. */
const LIFE_MS_MAX = 900;
/** Lives that a backfill gets to come to its end once nothing kills it any more. */
const BACKFILL_LIVES = 30;
/** Transactions of the workload before a backfill. */
const ROWS_BEFORE = 500;
const CATCH_UP_MS = 240_000;
/** Of a process, on a machine that has much else to do. */
const STARTED_MS = 120_000;
/** Small enough for the large transactions to be streamed, or spilled, before they commit. */
const SETTINGS = { logical_decoding_work_mem: '64kB' };
const FAILOVER_SETTINGS = { max_wal_senders: '10', max_replication_slots: '10' };
const STANDBY_SETTINGS = { sync_replication_slots: 'on' };

export async function runCampaign(options: CampaignOptions): Promise<CampaignResult> {
  const { kills, seed, writers, postgresEvery, report = () => {} } = options;
  const random = seededRandom(seed);
  const own = await startOwnPostgres({ ...SETTINGS, ...(options.failover === true && FAILOVER_SETTINGS) });
  const dir = testDirectory('crash');
  const dataDir = join(dir, 'data');
  const problems: string[] = [];
  const closing: (() => Promise<void>)[] = [];
  let postgresCrashes = 0;
  let failovers = 0;
  let child: ProcessHarness | null = null;
  let server = own.server;
  let second: SecondServer | null = null;
  try {
    let db = await own.createDatabase();
    const standby = options.failover === true ? await startStandby(own, { settings: STANDBY_SETTINGS }) : null;
    if (standby !== null) {
      closing.push(() => standby.remove());
      // From here on nothing reaches us that the standby does not have.
      await db.sql(`ALTER SYSTEM SET synchronized_standby_slots = '${standby.physicalSlot}'`);
      await db.sql('SELECT pg_reload_conf()');
    }
    // Millrace and the writers find the server under one address each, whichever server that is.
    const proxy = await startProxy({ port: db.config.port });
    const entrance = await startProxy({ port: db.config.port });
    closing.push(
      () => proxy.close(),
      () => entrance.close(),
    );
    if (options.remote === true) {
      const started = await startSecondServer(dir, BASIN, seededRandom(seed + 1));
      second = started;
      closing.push(() => started.stop());
    }
    writeFileSync(join(dir, 'millrace.yaml'), configuration(db, proxy.port, options, second));
    child = processHarness({
      args: [CLI, 'start', '--config', join(dir, 'millrace.yaml'), '--data', dataDir, '--port', '0'],
    });
    const config = { ...db.config, port: entrance.port };
    const begin = async () => {
      await createWorkloadTables(db);
      await createDisturbedTables(db);
      return startWorkload({ config, seed, writers, pauseMs: 2, truncates: options.truncates === true });
    };
    // Without a backfill the slot has to be there before the first change; with one the tables hold rows before it.
    const early = options.backfill ? await begin() : null;
    await early?.reached(ROWS_BEFORE);
    child.start();
    await child.waitForLine(/listening/, { timeoutMs: STARTED_MS });
    const token = /mr_[\w-]+/.exec(child.transcript())![0];
    await child.waitForLine(/streaming/, { timeoutMs: STARTED_MS });
    const workload = early ?? (await begin());
    const { ddl = false, truncates = false, large = false } = options;
    const beside = startDisturbance({ config, seed, ddl, truncates, large, pauseMs: 60 });
    for (let kill = 1; kill <= kills; kill++) {
      // Half of the lives lose their connections to Postgres on the way.
      const cutAt = random.chance(0.5) ? random.next() : 1;
      const lifeMs = random.next() * LIFE_MS_MAX;
      // It takes its time to come back, and needs no company for that.
      const beyond = second?.disturb(lifeMs) ?? Promise.resolve();
      beyond.catch(() => {});
      await delay(lifeMs * cutAt);
      if (cutAt < 1) proxy.cut();
      await delay(lifeMs * (1 - cutAt));
      if (!child.running) {
        const { code } = await child.exited;
        throw new Error(`Millrace ended by itself with code ${code}:\n${child.transcript()}`);
      }
      // Now and then Postgres goes while Millrace lives on.
      const survives = random.chance(0.3);
      const postgres = postgresEvery > 0 && kill % postgresEvery === 0;
      if (!(survives && postgres)) await child.kill('SIGKILL');
      if (standby !== null && kill === Math.ceil(kills / 2)) {
        if (!child.running) child.start();
        await synced(standby.database(db), db, child);
        await server.kill();
        await standby.promote();
        server = standby.server;
        db = standby.database(db);
        for (const each of [proxy, entrance]) each.retarget({ port: server.port });
        failovers++;
        report(`failed over after ${kill} kills, ${workload.counts.committed} transactions committed`);
      } else if (postgres) {
        const how = random.pick(['SIGKILL', 'immediate', 'fast'] as const);
        if (how === 'SIGKILL') await server.kill();
        else await server.stop(how);
        await server.restart();
        postgresCrashes++;
      }
      if (child.running) await child.kill('SIGKILL');
      await beyond;
      problems.push(...(await judgeAcknowledgement(db, server.version, dataDir, kill)));
      child.start();
      if (kill % 10 === 0) report(`${kill} kills, ${workload.counts.committed} transactions committed`);
    }
    const besideCounts = await beside.stop();
    const counts = await workload.stop();
    let line = await child.waitForLine(/listening/, { timeoutMs: STARTED_MS });
    // What ends the campaign comes after the last row of the backfill.
    for (let rest = BACKFILL_LIVES; options.backfill && rest > 0; rest--) {
      await child.kill('SIGTERM');
      if (await backfilled(dataDir, options)) rest = 0;
      child.start();
      line = await child.waitForLine(/listening/, { timeoutMs: STARTED_MS });
      // Longer every time: what writers left behind comes first.
      if (rest > 0) await delay(LIFE_MS_MAX * (2 + BACKFILL_LIVES - rest));
    }
    const url = /http:\S+/.exec(line)![0];
    await db.sql(`CREATE TABLE campaign_end (id int PRIMARY KEY); INSERT INTO campaign_end VALUES (1)`);
    const places = [{ url, token, stream: SINK }];
    if (options.filled === true) places.push({ url, token, stream: FILLED });
    if (second !== null) places.push({ url: second.endpoint, token: second.rootToken, stream: REMOTE });
    await caughtUp(db, child, places);
    await child.kill('SIGTERM');
    await second?.stop();
    const leftOut = new FilledValues(WORKLOAD_TABLES.documents.name);
    const { messages, reads, ...main } = await judgeStream(db, dataDir, SINK, options, (text) =>
      leftOut.takeLeftOut(text),
    );
    problems.push(...main.problems);
    if (second !== null) {
      const away = await judgeStream(db, second.dataDir, REMOTE, options);
      problems.push(...away.problems.map((text) => `over the wire: ${text}`));
    }
    let filled = 0;
    if (options.filled === true) {
      const judged = await judgeStream(db, dataDir, FILLED, options, (text) => leftOut.takeFilled(text));
      const values = leftOut.end();
      filled = values.filled;
      problems.push(...judged.problems.map((text) => `filled in: ${text}`), ...values.problems);
    }
    const remoteKills = second?.kills ?? 0;
    const counted = { kills, postgresCrashes, failovers, remoteKills, messages, reads, filled };
    return { problems, ...counted, workload: counts, beside: besideCounts };
  } finally {
    await child?.kill('SIGKILL');
    for (const close of closing) await close();
    await own.remove();
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Until the standby has a copy of the slot that outlives a promotion. */
async function synced(standby: TestDatabase, primary: TestDatabase, child: ProcessHarness): Promise<void> {
  const deadline = performance.now() + CATCH_UP_MS;
  const slot = async (db: TestDatabase) =>
    (await db.sql(`SELECT * FROM pg_replication_slots WHERE slot_name = '${SLOT}'`))[0];
  for (;;) {
    const copy = await slot(standby);
    if (copy?.synced === true && copy.temporary === false && copy.invalidation_reason === null) return;
    if (performance.now() > deadline) {
      const facts = JSON.stringify({ copy, slot: await slot(primary), running: child.running }, null, 1);
      throw new Error(`the slot is never copied to the standby: ${facts}\n${child.transcript()}`);
    }
    await delay(50);
  }
}

function configuration(
  db: TestDatabase,
  port: number,
  { backfill, truncates, failover, filled }: CampaignOptions,
  second: SecondServer | null,
): string {
  const sink = (name: string, options: object, destination?: object) => ({
    name,
    database: 'campaign',
    ...(truncates === true && { actions: ['insert', 'update', 'delete', 'truncate'] }),
    initial_backfill: backfill,
    ...options,
    destination: { type: 's2', basin: BASIN, stream: name, ...destination },
  });
  const away = second && { endpoint: second.endpoint, access_token: second.token };
  return stringify({
    databases: [
      {
        name: 'campaign',
        url: db.url.replace(`:${db.config.port}/`, `:${port}/`),
        slot: { name: SLOT, create_if_not_exists: true, ...(failover === true && { failover: true }) },
        publication: { name: SLOT, create_if_not_exists: true },
      },
    ],
    sinks: [
      sink(SINK, {}),
      ...(away === null ? [] : [sink(REMOTE, {}, away)]),
      ...(filled === true ? [sink(FILLED, { fill_unchanged: true })] : []),
    ],
  });
}

/** I3, from outside: Millrace is dead, so what the log holds on disk is what it may have acknowledged. */
async function judgeAcknowledgement(
  db: TestDatabase,
  version: string,
  dataDir: string,
  kill: number,
): Promise<string[]> {
  const store = await openLocalStore({ dir: dataDir });
  try {
    const stream = store.openLogStream('changes/campaign');
    if (stream === null) return [];
    const log = await ChangeLog.open(stream, store.state, 'source/campaign');
    const noted = new SourceState(store.state, 'source/campaign/identity').identity?.acknowledged ?? 0n;
    const [slot] = await db.sql(
      `SELECT confirmed_flush_lsn AS lsn FROM pg_replication_slots WHERE slot_name = '${SLOT}'`,
    );
    const confirmed = slot === undefined ? 0n : parseLsn(slot.lsn as string)!;
    const held = maxLsn(log.endLsn, noted);
    if (confirmed <= held) return [];
    return [`kill ${kill}: Postgres was told ${slot.lsn}, the log ends at ${held} (Postgres ${version})`];
  } finally {
    await store.close();
  }
}

async function backfilled(dataDir: string, { remote, filled }: CampaignOptions): Promise<boolean> {
  const sinks = [SINK, ...(remote === true ? [REMOTE] : []), ...(filled === true ? [FILLED] : [])];
  const store = await openLocalStore({ dir: dataDir });
  try {
    return sinks.every((sink) => {
      const jobs = backfillStore(store.state, `sink/${sink}/backfills`).load();
      return jobs.length >= WORKLOAD_TABLE_NAMES.length && jobs.every(({ state }) => state !== 'active');
    });
  } finally {
    await store.close();
  }
}

interface Place {
  readonly url: string;
  readonly token: string;
  readonly stream: string;
}

/** The last record of each stream is the end marker's, and the slot has passed it too. */
async function caughtUp(db: TestDatabase, child: ProcessHarness, places: readonly Place[]): Promise<void> {
  const [{ lsn }] = await db.sql(`SELECT pg_current_wal_flush_lsn() AS lsn`);
  const deadline = performance.now() + CATCH_UP_MS;
  const hasEnd = async ({ url, token, stream }: Place) => {
    const headers = { authorization: `Bearer ${token}`, 's2-basin': BASIN };
    const tail = await fetch(`${url}/v1/streams/${stream}/records?tail_offset=20`, { headers }).then((r) => r.text());
    return tail.includes('campaign_end');
  };
  const waiting = new Set(places);
  for (;;) {
    const [slot] = await db.sql(
      `SELECT confirmed_flush_lsn >= '${lsn}'::pg_lsn AS done FROM pg_replication_slots WHERE slot_name = '${SLOT}'`,
    );
    for (const place of waiting) if (await hasEnd(place)) waiting.delete(place);
    if (slot?.done && waiting.size === 0) return;
    if (performance.now() > deadline) {
      const names = [...waiting].map(({ stream }) => stream).join(', ');
      throw new Error(`Millrace does not catch up (${names}):\n${child.transcript()}`);
    }
    await delay(50);
  }
}

async function judgeStream(
  db: TestDatabase,
  dataDir: string,
  name: string,
  { backfill, ddl, truncates }: CampaignOptions,
  beside: (text: string) => void = () => {},
) {
  const store = await openLocalStore({ dir: dataDir });
  try {
    const stream = await store.openStream(BASIN, name, 'read');
    const oracle = createOracle({
      tables: [
        ...Object.values(WORKLOAD_TABLES),
        // A dropped table and a truncate that is not delivered leave rows in the stream.
        ...(truncates === true && ddl !== true ? [SCRATCH_TABLE] : []),
        ...(truncates === true ? [LARGE_TABLE] : []),
      ],
      passing: PASSING_COLUMNS,
      // The audit tells of transactions before the slot as well, of which a backfilled stream has only the outcome.
      ...(!backfill && { auditTable: AUDIT_TABLE }),
      audited: !backfill,
      backfilling: backfill,
    });
    let ended = false;
    for await (const text of bodiesOf(stream)) {
      if (text.includes('"table_name":"campaign_end"')) ended = true;
      oracle.take(text);
      beside(text);
    }
    const problems = [...(await oracle.compareWith(db))];
    if (!ended) problems.push('the change that ends the campaign never arrived');
    return { problems, messages: oracle.counts.messages, reads: oracle.counts.reads };
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
      kills: { type: 'string', default: '200' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      writers: { type: 'string', default: '4' },
      'postgres-every': { type: 'string', default: '10' },
      backfill: { type: 'boolean', default: true },
      ddl: { type: 'boolean', default: true },
      truncates: { type: 'boolean', default: true },
      large: { type: 'boolean', default: true },
      failover: { type: 'boolean', default: true },
      remote: { type: 'boolean', default: true },
      filled: { type: 'boolean', default: true },
    },
    allowNegative: true,
  });
  const { backfill, ddl, truncates, large, failover, remote, filled } = values;
  const seed = Number(values.seed);
  process.stderr.write(`crash campaign: ${values.kills} kills, seed ${seed}\n`);
  const result = await runCampaign({
    kills: Number(values.kills),
    seed,
    writers: Number(values.writers),
    postgresEvery: Number(values['postgres-every']),
    ...{ backfill, ddl, truncates, large, failover, remote, filled },
    report: (line) => process.stderr.write(`${line}\n`),
  });
  for (const problem of result.problems) process.stdout.write(`${problem}\n`);
  const { committed, rolledBack, changes, lostAnswers } = result.workload;
  process.stdout.write(
    `${result.kills} kills, ${result.postgresCrashes} crashes of Postgres, ${result.failovers} failovers, ${result.remoteKills} kills of the other Millrace, ${result.filled} updates filled in, ` +
      `${result.beside.schemaChanges} changes of the schema, ${result.beside.truncates} truncates, ${result.beside.large} large transactions, ${committed} transactions committed ` +
      `(${lostAnswers} answers lost), ${rolledBack} rolled back, ${changes} changes, ${result.messages} messages: ` +
      `${result.problems.length === 0 ? 'every change exactly once, in order' : `${result.problems.length} problems (seed ${seed})`}\n`,
  );
  process.exitCode = result.problems.length === 0 ? 0 : 1;
}
