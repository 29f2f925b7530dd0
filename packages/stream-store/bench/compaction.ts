import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ByteWriter } from '@millrace/core/byte-writer';
import { scanAppendRecords } from '../src/append-scan.ts';
import { type LocalStore, openLocalStore } from '../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';
import { writeAppendRecord } from '../src/record-writer.ts';
import type { AppendInput, Stream } from '../src/store.ts';

/*
 * What compaction does for readers and for the disk: `node bench/compaction.ts [MiB] [batch bytes]`. 1000 streams are
 * appended to in turn, so that the journal interleaves them as finely as it can; then catch-up reads of single streams
 * before and after, with the page cache dropped where the system allows it (root), and the space of trimmed and deleted
 * streams. Prints JSON. The data directory is in TMPDIR.
 */

const MiB = 1_048_576;
const BASIN = 'bench-basin';
const STREAMS = 1000;
const READ_STREAMS = 100;
const totalMiB = Number(process.argv[2] ?? 384);
const batchBytes = Number(process.argv[3] ?? 4096);

function input(bodyBytes: number): AppendInput {
  const out = new ByteWriter(bodyBytes + 64);
  writeAppendRecord(out, { headers: [], body: Buffer.alloc(bodyBytes, 0x61) });
  const bytes = out.take();
  return { records: bytes, scan: scanAppendRecords(bytes) };
}

async function fill(streams: readonly Stream[]): Promise<void> {
  const batch = input(batchBytes);
  const rounds = Math.ceil((totalMiB * MiB) / batchBytes / streams.length);
  for (let round = 0; round < rounds; round++) await Promise.all(streams.map((stream) => stream.append(batch)));
}

/** From the first record to the tail, one stream after another. */
async function catchUp(streams: readonly Stream[]): Promise<{ mibPerSec: number; p50Ms: number }> {
  const took: number[] = [];
  let bytes = 0;
  const start = performance.now();
  for (const stream of streams) {
    const began = performance.now();
    for (let at = stream.firstSeqNum; at < stream.tail.seqNum; ) {
      const slice = (await stream.read(at, { countMax: 1000, meteredBytesMax: MiB }))!;
      bytes += slice.meteredBytes;
      at = slice.firstSeqNum + slice.count;
    }
    took.push(performance.now() - began);
  }
  took.sort((a, b) => a - b);
  const mibPerSec = (bytes * 1000) / MiB / (performance.now() - start);
  return { mibPerSec: round(mibPerSec), p50Ms: round(took[took.length >> 1]!) };
}

function bytesOnDisk(dir: string): number {
  let bytes = 0;
  for (const name of readdirSync(dir)) bytes += statSync(join(dir, name)).blocks * 512;
  return bytes;
}

function dropPageCache(): boolean {
  try {
    writeFileSync('/proc/sys/vm/drop_caches', '1');
    return true;
  } catch {
    return false;
  }
}

/** Opened anew, so that nothing is in the store's own caches. */
async function measureReads(dir: string): Promise<{ mibPerSec: number; p50Ms: number; cold: boolean }> {
  const store = await open(dir);
  const streams = await openAll(store, READ_STREAMS);
  const cold = dropPageCache();
  const result = await catchUp(streams);
  await store.close();
  return { ...result, cold };
}

function open(dir: string): Promise<LocalStore> {
  return openLocalStore({ dir, compaction: 'manual', rootToken: 'root' });
}

function openAll(store: LocalStore, count: number): Promise<Stream[]> {
  const names = Array.from({ length: count }, (_, i) => `stream/${i}`);
  return Promise.all(names.map((name) => store.openStream(BASIN, name, 'append')));
}

function round(value: number): number {
  return Number(value.toPrecision(4));
}

const dir = mkdtempSync(join(tmpdir(), 'millrace-bench-'));
try {
  let store = await open(dir);
  await store.createBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  await fill(await openAll(store, STREAMS));
  await store.close();
  const before = await measureReads(dir);
  const bytesBefore = bytesOnDisk(join(dir, 'main'));

  store = await open(dir);
  const compactStart = performance.now();
  await store.compactNow();
  const compactMs = performance.now() - compactStart;
  const compacted = store.status();
  const bytesCompacted = bytesOnDisk(join(dir, 'main'));
  await store.close();
  const after = await measureReads(dir);

  store = await open(dir);
  const streams = await openAll(store, STREAMS);
  for (let i = 0; i < STREAMS; i++) {
    if (i % 2 === 0) await streams[i]!.trim(streams[i]!.tail.seqNum);
    else if (i % 5 === 0) await store.deleteStream(BASIN, streams[i]!.name);
  }
  while (store.listStreams(BASIN, {}).items.some((info) => info.deletedAt !== null)) await new Promise(setImmediate);
  await store.compactNow();
  const bytesAfterDeletion = bytesOnDisk(join(dir, 'main'));
  const again = store.status();
  await store.close();

  const journalBytes = compacted.compaction.last!.bytesBefore;
  const report = {
    streams: STREAMS,
    batchBytes,
    journalMiB: round(bytesBefore / MiB),
    catchUpBefore: before,
    catchUpAfter: after,
    compaction: {
      tookMs: Math.round(compactMs),
      readMiB: round(compacted.compaction.bytesRead / MiB),
      writtenMiB: round(compacted.compaction.bytesWritten / MiB),
      packs: compacted.packs.count,
      lastInputMiB: round(journalBytes / MiB),
    },
    bytesOnDiskMiB: {
      before: round(bytesBefore / MiB),
      compacted: round(bytesCompacted / MiB),
      afterDroppingSixTenths: round(bytesAfterDeletion / MiB),
    },
    writeAmplification: round((bytesBefore + compacted.compaction.bytesWritten) / bytesBefore),
    writeAmplificationWithDeletion: round(
      (bytesBefore + compacted.compaction.bytesWritten + again.compaction.bytesWritten) / bytesBefore,
    ),
  };
  console.log(JSON.stringify(report, null, 2));
} finally {
  rmSync(dir, { recursive: true });
}
