import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ByteWriter } from '@millrace/core/byte-writer';
import { scanAppendRecords } from '../src/append-scan.ts';
import { type LocalStore, openLocalStore } from '../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';
import { writeAppendRecord } from '../src/record-writer.ts';
import type { AppendInput, Stream } from '../src/store.ts';

/*
 * What appends feel of a compaction in the background: `node bench/beside-compaction.ts [seconds]`. Segments enough for a
 * compaction are filled with 1000 interleaved streams; then the same appends without compaction and while it runs, at
 * the pace at which it runs beside appends. Prints JSON.
 */

const MiB = 1_048_576;
const BASIN = 'bench-basin';
const STREAMS = 1000;
/** Eight sealed segments and some more. */
const FILL_MIB = 600;
const WRITERS = 256;
const STARTS_WITHIN_MS = 60_000;
const seconds = Number(process.argv[2] ?? 6);

function input(bodyBytes: number): AppendInput {
  const out = new ByteWriter(bodyBytes + 64);
  writeAppendRecord(out, { headers: [], body: Buffer.alloc(bodyBytes, 0x61) });
  const bytes = out.take();
  return { records: bytes, scan: scanAppendRecords(bytes) };
}

function open(dir: string, compaction: 'background' | 'manual'): Promise<LocalStore> {
  return openLocalStore({ dir, compaction, rootToken: 'root' });
}

function openAll(store: LocalStore, prefix: string, count: number): Promise<Stream[]> {
  const names = Array.from({ length: count }, (_, i) => `${prefix}/${i}`);
  return Promise.all(names.map((name) => store.openStream(BASIN, name, 'append')));
}

async function fill(streams: readonly Stream[]): Promise<void> {
  const batch = input(4096);
  const rounds = Math.ceil((FILL_MIB * MiB) / 4096 / streams.length);
  for (let round = 0; round < rounds; round++) await Promise.all(streams.map((stream) => stream.append(batch)));
}

interface Measured {
  readonly serial: { readonly p50Ms: number; readonly p99Ms: number };
  readonly appendsPerSec: number;
}

async function measure(store: LocalStore): Promise<Measured> {
  const [alone, ...many] = await openAll(store, 'writer', WRITERS + 1);
  const took: number[] = [];
  const small = input(128);
  for (const until = performance.now() + seconds * 1000; performance.now() < until; ) {
    const began = performance.now();
    await alone!.append(small);
    took.push(performance.now() - began);
  }
  took.sort((a, b) => a - b);
  const batch = input(256);
  let appends = 0;
  const began = performance.now();
  const until = began + seconds * 1000;
  await Promise.all(
    many.map(async (stream) => {
      for (; performance.now() < until; appends++) await stream.append(batch);
    }),
  );
  const at = (share: number) => round(took[Math.floor(took.length * share)]!);
  return {
    serial: { p50Ms: at(0.5), p99Ms: at(0.99) },
    appendsPerSec: Math.round((appends * 1000) / (performance.now() - began)),
  };
}

function round(value: number): number {
  return Number(value.toPrecision(3));
}

const dir = mkdtempSync(join(tmpdir(), 'millrace-bench-'));
try {
  let store = await open(dir, 'manual');
  await store.createBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  await fill(await openAll(store, 'stream', STREAMS));
  const off = await measure(store);
  await store.close();

  store = await open(dir, 'background');
  const startsUntil = performance.now() + STARTS_WITHIN_MS;
  while (store.status().compaction.progress === null) {
    if (performance.now() > startsUntil) throw new Error('no compaction began');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const before = store.status().compaction;
  const on = await measure(store);
  const after = store.status().compaction;
  const compactedMiB = (after.bytesWritten - before.bytesWritten) / MiB;
  await store.close();
  const ended = after.runs > before.runs;
  console.log(JSON.stringify({ off, on, compactedMiB: round(compactedMiB), endedBefore: ended }, null, 2));
} finally {
  rmSync(dir, { recursive: true });
}
