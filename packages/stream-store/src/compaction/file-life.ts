import type { BatchRun } from '../index/batch-table.ts';
import type { SealedIndex } from '../index/sealed-index.ts';
import { ENTRY_HEADER_BYTES } from '../journal/segment-format.ts';
import type { StreamLives } from './stream-lives.ts';
import type { CompactionThrottle } from './throttle.ts';

/** How much of a sealed file is alive: records neither trimmed nor outlived, of streams that are there. */
export interface FileLife {
  readonly file: number;
  readonly bytes: number;
  readonly liveBytes: number;
  /** When half of the file will be dead by age alone, by the configurations of now; Infinity: never. */
  readonly halfDeadAtMs: number;
}

/** Batches looked at between two turns of the event loop. */
const BATCHES_PER_TURN = 50_000;

export async function surveyFile(
  index: SealedIndex,
  lives: StreamLives,
  nowMs: number,
  throttle: CompactionThrottle,
): Promise<FileLife> {
  const { streamIds } = index;
  const expiries: { readonly atMs: number; readonly bytes: number }[] = [];
  let liveBytes = 0;
  let looked = 0;
  for (let i = 0; i < streamIds.length; i++) {
    const id = streamIds[i]!;
    const run = index.runAt(i);
    const retentionSecs = lives.retentionSecs(id);
    const from = Math.max(firstKept(run, lives.deadBefore(id)), firstUnexpired(run, retentionSecs, nowMs));
    const { payloadBytes, arrivalMs } = run.table;
    let bytes = 0;
    for (let at = from; at < run.length; at++) bytes += ENTRY_HEADER_BYTES + payloadBytes[run.row(at)]!;
    liveBytes += bytes;
    if (retentionSecs !== null && bytes > 0) {
      expiries.push({ atMs: arrivalMs[run.row(run.length - 1)]! + retentionSecs * 1000, bytes });
    }
    looked += run.length - from + 1;
    if (looked < BATCHES_PER_TURN) continue;
    looked = 0;
    await throttle.turn();
  }
  return {
    file: index.segment,
    bytes: index.fileBytes,
    liveBytes,
    halfDeadAtMs: halfDeadAt(expiries, liveBytes - index.fileBytes / 2),
  };
}

/** Place in the run of the first batch with a record at or after `seqNum`; its length when there is none. */
export function firstKept(run: BatchRun, seqNum: number): number {
  const { firstSeq, count } = run.table;
  if (run.length === 0 || seqNum <= firstSeq[run.row(0)]!) return 0;
  const at = run.find(seqNum);
  const row = run.row(at);
  return firstSeq[row]! + count[row]! > seqNum ? at : at + 1;
}

/** Place in the run of the first batch that is within the retention; its length when there is none. */
export function firstUnexpired(run: BatchRun, retentionSecs: number | null, nowMs: number): number {
  return retentionSecs === null ? 0 : run.firstArrivedAfter(nowMs - retentionSecs * 1000);
}

/** When `bytes` of what expires are gone. A stream counts as one, with its last record: late rather than early. */
function halfDeadAt(expiries: { readonly atMs: number; readonly bytes: number }[], bytes: number): number {
  let left = bytes;
  if (left <= 0) return 0;
  expiries.sort((a, b) => a.atMs - b.atMs);
  for (const expiry of expiries) {
    left -= expiry.bytes;
    if (left <= 0) return expiry.atMs;
  }
  return Number.POSITIVE_INFINITY;
}
