/**
 * Workers of a `sequin_stream` sink, over real HTTP, that acknowledge, give back, go away in the middle and come late, while
 * the process that serves them is killed: nothing is lost, the rows of a key come in order, and what was answered as done
 * stays done.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createDatabase, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { type ProcessHarness, processHarness } from '@millrace/testkit/process-harness';
import { seededRandom } from '@millrace/testkit/random';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { stringify } from 'yaml';
import { acknowledged } from '../loss-classes/engine-process.ts';
import { eventually, type Message } from './millrace.ts';

const MAIN = fileURLToPath(new URL('../../packages/cli/src/main.ts', import.meta.url));
const TOKEN = 'a-root-token-for-this-test';

let db: TestDatabase;
let dir: string;
let millrace: ProcessHarness;
let url = '';

beforeEach(async () => {
  db = await createDatabase();
  dir = testDirectory('pull');
});

afterEach(async () => {
  await millrace?.kill();
  await db.drop();
  rmSync(dir, { recursive: true, force: true });
});

async function start(sink: object): Promise<void> {
  const config = {
    databases: [
      {
        name: 'shop',
        url: db.url,
        slot: { name: db.name, create_if_not_exists: true },
        publication: { name: 'millrace', create_if_not_exists: true },
      },
    ],
    sinks: [{ name: 'jobs', database: 'shop', destination: { type: 'sequin_stream' }, ...sink }],
  };
  writeFileSync(join(dir, 'millrace.yaml'), stringify(config));
  writeFileSync(join(dir, 'token'), TOKEN);
  const files = ['--config', join(dir, 'millrace.yaml'), '--root-token-file', join(dir, 'token')];
  millrace = processHarness({ args: [MAIN, 'start', '--data', join(dir, 'data'), '--port', '0', ...files] });
  millrace.start();
  await listening();
}

async function listening(): Promise<void> {
  const line = await millrace.waitForLine(/listening on (\S+)/, { timeoutMs: 30_000 });
  url = /listening on (\S+)/.exec(line)![1]!;
}

interface Received {
  readonly ack_id: string;
  readonly deliver_count: number;
  readonly data: Message;
}

/** Status 0: the process was not there, or went away. */
async function ask(path: string, body: object = {}): Promise<{ status: number; body: Record<string, unknown> }> {
  const headers = { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' };
  try {
    const answer = await fetch(`${url}/api/sequin_streams/jobs/${path}`, {
      method: 'POST',
      headers,
      body: JSON.stringify(body),
    });
    return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
  } catch {
    return { status: 0, body: {} };
  }
}

async function receive(size: number, waitMs = 500): Promise<readonly Received[]> {
  const { status, body } = await ask('receive', { max_batch_size: size, wait_for: waitMs });
  if (status === 200) return body['data'] as Received[];
  // It is being started.
  await new Promise((resolve) => setTimeout(resolve, 50));
  return [];
}

const versionOf = ({ data }: Received) => data.record['v'] as number;
const keyOf = ({ data }: Received) => data.record['id'] as number;

test('whatever workers do and whenever the process is killed, every change is done, in the order of its key, and stays so', async () => {
  const [keys, versions, workers, kills] = [8, 7, 6, 1];
  await db.sql('CREATE TABLE jobs (id int PRIMARY KEY, v int)');
  await start({ ack_wait_ms: 700, max_ack_pending: 50 });
  const random = seededRandom(20_260_301);
  /** By key, the versions whose acknowledgement was answered, and the newest that anybody received. */
  const done = new Map<number, Set<number>>(Array.from({ length: keys }, (_, n) => [n + 1, new Set()]));
  const newest = new Map<number, number>();
  /** Of the present life of the process. */
  const ordered = new Map<number, number>();
  let life = 0;
  const broken: string[] = [];
  let redelivered = 0;
  let finished = false;
  const total = () => [...done.values()].reduce((sum, one) => sum + one.size, 0);

  const work = async () => {
    while (!finished) {
      const born = life;
      const batch = await receive(1 + random.integer(5));
      // When it comes, not when its turn is: by then its time may be over, and another one may have it.
      for (const one of batch) {
        const [key, version] = [keyOf(one), versionOf(one)];
        if (done.get(key)!.has(version)) broken.push(`${key}/${version} came again after it was done`);
        // Killed before an acknowledgement was on record it goes back, and all that followed comes again, in order.
        const before = born === life ? (ordered.get(key) ?? 0) : 0;
        if (before > version) broken.push(`${key}/${version} came after ${before}`);
        if (born === life) ordered.set(key, version);
        newest.set(key, Math.max(version, newest.get(key) ?? 0));
      }
      for (const one of batch) {
        const [key, version] = [keyOf(one), versionOf(one)];
        if (one.deliver_count > 1) redelivered++;
        const act = random.integer(100);
        if (act < 12) await ask('nack', { ack_ids: [one.ack_id], delay_ms: random.integer(50) });
        // From 12 to 16 it forgets the message: another one gets it when the time is up.
        else if (act > 16) {
          if (act < 30) await ask('extend', { ack_ids: [one.ack_id], ms: 1_000 });
          const { status, body } = await ask('ack', { ack_ids: [one.ack_id] });
          if (status === 200 && body['success'] === true) done.get(key)!.add(version);
        }
      }
    }
  };
  const busy = Array.from({ length: workers }, work);

  for (let id = 1; id <= keys; id++) await db.sql(`INSERT INTO jobs VALUES (${id}, 1)`);
  for (let v = 2; v <= versions; v++) {
    await db.sql(`UPDATE jobs SET v = ${v}`);
    if (v % 3 === 0 && v / 3 <= kills) {
      const before = total();
      await eventually('some more are done', () => total() > before + 5);
      await millrace.kill('SIGKILL');
      life++;
      ordered.clear();
      millrace.start();
      await listening();
    }
  }
  // What is not captured yet is not pending either.
  await acknowledged(db);
  await eventually('every change is done', async () => (await pending()) === 0, 60_000).catch((error: unknown) => {
    throw new Error(`${String(error)}: ${total()} done, ${millrace.transcript()}`);
  });
  finished = true;
  await Promise.all(busy);
  expect(broken).toEqual([]);
  expect(redelivered).toBeGreaterThan(0);
  // The last version of every key came to somebody.
  expect([...newest.values()]).toEqual(Array.from({ length: keys }, () => versions));
  // An acknowledgement may be on record, and its answer lost with the process.
  expect(total()).toBeGreaterThanOrEqual(keys * versions - kills * workers);
  expect(await receive(100, 0)).toEqual([]);
}, 90_000);

/** Messages that are not done. */
async function pending(): Promise<number> {
  const answer = await fetch(`${url}/api/sinks/jobs`, { headers: { authorization: `Bearer ${TOKEN}` } });
  const { lag } = (await answer.json()) as { lag: { transactions: number | null } };
  return lag.transactions ?? 1;
}
