import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type ProcessHarness, processHarness } from '@millrace/testkit/process-harness';
import { type S3Server, s3ServerMissing, startS3Server } from '@millrace/testkit/s3-server';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import type { LocalStore, LocalStoreOptions } from '../src/local-store.ts';
import { decodeHorizon } from '../src/object-store/horizon.ts';
import type { ObjectStorageOptions } from '../src/object-store/object-storage.ts';
import type { Stream } from '../src/store.ts';
import { type Fault, type S3FaultProxy, startS3FaultProxy } from './s3-fault-proxy.ts';
import { appendLogged, appendMore, openStored, STORAGE_BASIN, storedBody, storedStream } from './storage-rig.ts';
import { readAll, seededRandom, tempDir } from './store-rig.ts';

// Stores over a real S3-compatible server, and processes that are killed, stopped and replaced.

const missing = await s3ServerMissing();
const KILLS = Number(process.env.MILLRACE_STORAGE_KILLS ?? 3);
const seed = Number(process.env.MILLRACE_STORAGE_SEED ?? Date.now() % 1_000_000);
const WRITER = fileURLToPath(new URL('./storage-writer.ts', import.meta.url));
const STREAMS = ['one', 'two', 'log'] as const;

describe.skipIf(missing !== null)('a store over a real S3-compatible server', () => {
  let server: S3Server;
  let proxy: S3FaultProxy;

  beforeAll(async () => {
    server = await startS3Server();
    proxy = await startS3FaultProxy(server);
  });

  afterAll(async () => {
    await proxy?.close();
    await server?.stop();
  });

  function storage(
    mode: ObjectStorageOptions['mode'],
    bucket: string,
    more: Partial<ObjectStorageOptions> = {},
  ): ObjectStorageOptions {
    const { endpoint, accessKeyId, secretAccessKey } = server;
    return { mode, bucket, endpoint, credentials: { accessKeyId, secretAccessKey }, flushIntervalMs: 2, ...more };
  }

  async function open(
    dir: string,
    objectStorage: ObjectStorageOptions,
    options: Partial<LocalStoreOptions> = {},
  ): Promise<LocalStore> {
    const store = await openStored(dir, objectStorage, { segmentBytes: 128 * 1024, ...options });
    onTestFinished(() => store.close());
    return store;
  }

  /** Faults of every kind, each request with this chance. */
  function misbehave(chance: number, faults: readonly Fault[]): void {
    const random = seededRandom(seed);
    proxy.decide = () => (random() < chance ? faults[Math.floor(random() * faults.length)]! : 'pass');
    onTestFinished(() => {
      proxy.decide = () => 'pass';
    });
  }

  /** Started; `acked` is what it has said until now. */
  function writer(dir: string, objectStorage: ObjectStorageOptions, segmentBytes = 128 * 1024): ProcessHarness {
    const child = processHarness({ args: [WRITER, dir, JSON.stringify(objectStorage), String(segmentBytes)] });
    onTestFinished(async () => {
      await child.kill('SIGKILL');
    });
    child.start();
    return child;
  }

  test(`tiered: through a bad network everything is uploaded, evicted and read back (seed ${seed})`, async () => {
    misbehave(0.15, ['internal error', 'slow down', 'reset before', 'reset after', 'cut body']);
    const bucket = server.newBucket();
    const dir = tempDir();
    const store = await open(
      dir,
      storage('tiered', bucket, { endpoint: proxy.endpoint, cacheBytesMax: 0, retry: { minMs: 1, maxMs: 20 } }),
    );
    const stream = await storedStream(store, 'a');
    await appendMore(stream, 3000, 100);
    await expect.poll(() => store.objectStorage()?.pendingFiles, { timeout: 40_000 }).toBe(0);
    await expect.poll(() => store.objectStorage()?.localBytes).toBe(0);
    await expectWhole(stream);
    expect(store.objectStorage()?.fetchedBytes).toBeGreaterThan(100_000);
    await store.close();
    const again = await open(dir, storage('tiered', bucket));
    await expectWhole(await storedStream(again, 'a'));
  });

  test('tiered: of a lost disk only what was not uploaded is lost, and it is said what', async () => {
    const bucket = server.newBucket();
    const dir = tempDir();
    const before = await open(dir, storage('tiered', bucket));
    for (const name of ['one', 'two']) await appendMore(await storedStream(before, name), 500, 50);
    await appendLogged(await before.createLogStream('log'), 100);
    await before.close();
    const kept = new Map([
      ['one', 500],
      ['two', 500],
      ['log', 100],
    ]);
    // Segments that do not get full: everything from here on is only on the disk.
    const child = writer(dir, storage('tiered', bucket), 64 * 1_048_576);
    await expect
      .poll(() => namedByHorizon(server, bucket), { timeout: 40_000, interval: 100 })
      .toEqual(['log', 'one', 'two']);
    await child.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
    const refusal = await open(tempDir(), storage('tiered', bucket)).catch((error: unknown) => error as Error);
    expect(refusal).toMatchObject({ code: 'storage_lost' });
    const acked = ackedBy(child);
    const spans = [...(refusal as Error).message.matchAll(/\/?(one|two|log) (\d+)-(\d+)/g)];
    expect(spans.map(([, name]) => name).sort()).toEqual(['log', 'one', 'two']);
    for (const [, name, from, to] of spans) {
      expect(Number(from)).toBe(kept.get(name!));
      expect(Number(to)).toBeGreaterThanOrEqual(Number(from));
      // One batch more may have been durable than it came to say.
      expect(Number(to)).toBeLessThan(acked.get(name!)! + 20);
    }
    const store = await open(tempDir(), storage('tiered', bucket, { acceptLoss: true }));
    for (const [name, seqNum] of kept) {
      const stream = (await streamOf(store, name))!;
      expect(stream.tail.seqNum).toBe(seqNum);
      await expectWhole(stream);
    }
    // And it goes on, without ever giving the number of a lost stream to a new one.
    const fresh = await storedStream(store, 'fresh');
    await appendMore(fresh, 100);
    await expectWhole(fresh);
  });

  test(`bucket: everything acknowledged survives SIGKILL and the loss of the disk, every time (seed ${seed})`, {
    timeout: 30_000 + KILLS * 10_000,
  }, async () => {
    const random = seededRandom(seed);
    const bucket = server.newBucket();
    const acked = new Map<string, number>();
    for (let kill = 0; kill < KILLS; kill++) {
      const child = writer(tempDir(), storage('bucket', bucket));
      await child.waitForLine(/^one /);
      await new Promise((resolve) => setTimeout(resolve, random() * 700));
      await child.kill('SIGKILL');
      for (const [name, seqNum] of ackedBy(child)) acked.set(name, seqNum);
      const store = await openStored(tempDir(), storage('bucket', bucket), { segmentBytes: 128 * 1024 });
      try {
        await expectAcked(store, acked);
      } finally {
        await store.close();
      }
    }
  });

  test('bucket: a process that was stopped, replaced and resumed never acknowledges again, and ends', async () => {
    const bucket = server.newBucket();
    const old = writer(tempDir(), storage('bucket', bucket));
    await old.waitForLine(/^two \d{2,}/);
    process.kill(old.pid, 'SIGSTOP');
    const store = await open(tempDir(), storage('bucket', bucket));
    const tails = new Map<string, number>();
    for (const name of STREAMS) tails.set(name, (await streamOf(store, name))?.tail.seqNum ?? 0);
    const stream = await storedStream(store, 'one');
    await appendMore(stream, 200);
    process.kill(old.pid, 'SIGCONT');
    await old.waitForLine(/^failed storage_fenced$/);
    await old.exited;
    // Also what it says after it was resumed: an answer that was on its way is of a group that the new process has.
    for (const [name, seqNum] of ackedBy(old)) expect(seqNum, name).toBeLessThanOrEqual(tails.get(name)!);
    await appendMore(stream, 50);
    await expectWhole(stream);
    await appendLogged((await streamOf(store, 'log'))!, 20);
    await expectWhole((await streamOf(store, 'log'))!);
  });

  test(`bucket: answers that are lost neither lose nor repeat anything (seed ${seed})`, async () => {
    misbehave(0.25, ['reset after', 'reset after', 'internal error', 'slow down', 'reset before']);
    const bucket = server.newBucket();
    const bad = storage('bucket', bucket, { endpoint: proxy.endpoint, retry: { minMs: 1, maxMs: 10 } });
    const store = await open(tempDir(), bad);
    const stream = await storedStream(store, 'one');
    const log = await store.createLogStream('log');
    await Promise.all([appendMore(stream, 600, 7), appendLogged(log, 60)]);
    await expectWhole(stream);
    await store.close();
    const again = await open(tempDir(), storage('bucket', bucket));
    await expectAcked(
      again,
      new Map([
        ['one', 600],
        ['log', 60],
      ]),
    );
    expect((await streamOf(again, 'one'))!.tail.seqNum).toBe(600);
  });

  test('bucket: refused credentials end the store, and nothing more is acknowledged', async () => {
    const bucket = server.newBucket();
    const store = await open(tempDir(), storage('bucket', bucket, { endpoint: proxy.endpoint }));
    const stream = await storedStream(store, 'one');
    await appendMore(stream, 10);
    proxy.decide = () => 'denied';
    onTestFinished(() => {
      proxy.decide = () => 'pass';
    });
    await expect(appendMore(stream, 1)).rejects.toMatchObject({ code: 'storage' });
    expect((await store.failed).code).toBe('object_store_denied');
  });

  test('bucket: while the storage stalls appends wait, and go on when it is back', async () => {
    const bucket = server.newBucket();
    const store = await open(
      tempDir(),
      storage('bucket', bucket, { endpoint: proxy.endpoint, requestTimeoutMs: 300, retry: { minMs: 1, maxMs: 10 } }),
    );
    const stream = await storedStream(store, 'one');
    proxy.decide = ({ method }) => (method === 'PUT' ? 'stall after' : 'pass');
    onTestFinished(() => {
      proxy.decide = () => 'pass';
    });
    let done = false;
    const appending = appendMore(stream, 10).then(() => {
      done = true;
    });
    const before = proxy.requests.length;
    await expect.poll(() => proxy.requests.length, { timeout: 30_000 }).toBeGreaterThan(before + 2);
    // The first answer was lost, and the group is there: reading it back is what decides.
    proxy.decide = () => 'pass';
    await appending;
    expect(done).toBe(true);
    await expectWhole(stream);
  });
});

/** The streams that the horizon in the bucket names, from the server's own files. */
function namedByHorizon(server: S3Server, bucket: string): string[] {
  const dir = join(server.bucketDir(bucket), 'horizon');
  const newest = readdirSync(dir).sort().at(-1)!;
  const { segments } = decodeHorizon(readFileSync(join(dir, newest)))!;
  const names = segments.flatMap(({ streams }) => streams.map(({ stream }) => stream));
  return [...new Set(names)].sort();
}

function ackedBy(child: ProcessHarness): Map<string, number> {
  const acked = new Map<string, number>();
  for (const { text } of child.lines) {
    const [name = '', seqNum] = text.split(' ');
    if ((STREAMS as readonly string[]).includes(name)) acked.set(name, Number(seqNum));
  }
  return acked;
}

async function streamOf(store: LocalStore, name: string): Promise<Stream | null> {
  if (name === 'log') return store.openLogStream('log');
  return await store.openStream(STORAGE_BASIN, name, 'read').catch(() => null);
}

async function expectAcked(store: LocalStore, acked: ReadonlyMap<string, number>): Promise<void> {
  for (const [name, seqNum] of acked) {
    const stream = await streamOf(store, name);
    expect(stream?.tail.seqNum, name).toBeGreaterThanOrEqual(seqNum);
    await expectWhole(stream!);
  }
}

async function expectWhole(stream: Stream, from = 0): Promise<void> {
  const records = await readAll(stream, from);
  let wrong = 0;
  records.forEach(({ seqNum, body }, i) => {
    if (seqNum !== from + i || body !== storedBody(stream.name, seqNum)) wrong++;
  });
  expect(wrong).toBe(0);
  expect(from + records.length).toBe(stream.tail.seqNum);
}
