/**
 * The crash campaign: concurrent writers, Millrace killed with SIGKILL at random moments, its connections to Postgres cut,
 * Postgres crashed now and then.
 * At the end the stream has to hold every committed change exactly once and in commit order, and the tables rebuilt from
 * it have to equal Postgres. After each kill the slot must not stand beyond what the log on disk holds (I3).
 *
 *   npm run test:crash -- [--kills 200] [--seed N] [--writers 4] [--postgres-every 10] [--backfill]
 */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { maxLsn, parseLsn } from '@millrace/core/lsn';
import { SourceState } from '@millrace/engine/capture/source-state';
import { ChangeLog } from '@millrace/engine/change-log/change-log';
import { cursorStore } from '@millrace/engine/deliver/cursor-store';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { RecordCursor } from '@millrace/stream-store/record-codec';
import { createOracle } from '@millrace/testkit/oracle';
import { type OwnPostgres, startOwnPostgres, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { type ProcessHarness, processHarness } from '@millrace/testkit/process-harness';
import { startProxy } from '@millrace/testkit/proxy';
import { seededRandom } from '@millrace/testkit/random';
import { startWorkload, type WorkloadCounts } from '@millrace/testkit/workload';
import {
  AUDIT_TABLE,
  createWorkloadTables,
  WORKLOAD_TABLE_NAMES,
  WORKLOAD_TABLES,
} from '@millrace/testkit/workload-tables';
import { stringify } from 'yaml';

export interface CampaignOptions {
  readonly kills: number;
  readonly seed: number;
  readonly writers: number;
  /** Postgres is crashed after every so many kills of Millrace; 0: never. */
  readonly postgresEvery: number;
  /** The tables are filled before Millrace comes, and read by an initial backfill while it is killed. */
  readonly backfill: boolean;
  readonly report?: (line: string) => void;
}

export interface CampaignResult {
  /** What is wrong; empty when nothing is. */
  readonly problems: readonly string[];
  readonly kills: number;
  readonly postgresCrashes: number;
  readonly messages: number;
  readonly reads: number;
  readonly workload: WorkloadCounts;
}

const CLI = fileURLToPath(new URL('../../packages/cli/bin/millrace.js', import.meta.url));
const BASIN = 'crash-basin';
const SLOT = 'crash';
const SINK = 'everything';
/** A kill comes this long after the start at most: into start-up, catch-up, steady state or an idle moment. */
const LIFE_MS_MAX = 900;
/** Lives that a backfill gets to come to its end once nothing kills it any more. */
const BACKFILL_LIVES = 30;
/** Transactions of the workload before a backfill. */
const ROWS_BEFORE = 500;
const CATCH_UP_MS = 120_000;

export async function runCampaign(options: CampaignOptions): Promise<CampaignResult> {
  const { kills, seed, writers, postgresEvery, backfill, report = () => {} } = options;
  const random = seededRandom(seed);
  const own = await startOwnPostgres();
  const dir = testDirectory('crash');
  const dataDir = join(dir, 'data');
  const problems: string[] = [];
  const closing: (() => Promise<void>)[] = [];
  let postgresCrashes = 0;
  let child: ProcessHarness | null = null;
  try {
    const db = await own.createDatabase();
    const proxy = await startProxy({ port: db.config.port });
    closing.push(() => proxy.close());
    writeFileSync(join(dir, 'millrace.yaml'), configuration(db, proxy.port, backfill));
    child = processHarness({
      args: [CLI, 'start', '--config', join(dir, 'millrace.yaml'), '--data', dataDir, '--port', '0'],
    });
    const begin = async () => {
      await createWorkloadTables(db);
      return startWorkload({ config: db.config, seed, writers, pauseMs: 2 });
    };
    // Without a backfill the slot has to be there before the first change; with one the tables hold rows before it.
    const early = backfill ? await begin() : null;
    await early?.reached(ROWS_BEFORE);
    child.start();
    await child.waitForLine(/listening/, { timeoutMs: 30_000 });
    const token = /mr_[\w-]+/.exec(child.transcript())![0];
    const workload = early ?? (await begin());
    for (let kill = 1; kill <= kills; kill++) {
      // Half of the lives lose their connections to Postgres on the way.
      const cutAt = random.chance(0.5) ? random.next() : 1;
      const lifeMs = random.next() * LIFE_MS_MAX;
      await delay(lifeMs * cutAt);
      if (cutAt < 1) proxy.cut();
      await delay(lifeMs * (1 - cutAt));
      if (!child.running) {
        const { code } = await child.exited;
        throw new Error(`Millrace ended by itself with code ${code}:\n${child.transcript()}`);
      }
      await child.kill('SIGKILL');
      if (postgresEvery > 0 && kill % postgresEvery === 0) {
        await own.server.kill();
        await own.server.restart();
        postgresCrashes++;
      }
      problems.push(...(await judgeAcknowledgement(db, own, dataDir, kill)));
      child.start();
      if (kill % 10 === 0) report(`${kill} kills, ${workload.counts.committed} transactions committed`);
    }
    const counts = await workload.stop();
    let line = await child.waitForLine(/listening/, { timeoutMs: 30_000 });
    // What ends the campaign comes after the last row of the backfill.
    for (let rest = BACKFILL_LIVES; backfill && rest > 0; rest--) {
      await child.kill('SIGTERM');
      if (await backfilled(dataDir)) rest = 0;
      child.start();
      line = await child.waitForLine(/listening/, { timeoutMs: 30_000 });
      if (rest > 0) await delay(LIFE_MS_MAX * 2);
    }
    const url = /http:\S+/.exec(line)![0];
    await db.sql(`CREATE TABLE campaign_end (id int PRIMARY KEY); INSERT INTO campaign_end VALUES (1)`);
    await caughtUp(db, child, url, token);
    await child.kill('SIGTERM');
    const { problems: wrong, messages, reads } = await judgeStream(db, dataDir, backfill);
    problems.push(...wrong);
    return { problems, kills, postgresCrashes, messages, reads, workload: counts };
  } finally {
    await child?.kill('SIGKILL');
    for (const close of closing) await close();
    await own.remove();
    rmSync(dir, { recursive: true, force: true });
  }
}

function configuration(db: TestDatabase, port: number, backfill: boolean): string {
  return stringify({
    databases: [
      {
        name: 'campaign',
        url: db.url.replace(`:${db.config.port}/`, `:${port}/`),
        slot: { name: SLOT, create_if_not_exists: true },
        publication: { name: SLOT, create_if_not_exists: true },
      },
    ],
    sinks: [
      {
        name: SINK,
        database: 'campaign',
        initial_backfill: backfill,
        destination: { type: 's2', basin: BASIN, stream: SINK },
      },
    ],
  });
}

/** I3, from outside: Millrace is dead, so what the log holds on disk is what it may have acknowledged. */
async function judgeAcknowledgement(
  db: TestDatabase,
  own: OwnPostgres,
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
    return [`kill ${kill}: Postgres was told ${slot.lsn}, the log ends at ${held} (Postgres ${own.server.version})`];
  } finally {
    await store.close();
  }
}

async function backfilled(dataDir: string): Promise<boolean> {
  const store = await openLocalStore({ dir: dataDir });
  try {
    const marks = cursorStore(store.state, `sink/${SINK}/cursor`).load()?.backfills ?? new Map();
    const done = [...marks.values()].filter((key) => key.length === 0);
    return done.length >= WORKLOAD_TABLE_NAMES.length;
  } finally {
    await store.close();
  }
}

/** The last record of the stream is the end marker's, and the slot has passed it too. */
async function caughtUp(db: TestDatabase, child: ProcessHarness, url: string, token: string): Promise<void> {
  const [{ lsn }] = await db.sql(`SELECT pg_current_wal_flush_lsn() AS lsn`);
  const deadline = performance.now() + CATCH_UP_MS;
  const headers = { authorization: `Bearer ${token}`, 's2-basin': BASIN };
  for (;;) {
    const [slot] = await db.sql(
      `SELECT confirmed_flush_lsn >= '${lsn}'::pg_lsn AS done FROM pg_replication_slots WHERE slot_name = '${SLOT}'`,
    );
    const tail = await fetch(`${url}/v1/streams/${SINK}/records?tail_offset=20`, { headers }).then((r) => r.text());
    if (slot?.done && tail.includes('campaign_end')) return;
    if (performance.now() > deadline) throw new Error(`Millrace does not catch up:\n${child.transcript()}`);
    await delay(50);
  }
}

async function judgeStream(db: TestDatabase, dataDir: string, backfill: boolean) {
  const store = await openLocalStore({ dir: dataDir });
  try {
    const stream = await store.openStream(BASIN, SINK, 'read');
    const oracle = createOracle({
      tables: Object.values(WORKLOAD_TABLES),
      // The audit tells of transactions before the slot as well, of which a backfilled stream has only the outcome.
      ...(!backfill && { auditTable: AUDIT_TABLE }),
      audited: !backfill,
      backfilling: backfill,
    });
    let ended = false;
    let seq = stream.firstSeqNum;
    while (seq < stream.tail.seqNum) {
      const slice = await stream.read(seq, { countMax: 1000, meteredBytesMax: 1 << 21 });
      if (slice === null) throw new Error(`record ${seq} cannot be read`);
      const cursor = new RecordCursor(slice.records);
      while (cursor.next()) {
        const text = Buffer.from(slice.records.subarray(cursor.bodyStart, cursor.bodyEnd)).toString();
        if (text.includes('"table_name":"campaign_end"')) ended = true;
        oracle.take(text);
      }
      seq = slice.firstSeqNum + slice.count;
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
      backfill: { type: 'boolean', default: false },
    },
  });
  const seed = Number(values.seed);
  process.stderr.write(`crash campaign: ${values.kills} kills, seed ${seed}\n`);
  const result = await runCampaign({
    kills: Number(values.kills),
    seed,
    writers: Number(values.writers),
    postgresEvery: Number(values['postgres-every']),
    backfill: values.backfill,
    report: (line) => process.stderr.write(`${line}\n`),
  });
  for (const problem of result.problems) process.stdout.write(`${problem}\n`);
  const { committed, rolledBack, changes, lostAnswers } = result.workload;
  process.stdout.write(
    `${result.kills} kills, ${result.postgresCrashes} crashes of Postgres, ${committed} transactions committed ` +
      `(${lostAnswers} answers lost), ${rolledBack} rolled back, ${changes} changes, ${result.messages} messages: ` +
      `${result.problems.length === 0 ? 'every change exactly once, in order' : `${result.problems.length} problems (seed ${seed})`}\n`,
  );
  process.exitCode = result.problems.length === 0 ? 0 : 1;
}
