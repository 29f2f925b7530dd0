import { MillraceError } from '@millrace/core/error';
import { describe, expect, test } from 'vitest';
import { MemoryFileSystem } from '../../test/memory-file-system.ts';
import { MemoryBucket, type Network, type Operation } from '../../test/memory-object-store.ts';
import {
  appendLogged,
  appendMore,
  openStored,
  STORAGE_BASIN,
  storedBody,
  storedStream,
} from '../../test/storage-rig.ts';
import { readAll, seededRandom, tempDir } from '../../test/store-rig.ts';
import { type LocalStore, openLocalStore } from '../local-store.ts';
import { S2Error } from '../s2-error.ts';
import type { Stream } from '../store.ts';
import type { StorageMode } from './bucket-manifest.ts';

// One workload that rolls both journals, uploads, compacts, deletes objects and trims; and its n-th request failing, for
// many n, in every way a request can, the death of the process among them. Whatever happens: what was acknowledged is
// there afterwards, on the disk and bucket in mode tiered, in the bucket alone in mode bucket.

const RUNS = Number(process.env.MILLRACE_STORAGE_FAULT_RUNS ?? 14);

type Failure = 'lost' | 'answer lost' | 'late' | 'death before' | 'death after';
const FAILURES: readonly Failure[] = ['lost', 'answer lost', 'late', 'death before', 'death after'];

class FaultyNetwork implements Network {
  requests: Operation[] = [];
  readonly #at: number;
  readonly #failure: Failure;
  dead = false;

  constructor(at: number, failure: Failure) {
    this.#at = at;
    this.#failure = failure;
  }

  async hop(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
  }

  fate(operation: Operation): ReturnType<Network['fate']> {
    if (this.dead) throw new MillraceError('object_store_refused', { detail: 'the process is dead' });
    const here = this.requests.push(operation) - 1 === this.#at;
    if (!here) return 'served';
    if (this.#failure === 'death before' || this.#failure === 'death after') {
      this.dead = true;
      if (this.#failure === 'death before') throw new MillraceError('object_store_refused', { detail: 'death' });
      return 'answer lost';
    }
    return this.#failure;
  }
}

interface Told {
  readonly acked: Map<string, number>;
  readonly sent: Map<string, number>;
}

function open(dir: string, fileSystem: MemoryFileSystem, bucket: MemoryBucket, mode: StorageMode, network?: Network) {
  const objectStorage = {
    bucket: 'memory',
    mode,
    store: bucket.client(network),
    flushIntervalMs: 0,
    cacheBytesMax: 6_000,
    retry: { minMs: 0, maxMs: 1 },
  };
  return openStored(dir, objectStorage, { fileSystem, segmentBytes: 4096, compaction: 'manual' });
}

async function workload(store: LocalStore, told: Told): Promise<void> {
  const a = await storedStream(store, 'a');
  const b = await storedStream(store, 'b');
  const changes = store.openLogStream('changes') ?? (await store.createLogStream('changes'));
  for (let round = 0; round < 6; round++) {
    for (const stream of [a, b]) await acked(told, stream, 12, () => appendMore(stream, 12, 4));
    await acked(told, changes, 6, () => appendLogged(changes, 6));
    if (round === 3) await a.trim(30);
    if (round === 4) await store.compactNow().catch(() => {});
    if (round === 2) await changes.trim(9);
  }
}

async function acked(told: Told, stream: Stream, count: number, append: () => Promise<void>): Promise<void> {
  told.sent.set(stream.name, stream.tail.seqNum + count);
  await append();
  told.acked.set(stream.name, stream.tail.seqNum);
}

async function check(store: LocalStore, told: Told): Promise<void> {
  for (const [name, least] of told.acked) {
    const stream =
      name === 'changes' ? store.openLogStream(name)! : await store.openStream(STORAGE_BASIN, name, 'read');
    expect(stream.tail.seqNum).toBeGreaterThanOrEqual(least);
    expect(stream.tail.seqNum).toBeLessThanOrEqual(told.sent.get(name)!);
    const records = await readAll(stream, stream.firstSeqNum);
    expect(records.map(({ seqNum }) => seqNum)).toEqual(
      Array.from({ length: stream.tail.seqNum - stream.firstSeqNum }, (_, i) => stream.firstSeqNum + i),
    );
    for (const { seqNum, body } of records) expect(body).toBe(storedBody(name, seqNum));
  }
}

/** Whatever the bucket holds alone is a whole store, and what its losses do not name is there. */
async function checkLostDisk(bucket: MemoryBucket, told: Told): Promise<void> {
  const open = (acceptLoss: boolean) =>
    openStored(
      tempDir(),
      { bucket: 'memory', mode: 'tiered', store: bucket.client(), acceptLoss },
      {
        fileSystem: new MemoryFileSystem(),
        segmentBytes: 4096,
      },
    );
  const refusal = await open(false).then(
    async (store) => {
      await store.close();
      return null;
    },
    (error: unknown) => error as MillraceError,
  );
  if (refusal !== null) expect(refusal.code).toBe('storage_lost');
  const store = await open(true);
  const least = new Map<string, number>();
  for (const name of refusal === null ? told.acked.keys() : []) least.set(name, told.acked.get(name)!);
  for (const name of told.sent.keys()) {
    const stream = name === 'changes' ? store.openLogStream(name) : await streamOrNull(store, name);
    if (stream === null) continue;
    expect(stream.tail.seqNum).toBeGreaterThanOrEqual(least.get(name) ?? 0);
    least.set(name, stream.tail.seqNum);
  }
  await check(store, { acked: new Map([...least].filter(([, seqNum]) => seqNum > 0)), sent: told.sent });
  await store.close();
}

async function streamOrNull(store: LocalStore, name: string): Promise<Stream | null> {
  return await store.openStream(STORAGE_BASIN, name, 'read').catch(() => null);
}

/** Returns how many requests the run made. */
async function run(mode: StorageMode, at: number, failure: Failure): Promise<number> {
  const [dir, fileSystem, bucket] = [tempDir(), new MemoryFileSystem(), new MemoryBucket()];
  const network = new FaultyNetwork(at, failure);
  const told: Told = { acked: new Map(), sent: new Map() };
  try {
    const store = await open(dir, fileSystem, bucket, mode, network);
    try {
      await workload(store, told);
    } finally {
      await store.close();
    }
  } catch (error) {
    const expected = error instanceof S2Error || error instanceof MillraceError;
    if (!expected || !failure.startsWith('death')) throw error;
  }
  const requests = network.requests.length;
  if (mode === 'tiered') await checkLostDisk(bucket.copy(), told);
  // Twice, with more work in between: what was left behind must not harm what comes.
  for (let again = 0; again < 2; again++) {
    const found = mode === 'bucket' ? new MemoryFileSystem() : fileSystem.afterKill();
    const next = await open(mode === 'bucket' ? tempDir() : dir, found, bucket, mode);
    await check(next, told);
    if (again === 0) await workload(next, told);
    await check(next, told);
    await next.close();
    if (mode === 'tiered') break;
  }
  return requests;
}

/** A full directory and an empty bucket, or the other way round. */
async function prepared(from: 'a directory' | 'a bucket', told: Told) {
  const [dir, fileSystem, bucket] = [tempDir(), new MemoryFileSystem(), new MemoryBucket()];
  const options = { fileSystem, segmentBytes: 4096, rootToken: 'root', compaction: 'manual' } as const;
  const store =
    from === 'a bucket' ? await open(dir, fileSystem, bucket, 'tiered') : await openLocalStore({ dir, ...options });
  await workload(store, told);
  await store.close();
  return from === 'a bucket'
    ? { dir: tempDir(), disk: new MemoryFileSystem(), bucket }
    : { dir, disk: fileSystem, bucket };
}

test.each(['a directory', 'a bucket'] as const)(
  '%s is moved whole, whatever interrupts that and however often',
  {
    timeout: 300_000 + RUNS * 2_000,
  },
  async (from) => {
    const told: Told = { acked: new Map(), sent: new Map() };
    const { dir, disk, bucket: before } = await prepared(from, told);
    for (let at = 0, over = false; !over; at += RUNS > 14 ? 1 : 3) {
      for (const failure of ['death before', 'death after'] as const) {
        let found = disk.afterKill();
        const bucket = before.copy();
        for (let attempt = 0; attempt < 2; attempt++) {
          const network = new FaultyNetwork(at, failure);
          const opened = await open(dir, found, bucket, 'tiered', network).catch((error: unknown) => {
            if (error instanceof MillraceError || error instanceof S2Error) return null;
            throw error;
          });
          await opened?.close();
          if (!network.dead) over = true;
          found = found.afterKill();
        }
        const last = await open(dir, found, bucket, 'tiered');
        await check(last, told);
        await last.close();
      }
    }
  },
);

describe.each(['tiered', 'bucket'] as const)('mode %s', (mode) => {
  test('nothing acknowledged is lost, whichever request fails how', { timeout: 300_000 + RUNS * 2_000 }, async () => {
    const requests = await run(mode, -1, 'lost');
    expect(requests).toBeGreaterThan(50);
    const random = seededRandom(11);
    for (let i = 0; i < RUNS; i++) {
      const at = Math.floor(((i + random()) / RUNS) * requests);
      const failure = FAILURES[Math.floor(random() * FAILURES.length)]!;
      try {
        await run(mode, at, failure);
      } catch (error) {
        throw new Error(`request ${at} of ${requests}: ${failure}`, { cause: error });
      }
    }
  });
});
