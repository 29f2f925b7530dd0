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
  return status === 200 ? (body['data'] as Received[]) : [];
}

const versionOf = ({ data }: Received) => data.record['v'] as number;
const keyOf = ({ data }: Received) => data.record['id'] as number;

test('whatever workers do and whenever the process is killed, every change is done, in the order of its key, and stays so', async () => {
  const [keys, versions, workers, kills] = [20, 12, 8, 3];
  await db.sql('CREATE TABLE jobs (id int PRIMARY KEY, v int)');
  await start({ ack_wait_ms: 700, max_ack_pending: 50 });
  const random = seededRandom(20_260_301);
  /** By key, the versions whose acknowledgement was answered. */
  const done = new Map<number, number[]>();
  const broken: string[] = [];
  let finished = false;
  const total = () => [...done.values()].reduce((sum, one) => sum + one.length, 0);

  const work = async () => {
    while (!finished) {
      for (const one of await receive(1 + Math.floor(random() * 5))) {
        const mine = done.get(keyOf(one)) ?? [];
        if (mine.includes(versionOf(one))) broken.push(`${keyOf(one)}/${versionOf(one)} came again after it was done`);
        const act = random();
        if (act < 0.12) await ask('nack', { ack_ids: [one.ack_id], delay_ms: Math.floor(random() * 50) });
        // It forgets the message: another one gets it when the time is up.
        else if (act < 0.17) continue;
        else {
          if (act < 0.3) await ask('extend', { ack_ids: [one.ack_id], ms: 1_000 });
          const { status, body } = await ask('ack', { ack_ids: [one.ack_id] });
          if (status !== 200 || body['success'] !== true) continue;
          const last = done.get(keyOf(one)) ?? [];
          // Unless it was done before, and the answer was lost with the process.
          if (last.length > 0 && last.at(-1)! >= versionOf(one)) broken.push(`${keyOf(one)}/${versionOf(one)} after ${last}`);
          done.set(keyOf(one), [...last, versionOf(one)]);
        }
      }
      if (!millrace.running) await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  const busy = Array.from({ length: workers }, work);

  for (let id = 1; id <= keys; id++) await db.sql(`INSERT INTO jobs VALUES (${id}, 1)`);
  for (let v = 2; v <= versions; v++) {
    await db.sql(`UPDATE jobs SET v = ${v}`);
    if (v % 4 === 0 && v / 4 <= kills) {
      const before = total();
      await eventually('some more are done', () => total() > before + 5);
      await millrace.restart('SIGKILL');
      await listening();
    }
  }
  // What was acknowledged while the process died may be done without anybody having heard of it.
  const lastOf = (id: number) => done.get(id)?.at(-1) ?? 0;
  await eventually(
    'nothing is left',
    async () => (await receive(100, 0)).length === 0 && (await pending()) === 0,
    60_000,
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}: ${total()} done, ${millrace.transcript()}`);
  });
  finished = true;
  await Promise.all(busy);
  expect(broken).toEqual([]);
  let unheard = 0;
  for (let id = 1; id <= keys; id++) unheard += versions - done.get(id)!.length;
  // At most those that the workers had in hand at a kill.
  expect(unheard).toBeLessThanOrEqual(kills * workers * 5);
  expect(lastOf(1)).toBeGreaterThan(0);
}, 90_000);

/** Messages that are not done. */
async function pending(): Promise<number> {
  const answer = await fetch(`${url}/api/sinks/jobs`, { headers: { authorization: `Bearer ${TOKEN}` } });
  const { lag } = (await answer.json()) as { lag: { transactions: number | null } };
  return lag.transactions ?? 1;
}
