/** Millrace as a process of its own, so that it can be killed, or stand beside another one. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ChangeLog } from '@millrace/engine/change-log/change-log';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { type ProcessHarness, processHarness } from '@millrace/testkit/process-harness';
import { BASIN, configText, eventually, type Message, type MillraceOptions } from '../end-to-end/millrace.ts';
import { bodiesOf } from '../stream-bodies.ts';

const ROOT_TOKEN = 'the-root-token-of-a-test';
const CLI = fileURLToPath(new URL('../../packages/cli/bin/millrace.js', import.meta.url));

export interface EngineProcess {
  readonly process: ProcessHarness;
  readonly dataDir: string;
  /** Starts it, with the database at another port when given. */
  start(port?: number): void;
  streaming(): Promise<string>;
  /** Resolves when all that is committed by now is captured, acknowledged, and delivered to every sink. */
  delivered(): Promise<void>;
  /** Resolves when the sink has backfills, and all of them are complete. */
  backfilled(sink: string): Promise<void>;
  /** What its stream holds; only while it does not run. */
  messages(stream?: string): Promise<Message[]>;
  /** Records of its change log; only while it does not run. */
  logRecords(): Promise<number>;
  remove(): Promise<void>;
}

/** Resolves when all that is committed by now is captured and acknowledged; sinks may be behind. */
export async function acknowledged(db: TestDatabase, slot = db.name): Promise<void> {
  // A transaction of its own: what the server writes for itself is acknowledged only now and then.
  const [{ lsn }] = (await db.sql(`SELECT pg_logical_emit_message(true, 'millrace.test', '')::text AS lsn`)) as [
    { lsn: string },
  ];
  await eventually(`slot ${slot} passes ${lsn}`, async () => {
    const [row] = await db.sql(
      `SELECT confirmed_flush_lsn > '${lsn}'::pg_lsn AS passed FROM pg_replication_slots WHERE slot_name = '${slot}'`,
    );
    return row?.passed === true;
  });
}

export async function engineProcess(db: TestDatabase, options: MillraceOptions = {}): Promise<EngineProcess> {
  const dir = testDirectory('engine');
  const dataDir = join(dir, 'data');
  const file = join(dir, 'millrace.yaml');
  const prepared = await openLocalStore({ dir: dataDir, log: () => {} });
  await prepared.ensureBasin(BASIN, {
    defaultStreamConfig: {},
    streamCipher: null,
    createStreamOnAppend: true,
    createStreamOnRead: true,
  });
  await prepared.close();
  const rootTokenFile = join(dir, 'root-token');
  writeFileSync(rootTokenFile, ROOT_TOKEN);
  const where = ['--config', file, '--data', dataDir, '--root-token-file', rootTokenFile, '--port', '0'];
  const harness = processHarness({ args: [CLI, 'start', ...where] });

  async function stored<T>(read: (store: Awaited<ReturnType<typeof openLocalStore>>) => Promise<T>): Promise<T> {
    const store = await openLocalStore({ dir: dataDir, log: () => {} });
    try {
      return await read(store);
    } finally {
      await store.close();
    }
  }

  return {
    process: harness,
    dataDir,
    start(port) {
      const url = port === undefined ? db.url : db.url.replace(`:${db.config.port}/`, `:${port}/`);
      writeFileSync(file, configText({ ...db, url }, options));
      harness.start();
    },
    streaming: () => harness.waitForLine(/streaming from slot/),
    async delivered() {
      await acknowledged(db);
      const line = await harness.waitForLine(/millrace listening on /);
      const [url] = /http:\S+/.exec(line)!;
      await eventually('every sink has got it', async () => {
        const answer = await fetch(new URL('/api/sinks', url), { headers: { authorization: `Bearer ${ROOT_TOKEN}` } });
        const { data } = (await answer.json()) as { data: { lag: { bytes: string } }[] };
        return data.length > 0 && data.every(({ lag }) => lag.bytes === '0');
      });
    },
    async backfilled(sink) {
      const line = await harness.waitForLine(/millrace listening on /);
      const url = new URL(`/api/sinks/${sink}/backfills`, /http:\S+/.exec(line)![0]);
      const complete = async () => {
        const answer = await fetch(url, { headers: { authorization: `Bearer ${ROOT_TOKEN}` } });
        if (!answer.ok) return false; // The pipeline has yet to start.
        const { data } = (await answer.json()) as { data: { state: string }[] };
        return data.length > 0 && data.every(({ state }) => state === 'completed');
      };
      await eventually(`the backfills of ${sink} are complete`, complete, 60_000);
    },
    messages: (stream = 'sink') =>
      stored(async (store) => {
        const target = await store.openStream(BASIN, stream, 'read').catch(() => null);
        const found: Message[] = [];
        if (target !== null) for await (const body of bodiesOf(target)) found.push(JSON.parse(body) as Message);
        return found;
      }),
    logRecords: () =>
      stored(async (store) => {
        const stream = store.openLogStream('changes/shop');
        if (!stream) return 0;
        return (await ChangeLog.open(stream, store.state, 'source/shop')).durableSeq;
      }),
    async remove() {
      await harness.kill();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
