import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ByteWriter } from '@millrace/core/byte-writer';
import { onTestFinished } from 'vitest';
import { scanAppendRecords } from '../src/append-scan.ts';
import { RecordCursor } from '../src/record-cursor.ts';
import { writeAppendRecord } from '../src/record-writer.ts';
import { S2Error } from '../src/s2-error.ts';
import type { AppendInput, ReadLimits, Stream } from '../src/store.ts';

/** What the tests of the store share: records in and out of their protobuf form, a clock to hold, a directory. */

export function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-store-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export class HeldClock {
  nowMs: number;

  constructor(nowMs = 1_700_000_000_000) {
    this.nowMs = nowMs;
  }

  now(): number {
    return this.nowMs;
  }
}

export interface Given {
  readonly body?: string | undefined;
  readonly timestamp?: bigint | undefined;
  readonly command?: 'fence' | 'trim' | undefined;
  readonly trimTo?: bigint | undefined;
}

export function input(
  records: readonly (string | Given)[],
  options: { matchSeqNum?: number | undefined; fencingToken?: string | undefined } = {},
): AppendInput {
  const out = new ByteWriter(256);
  for (const given of records) {
    const { body = '', timestamp, command, trimTo } = typeof given === 'string' ? { body: given } : (given as Given);
    let bytes = Buffer.from(body, 'utf8');
    if (trimTo !== undefined) {
      bytes = Buffer.alloc(8);
      bytes.writeBigUInt64BE(trimTo);
    }
    const headers = command === undefined ? [] : [{ name: Buffer.alloc(0), value: Buffer.from(command) }];
    writeAppendRecord(out, { timestamp, headers, body: bytes });
  }
  const bytes = out.take();
  return { records: bytes, scan: scanAppendRecords(bytes), ...options };
}

export interface Got {
  readonly seqNum: number;
  readonly timestamp: bigint;
  readonly body: string;
}

export const EVERYTHING: ReadLimits = { countMax: 1000, meteredBytesMax: 1_048_576 };

export function recordsOf(bytes: Uint8Array): Got[] {
  const cursor = new RecordCursor(bytes);
  const found: Got[] = [];
  while (cursor.next()) {
    const body = Buffer.from(bytes.subarray(cursor.bodyStart, cursor.bodyEnd)).toString('latin1');
    found.push({ seqNum: cursor.seqNum, timestamp: cursor.timestamp, body });
  }
  return found;
}

/** All from `seqNum` on, in as many reads as it takes. */
export async function readAll(stream: Stream, seqNum = 0, limits: ReadLimits = EVERYTHING): Promise<Got[]> {
  const found: Got[] = [];
  for (let at = seqNum; ; ) {
    const slice = await stream.read(at, limits);
    if (slice === null) return found;
    const records = recordsOf(slice.records);
    found.push(...records);
    at = slice.firstSeqNum + slice.count;
  }
}

export async function bodies(stream: Stream, seqNum = 0): Promise<string[]> {
  return (await readAll(stream, seqNum)).map((record) => record.body);
}

export async function codeOf(promise: Promise<unknown>): Promise<string> {
  return await promise.then(
    () => 'none',
    (error: unknown) => {
      if (error instanceof S2Error) return error.code;
      throw error;
    },
  );
}

/** Small, seedable, good enough to choose test steps with. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}
