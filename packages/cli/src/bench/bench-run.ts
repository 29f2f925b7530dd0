import type { AppendInput as Batch, S2Stream } from '@s2-dev/streamstore';
import type { BytesRecord } from '../record-format.ts';
import { LatencyHistogram } from './latency-histogram.ts';
import { ChainReader, ChainWriter } from './record-chain.ts';

/** One run against one stream: a paced writer with a reader that follows it, then a reader that starts from the front. */
export interface BenchPlan {
  /** Metered. */
  readonly recordBytes: number;
  readonly targetBytesPerSec: number;
  readonly durationMs: number;
  readonly catchupDelayMs: number;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: Progress) => void;
}

export interface Progress {
  readonly phase: 'write' | 'wait' | 'catchup';
  /** 0 to 1 */
  readonly share: number;
  readonly bytes: number;
  readonly elapsedMs: number;
}

export interface Throughput {
  readonly bytes: number;
  readonly records: number;
  readonly elapsedMs: number;
}

export interface BenchResult {
  readonly write: Throughput;
  readonly read: Throughput;
  readonly catchup: Throughput;
  /** One per batch. */
  readonly ack: LatencyHistogram;
  /** From the append to the live reader, one per record. */
  readonly endToEnd: LatencyHistogram;
  /** What was not as it was written; empty: all is well. */
  readonly mismatches: readonly string[];
}

const BATCH_RECORDS_MAX = 1000;
const BATCH_BYTES_MAX = 1_048_576;
/** A batch goes out about this often, unless records are rarer or batches would become too large. */
const BATCH_INTERVAL_MS = 10;
/** The live reader may be this much behind the end of the writing, and a catch-up read may take this long. */
const LIVE_GRACE_MS = 60_000;
const CATCHUP_MS_MAX = 300_000;
const PROGRESS_MS = 100;

export async function runBench(stream: () => S2Stream, plan: BenchPlan): Promise<BenchResult> {
  const ack = new LatencyHistogram();
  const endToEnd = new LatencyHistogram();
  const sent = new SentTimes();
  const live = new ChainReader();
  const startedAt = performance.now();
  let liveEndedAt = startedAt;

  // Ends when it has as many records as were written, which is known only when the writing is over.
  let expected = Number.POSITIVE_INFINITY;
  const liveAbort = new AbortController();
  const stopLive = (): void => liveAbort.abort();
  plan.signal.addEventListener('abort', stopLive);
  const reading = follow(stream(), liveAbort.signal, (record) => {
    live.take(record);
    liveEndedAt = performance.now();
    endToEnd.add(liveEndedAt - sent.of(record.seqNum));
    return live.broken === null && live.records < expected;
  });
  // A reader that ends before the writer has met something wrong, or failed: then there is no use in writing on.
  reading.then(stopLive, stopLive);

  const write = await writePaced(stream(), plan, { ack, sent, startedAt, stop: liveAbort.signal });
  expected = write.records;
  const grace = setTimeout(stopLive, LIVE_GRACE_MS);
  if (live.records >= expected) stopLive();
  await reading;
  clearTimeout(grace);
  plan.signal.removeEventListener('abort', stopLive);
  const read = { bytes: live.bytes, records: live.records, elapsedMs: liveEndedAt - startedAt };
  const mismatches = mismatchesOf('live read', live, write.records);

  const { tail } = await stream().checkTail();
  if (tail.seqNum !== write.records) {
    mismatches.push(`the tail is ${tail.seqNum}, but ${write.records} records were acknowledged`);
  }

  if (mismatches.length === 0) await waitFor(plan);
  const catchup = await catchUp(stream(), plan, write.records, mismatches);
  return { write, read, catchup, ack, endToEnd, mismatches };
}

interface Writing {
  readonly ack: LatencyHistogram;
  readonly sent: SentTimes;
  readonly startedAt: number;
  readonly stop: AbortSignal;
}

async function writePaced(stream: S2Stream, plan: BenchPlan, writing: Writing): Promise<Throughput> {
  const { AppendInput, AppendRecord } = await import('@s2-dev/streamstore');
  const { recordBytes, targetBytesPerSec, durationMs, signal } = plan;
  const chain = new ChainWriter(recordBytes);
  const perBatch = Math.ceil((targetBytesPerSec * BATCH_INTERVAL_MS) / 1000 / recordBytes);
  const batchRecords = Math.max(1, Math.min(perBatch, BATCH_RECORDS_MAX, Math.floor(BATCH_BYTES_MAX / recordBytes)));
  const session = await stream.appendSession();
  let records = 0;
  let acknowledged = 0;
  let failure: unknown;
  const progress = throttled(plan.onProgress);
  const elapsed = (): number => performance.now() - writing.startedAt;
  try {
    while (elapsed() < durationMs && failure === undefined && !signal.aborted && !writing.stop.aborted) {
      const dueMs = (records * recordBytes * 1000) / targetBytesPerSec;
      if (dueMs > elapsed()) await sleep(Math.min(dueMs - elapsed(), durationMs));
      const batch: Batch = AppendInput.create(
        Array.from({ length: batchRecords }, () => AppendRecord.bytes({ ...chain.next(), timestamp: Date.now() })),
      );
      const sentAt = performance.now();
      writing.sent.add(records, sentAt);
      records += batchRecords;
      const ticket = await session.submit(batch);
      ticket.ack().then(
        () => {
          acknowledged += batchRecords;
          writing.ack.add(performance.now() - sentAt);
        },
        (error: unknown) => (failure ??= error),
      );
      progress({
        phase: 'write',
        share: Math.min(1, elapsed() / durationMs),
        bytes: records * recordBytes,
        elapsedMs: elapsed(),
      });
    }
    await session.close();
  } catch (error) {
    failure ??= error;
    await session.close().catch(() => {});
  }
  const elapsedMs = elapsed();
  await stream.close();
  if (failure !== undefined) throw failure;
  return { bytes: acknowledged * recordBytes, records: acknowledged, elapsedMs };
}

async function catchUp(stream: S2Stream, plan: BenchPlan, expected: number, mismatches: string[]): Promise<Throughput> {
  const chain = new ChainReader();
  const startedAt = performance.now();
  const progress = throttled(plan.onProgress);
  const abort = AbortSignal.any([plan.signal, AbortSignal.timeout(CATCHUP_MS_MAX)]);
  if (expected > 0) {
    await follow(stream, abort, (record) => {
      chain.take(record);
      const elapsedMs = performance.now() - startedAt;
      progress({ phase: 'catchup', share: chain.records / expected, bytes: chain.bytes, elapsedMs });
      return chain.broken === null && chain.records < expected;
    });
  }
  mismatches.push(...mismatchesOf('catch-up read', chain, expected));
  return { bytes: chain.bytes, records: chain.records, elapsedMs: performance.now() - startedAt };
}

/** Reads from the first record until `take` returns false or the signal. */
async function follow(stream: S2Stream, signal: AbortSignal, take: (record: BytesRecord) => boolean): Promise<void> {
  if (signal.aborted) return;
  try {
    const records = await stream.readSession({ start: { from: { seqNum: 0 } } }, { as: 'bytes', signal });
    const reader = records.getReader();
    const stop = (): void => void reader.cancel().catch(() => {});
    signal.addEventListener('abort', stop);
    // It may have come while the session was being opened.
    if (signal.aborted) stop();
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done || !take(value)) return;
      }
    } finally {
      signal.removeEventListener('abort', stop);
      await reader.cancel().catch(() => {});
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    await stream.close();
  }
}

function mismatchesOf(what: string, chain: ChainReader, expected: number): string[] {
  if (chain.broken !== null) return [`${what}: at record ${chain.broken.seqNum}: ${chain.broken.reason}`];
  if (chain.records !== expected) return [`${what}: ${chain.records} records, but ${expected} were acknowledged`];
  return [];
}

async function waitFor({ catchupDelayMs, signal, onProgress }: BenchPlan): Promise<void> {
  const startedAt = performance.now();
  for (;;) {
    const elapsedMs = performance.now() - startedAt;
    if (elapsedMs >= catchupDelayMs || signal.aborted) return;
    onProgress({ phase: 'wait', share: elapsedMs / catchupDelayMs, bytes: 0, elapsedMs });
    await sleep(Math.min(PROGRESS_MS, catchupDelayMs - elapsedMs));
  }
}

/** When each batch was sent, kept until the reader is past it. */
class SentTimes {
  #batches: { readonly firstSeqNum: number; readonly atMs: number }[] = [];
  #next = 0;

  add(firstSeqNum: number, atMs: number): void {
    this.#batches.push({ firstSeqNum, atMs });
  }

  /** For sequence numbers that only grow. */
  of(seqNum: number): number {
    while ((this.#batches[this.#next + 1]?.firstSeqNum ?? Number.POSITIVE_INFINITY) <= seqNum) this.#next += 1;
    if (this.#next > 4096) {
      this.#batches = this.#batches.slice(this.#next);
      this.#next = 0;
    }
    return this.#batches[this.#next]?.atMs ?? performance.now();
  }
}

function throttled(report: (progress: Progress) => void): (progress: Progress) => void {
  let nextAt = 0;
  return (progress) => {
    if (performance.now() < nextAt) return;
    nextAt = performance.now() + PROGRESS_MS;
    report(progress);
  };
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
