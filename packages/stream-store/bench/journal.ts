import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ByteWriter } from '@millrace/core/byte-writer';
import { scanAppendRecords } from '../src/append-scan.ts';
import { type LocalStore, openLocalStore } from '../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';
import { writeAppendRecord, writeSequencedHead } from '../src/record-writer.ts';
import type { AppendInput, Stream } from '../src/store.ts';

/*
 * The store in process, on a real disk, every acknowledgement durable: `node bench/journal.ts [repetitions]`.
 * Prints JSON: medians over the repetitions, with the data directory in TMPDIR.
 *
 * In a virtual machine whose host gives out memory lazily, the first touch of every page of page cache costs a fault in
 * the host (2 ms of system time per MiB written, seen as copy_folio_from_iter_atomic): the large writes then measure
 * that, at half the speed they have once the guest's memory has been touched.
 */

const MiB = 1_048_576;
const repetitions = Number(process.argv[2] ?? 3);

function input(bodyBytes: number, records: number): AppendInput {
  const out = new ByteWriter(records * (bodyBytes + 16));
  const body = Buffer.alloc(bodyBytes, 0x61);
  for (let i = 0; i < records; i++) writeAppendRecord(out, { headers: [], body });
  const bytes = out.take();
  return { records: bytes, scan: scanAppendRecords(bytes) };
}

async function serial(stream: Stream): Promise<{ p50Ms: number; p99Ms: number }> {
  const small = input(128, 1);
  const took: number[] = [];
  for (let i = 0; i < 3000; i++) {
    const start = performance.now();
    await stream.append(small);
    took.push(performance.now() - start);
  }
  took.sort((a, b) => a - b);
  return { p50Ms: took[took.length >> 1]!, p99Ms: took[Math.floor(took.length * 0.99)]! };
}

/** Each writer waits for its acknowledgement before its next append, and scans as the HTTP surface does. */
async function concurrent(streams: readonly Stream[], appendsEach: number): Promise<number> {
  const { records } = input(256, 1);
  const start = performance.now();
  await Promise.all(
    streams.map(async (stream) => {
      for (let i = 0; i < appendsEach; i++) {
        await stream.admit(records.length);
        await stream.append({ records, scan: scanAppendRecords(records) });
      }
    }),
  );
  return (streams.length * appendsEach * 1000) / (performance.now() - start);
}

/** A session of batches with `window` of them unacknowledged. */
async function session(stream: Stream, batch: AppendInput, batches: number, window: number): Promise<number> {
  const start = performance.now();
  const acks: Promise<unknown>[] = [];
  for (let i = 0; i < batches; i++) {
    if (acks.length === window) await acks.shift();
    acks.push(stream.append({ records: batch.records, scan: scanAppendRecords(batch.records) }));
  }
  await Promise.all(acks);
  return (batches * batch.scan.meteredBytes * 1000) / MiB / (performance.now() - start);
}

async function sequenced(stream: Stream, batches: number, window: number): Promise<number> {
  const bodyBytes = 512 * 1024;
  const start = performance.now();
  const acks: Promise<unknown>[] = [];
  for (let i = 0; i < batches; i++) {
    if (acks.length === window) await acks.shift();
    const out = new ByteWriter(bodyBytes + 256);
    const timestamp = BigInt(i + 1);
    const meteredBytes = writeSequencedHead(out, stream.assignedSeqNum, timestamp, [], bodyBytes);
    out.length += bodyBytes;
    const firstSeqNum = stream.assignedSeqNum;
    acks.push(stream.appendSequenced({ records: out.view(), firstSeqNum, timestamp, count: 1, meteredBytes }));
  }
  await Promise.all(acks);
  return (batches * bodyBytes * 1000) / MiB / (performance.now() - start);
}

async function catchUp(stream: Stream): Promise<number> {
  const start = performance.now();
  let bytes = 0;
  for (let at = 0; at < stream.tail.seqNum; ) {
    const slice = await stream.read(at, { countMax: 1000, meteredBytesMax: MiB });
    bytes += slice!.meteredBytes;
    at = slice!.firstSeqNum + slice!.count;
    slice!.release?.();
  }
  return (bytes * 1000) / MiB / (performance.now() - start);
}

async function open(store: LocalStore, name: string): Promise<Stream> {
  return await store.openStream('bench-basin', name, 'append');
}

async function once(): Promise<Record<string, number>> {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-bench-'));
  const store = await openLocalStore({ dir });
  try {
    await store.createBasin('bench-basin', { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
    const { p50Ms, p99Ms } = await serial(await open(store, 'serial'));
    const names = Array.from({ length: 1000 }, (_, i) => `writer/${i}`);
    const created = performance.now();
    const writers = await Promise.all(names.map((name) => open(store, name)));
    const createsPerSec = 1_000_000 / (performance.now() - created);
    const appendsPerSec = await concurrent(writers, 200);
    const appendsPerSecOneStream = await concurrent(
      writers.map(() => writers[0]!),
      200,
    );
    const large = await open(store, 'large');
    const writeMiBPerSec = await session(large, input(1024 - 8, 1000), 500, 8);
    const readMiBPerSec = await catchUp(large);
    const small = await open(store, 'small');
    const writeSmallMiBPerSec = await session(small, input(92, 100), 5000, 64);
    const readSmallMiBPerSec = await catchUp(small);
    const logMiBPerSec = await sequenced(await store.createLogStream('changes'), 1000, 8);
    return {
      serialAppend128BP50Ms: p50Ms,
      serialAppend128BP99Ms: p99Ms,
      concurrentAppends256BPerSec: appendsPerSec,
      concurrentAppends256BOneStreamPerSec: appendsPerSecOneStream,
      createStreamsPerSec: createsPerSec,
      sessionWrite1MiBBatchesMiBPerSec: writeMiBPerSec,
      catchUpRead1MiBBatchesMiBPerSec: readMiBPerSec,
      sessionWrite10KBBatchesMiBPerSec: writeSmallMiBPerSec,
      catchUpRead10KBBatchesMiBPerSec: readSmallMiBPerSec,
      logSequenced512KiBMiBPerSec: logMiBPerSec,
    };
  } finally {
    await store.close();
    rmSync(dir, { recursive: true });
  }
}

const runs: Record<string, number>[] = [];
for (let i = 0; i < repetitions; i++) runs.push(await once());
const medians = Object.fromEntries(
  Object.keys(runs[0]!).map((key) => {
    const values = runs.map((run) => run[key]!).sort((a, b) => a - b);
    return [key, Number(values[values.length >> 1]!.toPrecision(4))];
  }),
);
console.log(JSON.stringify({ repetitions, medians }, null, 2));
