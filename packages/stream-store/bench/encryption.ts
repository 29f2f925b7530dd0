import { createSecretKey, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ByteWriter } from '@millrace/core/byte-writer';
import { scanAppendRecords } from '../src/append-scan.ts';
import { EncryptedStream } from '../src/encryption/encrypted-stream.ts';
import { recordCipher } from '../src/encryption/record-cipher.ts';
import { RecordSealer } from '../src/encryption/sealed-records.ts';
import { type LocalStore, openLocalStore } from '../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';
import { writeAppendRecord, writeSequencedRecord } from '../src/record-writer.ts';
import type { AppendInput, Stream } from '../src/store.ts';

/*
 * What encryption with a client's key costs: `node bench/encryption.ts [repetitions]`. Sealing and opening alone, then
 * durable appends and catch-up reads of a stream with a cipher beside one without, in turns. Prints JSON: medians.
 */

const MiB = 1_048_576;
const repetitions = Number(process.argv[2] ?? 5);
const cipher = recordCipher('aes-256-gcm');
const key = createSecretKey(randomBytes(32));
const SHAPES = [
  { bodyBytes: 100, records: 1000 },
  { bodyBytes: 1000, records: 1000 },
  { bodyBytes: 8192, records: 127 },
  { bodyBytes: 1_000_000, records: 1 },
];

function input(bodyBytes: number, records: number): AppendInput {
  const out = new ByteWriter(records * (bodyBytes + 16));
  const body = Buffer.alloc(bodyBytes, 0x61);
  for (let i = 0; i < records; i++) writeAppendRecord(out, { headers: [], body });
  const bytes = out.take();
  return { records: bytes, scan: scanAppendRecords(bytes) };
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1]!;
}

function timed(times: number, run: () => void): number {
  run();
  const took: number[] = [];
  for (let i = 0; i < times; i++) {
    const start = performance.now();
    run();
    took.push(performance.now() - start);
  }
  return median(took);
}

function alone({ bodyBytes, records }: (typeof SHAPES)[number]) {
  const batch = input(bodyBytes, records);
  const sealer = new RecordSealer(cipher, key, 1);
  const sealMs = timed(50, () => sealer.seal(batch.records, records, 0));
  const stored = new ByteWriter(batch.records.length * 2);
  const sealed = sealer.seal(batch.records, records, 0);
  // As the store sequences it: field by field the same bytes.
  let at = 0;
  for (let seqNum = 0; seqNum < records; seqNum++) {
    let length = 0;
    let shift = 0;
    let byte = 0x80;
    for (at++; byte >= 0x80; shift += 7) length |= ((byte = sealed[at++]!) & 0x7f) << shift;
    let bodyAt = at + 1;
    while (sealed[bodyAt]! >= 0x80) bodyAt++;
    writeSequencedRecord(stored, seqNum, 1n, [], sealed, bodyAt + 1, at + length);
    at += length;
  }
  const { meteredBytes } = batch.scan;
  const slice = { records: stored.view(), firstSeqNum: 0, count: records, meteredBytes, lastTimestamp: 1n };
  const openMs = timed(50, () => void sealer.open(slice, { meteredBytesMax: 2 * MiB }));
  const rate = (ms: number) => ({
    usPerRecord: (ms * 1000) / records,
    mibPerSec: (bodyBytes * records) / MiB / (ms / 1000),
  });
  return { seal: rate(sealMs), open: rate(openMs) };
}

/** A session of `batches` with 8 unacknowledged, then everything read; MiB/s of bodies. */
async function through(stream: Stream, batch: AppendInput, batches: number): Promise<[write: number, read: number]> {
  const bytes = batch.scan.meteredBytes * batches;
  let start = performance.now();
  const acks: Promise<unknown>[] = [];
  for (let i = 0; i < batches; i++) {
    await stream.admit(batch.records.length);
    acks.push(stream.append(batch));
    if (i >= 8) await acks[i - 8];
  }
  await Promise.all(acks);
  const write = bytes / MiB / ((performance.now() - start) / 1000);
  start = performance.now();
  for (let at = 0; ; ) {
    const slice = await stream.read(at, { countMax: 1000, meteredBytesMax: MiB });
    if (slice === null) break;
    at = slice.firstSeqNum + slice.count;
    slice.release?.();
  }
  return [write, bytes / MiB / ((performance.now() - start) / 1000)];
}

async function stored(store: LocalStore, { bodyBytes, records }: (typeof SHAPES)[number]) {
  const batch = input(bodyBytes, records);
  const batches = Math.ceil((64 * MiB) / batch.scan.meteredBytes);
  const found = {
    open: { write: [] as number[], read: [] as number[] },
    sealed: { write: [] as number[], read: [] as number[] },
  };
  for (let i = 0; i < repetitions; i++) {
    for (const kind of ['open', 'sealed'] as const) {
      const stream = await store.openStream(`${kind}-basin`, `${bodyBytes}/${i}`, 'append');
      const [write, read] = await through(
        kind === 'open' ? stream : new EncryptedStream(stream, cipher, key),
        batch,
        batches,
      );
      found[kind].write.push(write);
      found[kind].read.push(read);
    }
  }
  const mibPerSec = (kind: 'open' | 'sealed') => ({ write: median(found[kind].write), read: median(found[kind].read) });
  return { open: mibPerSec('open'), sealed: mibPerSec('sealed') };
}

const dir = mkdtempSync(join(tmpdir(), 'millrace-bench-'));
try {
  const store = await openLocalStore({ dir });
  const config = { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true };
  await store.createBasin('open-basin', config);
  await store.createBasin('sealed-basin', { ...config, streamCipher: 'aes-256-gcm' });
  const results: unknown[] = [];
  for (const shape of SHAPES)
    results.push({ ...shape, alone: alone(shape), storedMibPerSec: await stored(store, shape) });
  await store.close();
  console.log(
    JSON.stringify(results, (_key, value) => (typeof value === 'number' ? Math.round(value * 10) / 10 : value), 2),
  );
} finally {
  rmSync(dir, { recursive: true, force: true });
}
