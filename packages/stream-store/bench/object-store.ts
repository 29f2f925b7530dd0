/**
 * The store over an object storage, next to the store on the local disk, in one run:
 * `node packages/stream-store/bench/object-store.ts [--mib 256] [--seconds 4]`.
 *
 * The object storage is the S3 server of the tests, on the same machine and disk, so that the numbers are those of the
 * store's own work and of a bucket that is close by; a real one adds its latency to every put. Prints one JSON object.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ByteWriter } from '@millrace/core/byte-writer';
import { startS3Server } from '@millrace/testkit/s3-server';
import { scanAppendRecords } from '../src/append-scan.ts';
import { type LocalStore, openLocalStore } from '../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';
import type { ObjectStorageOptions } from '../src/object-store/object-storage.ts';
import { writeAppendRecord } from '../src/record-writer.ts';
import type { AppendInput, Stream } from '../src/store.ts';

const { values: options } = parseArgs({
  options: { mib: { type: 'string', default: '256' }, seconds: { type: 'string', default: '4' } },
});
const MIB = Number(options.mib);
const SECONDS = Number(options.seconds);
const BASIN = 'bench-basin';

function batchOf(records: number, recordBytes: number): AppendInput {
  const out = new ByteWriter(records * (recordBytes + 16));
  for (let i = 0; i < records; i++) {
    writeAppendRecord(out, { timestamp: undefined, headers: [], body: Buffer.alloc(recordBytes, 97 + (i % 26)) });
  }
  const bytes = out.take();
  return { records: bytes, scan: scanAppendRecords(bytes) };
}

const SMALL = batchOf(1, 128);
const TINY = batchOf(1, 256);
/** As metered, just below the limit of a batch. */
const LARGE = batchOf(1000, 1000);

interface Opened {
  readonly store: LocalStore;
  close(): Promise<void>;
}

async function open(objectStorage: ObjectStorageOptions | undefined): Promise<Opened> {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-bench-objects-'));
  const store = await openLocalStore({ dir, objectStorage, compaction: 'manual' });
  await store.createBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  return {
    store,
    async close() {
      await store.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** One append after the other. */
async function serial(store: LocalStore): Promise<Record<string, number>> {
  const stream = await store.openStream(BASIN, 'serial', 'append');
  const took: number[] = [];
  const end = performance.now() + SECONDS * 1000;
  while (performance.now() < end) {
    const from = performance.now();
    await stream.append(SMALL);
    took.push(performance.now() - from);
  }
  took.sort((a, b) => a - b);
  const at = (share: number) => round(took[Math.floor(took.length * share)]!);
  return { appends: took.length, p50Ms: at(0.5), p99Ms: at(0.99) };
}

async function writers(store: LocalStore, count: number): Promise<Record<string, number>> {
  let appends = 0;
  const begun = performance.now();
  const end = begun + SECONDS * 1000;
  await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      const stream = await store.openStream(BASIN, `writer-${i}`, 'append');
      while (performance.now() < end) {
        await stream.append(TINY);
        appends++;
      }
    }),
  );
  return { appendsPerSec: Math.round((appends / (performance.now() - begun)) * 1000) };
}

/** Batches of 1 MB, sixteen under way. */
async function throughput(store: LocalStore): Promise<Record<string, number>> {
  const stream = await store.openStream(BASIN, 'large', 'append');
  const begun = performance.now();
  let left = MIB;
  await Promise.all(
    Array.from({ length: 16 }, async () => {
      while (left-- > 0) await stream.append(LARGE);
    }),
  );
  return { mibPerSec: Math.round((MIB * LARGE.records.length) / 1_048_576 / ((performance.now() - begun) / 1000)) };
}

/** The whole stream from its beginning, as one reader that catches up. */
async function catchUp(stream: Stream): Promise<number> {
  const begun = performance.now();
  let bytes = 0;
  for (let at = 0; ; ) {
    const slice = await stream.read(at, { countMax: 1000, meteredBytesMax: 1_048_576 });
    if (slice === null) break;
    bytes += slice.records.length;
    at = slice.firstSeqNum + slice.count;
  }
  return Math.round(bytes / 1_048_576 / ((performance.now() - begun) / 1000));
}

async function uploaded(store: LocalStore): Promise<void> {
  while (store.objectStorage()!.pendingFiles > 0) await new Promise((resolve) => setTimeout(resolve, 20));
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

const server = await startS3Server();
const bucketOf = (mode: 'tiered' | 'bucket', more: Partial<ObjectStorageOptions> = {}): ObjectStorageOptions => ({
  mode,
  bucket: server.newBucket(),
  endpoint: server.endpoint,
  credentials: { accessKeyId: server.accessKeyId, secretAccessKey: server.secretAccessKey },
  ...more,
});

const results: Record<string, unknown> = { cpus: availableParallelism(), mib: MIB, seconds: SECONDS };
try {
  for (const [name, storage] of [
    ['local', undefined],
    ['tiered', bucketOf('tiered')],
    ['bucket, puts at most every 20 ms', bucketOf('bucket')],
    ['bucket, puts as fast as they go', bucketOf('bucket', { flushIntervalMs: 0 })],
  ] as const) {
    const { store, close } = await open(storage);
    const alone = await serial(store);
    const many = await writers(store, 1000);
    const large = await throughput(store);
    results[name] = { serial128B: alone, writers1000x256B: many, batches1MB: large };
    await close();
  }

  const { store, close } = await open(bucketOf('tiered', { cacheBytesMax: 64 * 2 ** 30 }));
  await throughput(store);
  const stream = await store.openStream(BASIN, 'large', 'read');
  const begun = performance.now();
  await uploaded(store);
  const uploadSeconds = (performance.now() - begun) / 1000;
  const fromDisk = await catchUp(stream);
  await store.evictNow();
  const fromBucket = await catchUp(stream);
  results.catchUp = { diskMibPerSec: fromDisk, bucketMibPerSec: fromBucket, uploadLagSeconds: round(uploadSeconds) };
  await close();
} finally {
  await server.stop();
}
process.stdout.write(`${JSON.stringify(results, null, 2)}\n`);
