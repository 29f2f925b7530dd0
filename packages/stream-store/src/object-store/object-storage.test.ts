import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { MemoryBucket } from '../../test/memory-object-store.ts';
import { appendLogged, appendMore, openStored, storedBody, storedStream } from '../../test/storage-rig.ts';
import { HeldClock, input, readAll, tempDir } from '../../test/store-rig.ts';
import { type LocalStore, type LocalStoreOptions, openLocalStore } from '../local-store.ts';
import type { Stream } from '../store.ts';
import { WAL_OBJECTS_PER_SEGMENT } from './limits.ts';
import type { ObjectStorageOptions } from './object-storage.ts';
import type { ObjectStore } from './object-store.ts';

// Stores over a bucket in memory: what tiers, what is lost with a disk, who owns the bucket.

async function open(
  dir: string,
  bucket: MemoryBucket,
  options: Partial<ObjectStorageOptions> & Pick<ObjectStorageOptions, 'mode'>,
  storeOptions: Partial<LocalStoreOptions> = {},
): Promise<LocalStore> {
  const store = await openStored(dir, { bucket: 'memory', store: bucket.client(), ...options }, storeOptions);
  onTestFinished(() => store.close());
  return store;
}

async function expectWhole(stream: Stream, from = 0): Promise<void> {
  const records = await readAll(stream, from);
  expect(records.map(({ seqNum }) => seqNum)).toEqual(
    Array.from({ length: stream.tail.seqNum - from }, (_, i) => from + i),
  );
  expect(records.every(({ seqNum, body }) => body === storedBody(stream.name, seqNum))).toBe(true);
}

function bound(store: ObjectStore): ObjectStore {
  return {
    put: store.put.bind(store),
    get: store.get.bind(store),
    getRange: store.getRange.bind(store),
    head: store.head.bind(store),
    list: store.list.bind(store),
    delete: store.delete.bind(store),
    close: store.close.bind(store),
  };
}

function manifestText(bucket: MemoryBucket): string {
  return bucket.objects.get('manifest')!.bytes.toString();
}

function localSegments(dir: string, journal = 'main'): string[] {
  return readdirSync(join(dir, journal)).filter((name) => name.endsWith('.log'));
}

describe('tiered', () => {
  test('sealed segments move to the bucket, leave the disk, and are read from there', async () => {
    const [dir, bucket] = [tempDir(), new MemoryBucket()];
    const store = await open(dir, bucket, { mode: 'tiered', cacheBytesMax: 0 }, { compaction: 'manual' });
    const stream = await storedStream(store, 'a');
    await appendMore(stream, 500);
    await expect.poll(() => store.objectStorage()?.pendingFiles).toBe(0);
    await expect.poll(() => localSegments(dir).length).toBe(1);
    expect(store.objectStorage()?.bucketBytes).toBeGreaterThan(100_000);
    await expectWhole(stream);
    expect(store.objectStorage()?.fetchedBytes).toBeGreaterThan(0);
  });

  test('a disk that is lost after an orderly end loses nothing', async () => {
    const [dir, bucket] = [tempDir(), new MemoryBucket()];
    const store = await open(dir, bucket, { mode: 'tiered' });
    const stream = await storedStream(store, 'a');
    await appendMore(stream, 300);
    const log = await store.createLogStream('changes');
    await appendLogged(log, 300);
    await store.close();
    const other = await open(tempDir(), bucket, { mode: 'tiered' });
    const again = await storedStream(other, 'a');
    expect(again.tail.seqNum).toBe(300);
    await expectWhole(again);
    expect(other.openLogStream('changes')!.tail.seqNum).toBe(300);
    await expectWhole(other.openLogStream('changes')!);
    await appendMore(again, 100);
    await expectWhole(again);
  });

  test('a lost disk is told stream by stream, and nothing goes on before it is accepted', async () => {
    const bucket = new MemoryBucket();
    const dir = tempDir();
    const clock = new HeldClock();
    const store = await open(dir, bucket, { mode: 'tiered' }, { clock });
    await appendMore(await storedStream(store, 'kept'), 200);
    await store.close();
    clock.nowMs += 60_000;
    const again = await open(dir, bucket, { mode: 'tiered' }, { clock });
    await appendMore(await storedStream(again, 'kept'), 5);
    await appendMore(await storedStream(again, 'young'), 7);
    await again.writeHorizon();
    const left = bucket.copy();
    const empty = () => open(tempDir(), left.copy(), { mode: 'tiered' });
    await expect(empty()).rejects.toMatchObject({ code: 'storage_lost' });
    await expect(empty()).rejects.toThrow(
      `As of ${new Date(clock.nowMs).toISOString()}: storage-basin/kept 200-204, storage-basin/young 0-6.`,
    );
    const accepted = await open(tempDir(), left, { mode: 'tiered', acceptLoss: true }, { clock });
    const kept = await storedStream(accepted, 'kept');
    expect(kept.tail.seqNum).toBe(200);
    await expectWhole(kept);
    await appendMore(kept, 50);
    await expectWhole(kept);
  });

  test('an empty directory takes the bucket over only once; the one before is told to stop', async () => {
    const bucket = new MemoryBucket();
    const first = await open(tempDir(), bucket, { mode: 'tiered' });
    const stream = await storedStream(first, 'a');
    await appendMore(stream, 300);
    await expect.poll(() => first.objectStorage()?.pendingFiles).toBe(0);
    await open(tempDir(), bucket, { mode: 'tiered', acceptLoss: true });
    // With the next thing it wants to write there.
    await appendMore(stream, 200).catch(() => {});
    expect((await first.failed).code).toBe('storage_fenced');
    await expect(appendMore(stream, 1)).rejects.toMatchObject({ code: 'storage' });
  });

  test('a directory whose bucket another one has gone on with is refused', async () => {
    const [old, bucket] = [tempDir(), new MemoryBucket()];
    const first = await open(old, bucket, { mode: 'tiered' });
    await appendMore(await storedStream(first, 'a'), 20);
    await first.close();
    const second = await open(tempDir(), bucket, { mode: 'tiered' });
    await second.close();
    await expect(open(old, bucket, { mode: 'tiered' })).rejects.toMatchObject({ code: 'storage_mismatch' });
    // And so is the bucket of another store, or one that was emptied.
    await expect(open(old, new MemoryBucket(), { mode: 'tiered' })).rejects.toMatchObject({ code: 'storage_mismatch' });
    const other = new MemoryBucket();
    await (await open(tempDir(), other, { mode: 'tiered' })).close();
    await expect(open(old, other, { mode: 'tiered' })).rejects.toMatchObject({ code: 'storage_mismatch' });
  });

  test('a store that had no bucket moves into one', async () => {
    const [dir, bucket] = [tempDir(), new MemoryBucket()];
    const local = await openLocalStore({ dir, segmentBytes: 16 * 1024, rootToken: 'root' });
    await appendMore(await storedStream(local, 'a'), 300);
    await local.close();
    const tiered = await open(dir, bucket, { mode: 'tiered' });
    await expectWhole(await storedStream(tiered, 'a'));
    await tiered.close();
    const elsewhere = await open(tempDir(), bucket, { mode: 'tiered' });
    const stream = await storedStream(elsewhere, 'a');
    expect(stream.tail.seqNum).toBe(300);
    await expectWhole(stream);
  });

  test('what compaction wrote in the middle of a segment promises nothing that only the disk has', async () => {
    const bucket = new MemoryBucket();
    const client = bucket.client();
    const moments: MemoryBucket[] = [];
    const store = await open(
      tempDir(),
      bucket,
      {
        mode: 'tiered',
        // What a disk lost at this moment would leave.
        store: {
          ...bound(client),
          async put(key, parts, condition) {
            const outcome = await client.put(key, parts, condition);
            if (key === 'manifest') moments.push(bucket.copy());
            return outcome;
          },
        },
      },
      { compaction: 'manual' },
    );
    const stream = await storedStream(store, 'a');
    await appendMore(stream, 500);
    let stopped = false;
    const appending = (async () => {
      while (!stopped) await appendMore(stream, 1);
    })();
    await store.compactNow();
    stopped = true;
    await appending;
    const compacted = () => moments.filter((moment) => manifestText(moment).includes('checkpoint-'));
    // The base lies in a segment that is still being written, which takes this many bytes more.
    for (let i = 0; i < 20 && compacted().length === 0; i++) {
      await appendMore(stream, 50);
      await expect.poll(() => store.objectStorage()?.pendingFiles).toBe(0);
    }
    expect(compacted().length).toBeGreaterThan(0);
    for (const moment of compacted().slice(0, 5)) {
      const left = await open(tempDir(), moment, { mode: 'tiered', acceptLoss: true });
      await expectWhole(await storedStream(left, 'a'));
      await left.close();
    }
  });

  test('an endpoint that ignores conditions is refused before anything is claimed', async () => {
    const bucket = new MemoryBucket();
    for (const mode of ['tiered', 'bucket'] as const) {
      const client = bucket.client();
      const store: ObjectStore = { ...bound(client), put: (key, parts) => client.put(key, parts) };
      await expect(open(tempDir(), bucket, { mode, store })).rejects.toMatchObject({ code: 'object_store_refused' });
    }
    expect(bucket.keys()).toEqual([]);
  });

  test('damaged objects are refused by name, never served', async () => {
    const [dir, bucket] = [tempDir(), new MemoryBucket()];
    const store = await open(dir, bucket, { mode: 'tiered', cacheBytesMax: 0 });
    const stream = await storedStream(store, 'a');
    await appendMore(stream, 500);
    await expect.poll(() => store.objectStorage()?.localBytes).toBe(0);
    for (const key of bucket.keys('main/data/')) {
      const { bytes, etag } = bucket.objects.get(key)!;
      const damaged = Buffer.from(bytes);
      damaged[damaged.length >> 1] = damaged[damaged.length >> 1]! ^ 0xff;
      bucket.objects.set(key, { bytes: damaged, etag });
    }
    await expect(readAll(stream)).rejects.toMatchObject({ code: 'storage' });
    await store.close();
    const manifest = bucket.objects.get('manifest')!;
    bucket.objects.set('manifest', { ...manifest, bytes: manifest.bytes.subarray(0, 50) });
    await expect(open(dir, bucket, { mode: 'tiered' })).rejects.toMatchObject({ code: 'storage_corrupt' });
  });

  test('a file that is damaged on the disk is not uploaded', async () => {
    const [dir, bucket] = [tempDir(), new MemoryBucket()];
    const lines: string[] = [];
    const local = await openLocalStore({ dir, segmentBytes: 16 * 1024, rootToken: 'root' });
    await appendMore(await storedStream(local, 'a'), 300);
    await local.close();
    const path = join(dir, 'main', localSegments(dir)[1]!);
    const bytes = readFileSync(path);
    bytes[5000] = bytes[5000]! ^ 0xff;
    writeFileSync(path, bytes);
    const store = await open(dir, bucket, { mode: 'tiered', cacheBytesMax: 0 }, { log: (line) => lines.push(line) });
    await expect.poll(() => store.objectStorage()?.failure).toMatch(/0000000002\.log .*damaged.*storage_corrupt/);
    expect(lines).toHaveLength(1);
    expect(localSegments(dir)).toContain('0000000002.log');
  });
});

describe('bucket', () => {
  test('a directory with a store of its own is refused, and one that was a cache is made anew', async () => {
    const [own, cache, bucket] = [tempDir(), tempDir(), new MemoryBucket()];
    const local = await openLocalStore({ dir: own, segmentBytes: 16 * 1024, rootToken: 'root' });
    await local.close();
    await expect(open(own, bucket, { mode: 'bucket' })).rejects.toMatchObject({ code: 'storage_mismatch' });
    const first = await open(cache, bucket, { mode: 'bucket', flushIntervalMs: 0 });
    await appendMore(await storedStream(first, 'a'), 100);
    await first.close();
    const elsewhere = await open(tempDir(), bucket, { mode: 'bucket', flushIntervalMs: 0 });
    await appendMore(await storedStream(elsewhere, 'a'), 100);
    await elsewhere.close();
    await expect(open(own, bucket, { mode: 'bucket' })).rejects.toMatchObject({ code: 'storage_mismatch' });
    await expect(open(cache, bucket, { mode: 'tiered' })).rejects.toMatchObject({ code: 'storage_mismatch' });
    const again = await open(cache, bucket, { mode: 'bucket', flushIntervalMs: 0 });
    const stream = await storedStream(again, 'a');
    expect(stream.tail.seqNum).toBe(200);
    await expectWhole(stream);
  });

  test('a tiered store that was closed in order goes on in the bucket alone', async () => {
    const [dir, bucket] = [tempDir(), new MemoryBucket()];
    const tiered = await open(dir, bucket, { mode: 'tiered' });
    await appendMore(await storedStream(tiered, 'a'), 100);
    const before = bucket.copy();
    await tiered.close();
    await expect(open(tempDir(), before, { mode: 'bucket' })).rejects.toMatchObject({ code: 'storage_lost' });
    const store = await open(tempDir(), bucket, { mode: 'bucket', flushIntervalMs: 0 });
    const stream = await storedStream(store, 'a');
    expect(stream.tail.seqNum).toBe(100);
    await appendMore(stream, 100);
    await expectWhole(stream);
  });

  test('the write-ahead log is collected as segments reach the bucket, and a takeover leaves one small fence', async () => {
    const bucket = new MemoryBucket();
    for (let opening = 0; opening < 3; opening++) {
      const store = await open(tempDir(), bucket, { mode: 'bucket', flushIntervalMs: 0 });
      await appendMore(await storedStream(store, 'a'), 500);
      await expect.poll(() => store.objectStorage()?.pendingFiles).toBe(0);
      await store.close();
    }
    const groups = bucket.keys('main/wal/').map((key) => bucket.objects.get(key)!.bytes.length);
    expect(groups.filter((bytes) => bytes === 64)).toHaveLength(3);
    expect(groups.length).toBeLessThan(100);
  });

  test('a segment of many small groups is sealed, so that a takeover has a bounded number of objects to read', async () => {
    const bucket = new MemoryBucket();
    const large = { segmentBytes: 64 * 1_048_576 };
    const store = await open(tempDir(), bucket, { mode: 'bucket', flushIntervalMs: 0 }, large);
    const stream = await storedStream(store, 'a');
    await appendMore(stream, WAL_OBJECTS_PER_SEGMENT + 50, 1);
    await expect.poll(() => bucket.keys('main/wal/').length).toBeLessThan(200);
    await expectWhole(stream);
  });

  test('appends in between two puts go together', async () => {
    const bucket = new MemoryBucket();
    const store = await open(tempDir(), bucket, { mode: 'bucket', flushIntervalMs: 60 });
    const stream = await storedStream(store, 'a');
    const before = bucket.keys('main/wal/').length;
    const begun = performance.now();
    for (let i = 0; i < 10; i++) await Promise.all(Array.from({ length: 20 }, () => stream.append(input(['x']))));
    expect(bucket.keys('main/wal/').length - before).toBeLessThanOrEqual(11);
    expect(performance.now() - begun).toBeGreaterThan(9 * 60 - 20);
  });

  test('a fresh process on an empty disk goes on where the bucket ends', async () => {
    const bucket = new MemoryBucket();
    let appended = 0;
    for (let round = 0; round < 4; round++) {
      const store = await open(tempDir(), bucket, { mode: 'bucket', flushIntervalMs: 0 });
      const stream = await storedStream(store, 'a');
      expect(stream.tail.seqNum).toBe(appended);
      await expectWhole(stream);
      const log = store.openLogStream('changes') ?? (await store.createLogStream('changes'));
      expect(log.tail.seqNum).toBe(round * 50);
      await appendMore(stream, 200);
      await appendLogged(log, 50);
      appended += 200;
      await expectWhole(stream);
      await expectWhole(log);
      await store.close();
    }
  });

  test('a process that was replaced never acknowledges again', async () => {
    const bucket = new MemoryBucket();
    const first = await open(tempDir(), bucket, { mode: 'bucket', flushIntervalMs: 0 });
    const stream = await storedStream(first, 'a');
    await appendMore(stream, 20);
    const second = await open(tempDir(), bucket, { mode: 'bucket', flushIntervalMs: 0 });
    await expect(appendMore(stream, 1)).rejects.toMatchObject({ code: 'storage' });
    expect((await first.failed).code).toBe('storage_fenced');
    const continued = await storedStream(second, 'a');
    expect(continued.tail.seqNum).toBe(20);
    await appendMore(continued, 20);
    await expectWhole(continued);
  });
});
