/**
 * Where in the log somebody begins to read who says so in words: at its beginning, after an LSN, at a time. Reads a few
 * records, never all of them.
 */
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { ORDINAL_END, type Position } from '@millrace/core/position';
import { BEGIN } from '@millrace/postgres/pgoutput';
import { RecordCursor } from '@millrace/stream-store/record-cursor';
import { type ChangeLog, overrun } from './change-log.ts';
import { FLAG_REST, FLAG_STARTS_OPEN, messageSize, readChunkHeader } from './chunk.ts';
import { commitTimeMs } from './commit-time.ts';

export type LogPlace =
  | 'now'
  | 'beginning'
  /** The first transaction that committed at or after this LSN. */
  | { readonly lsn: Lsn }
  /** The first transaction that the source's clock has at or after this time, in milliseconds since 1970. */
  | { readonly timeMs: number };

const ONE_RECORD = { countMax: 1, meteredBytesMax: 1 << 21 };

/** Everything after it is what the place says. log_overrun: the log has forgotten a part of that. */
export async function positionOf(log: ChangeLog, place: LogPlace): Promise<Position> {
  if (place === 'now') return after(log.durableLsn);
  const first = await firstRecord(log);
  // Of a transaction that is open where the log begins, its own beginning is forgotten.
  if (place === 'beginning') return after(first?.open?.lsn ?? first?.previousLsn ?? 0n);
  if ('timeMs' in place) return after(await lastBefore(log, first, place.timeMs));
  if (first !== null && first.open !== null && place.lsn <= first.open.lsn) throw overrun();
  const lsn = place.lsn === 0n ? 0n : place.lsn - 1n;
  // Refuses what is gone.
  await log.seek(lsn);
  return after(lsn);
}

function after(lsn: Lsn): Position {
  return { lsn, ordinal: lsn === 0n ? -1 : ORDINAL_END };
}

interface LogRecord {
  readonly previousLsn: Lsn;
  /** The transaction that began in a record before, as it will commit; null: it begins between two. */
  readonly open: Commit | null;
  /** Transactions that begin in it, as they will commit. */
  readonly commits: readonly Commit[];
}

interface Commit {
  readonly lsn: Lsn;
  readonly timeMs: number;
}

async function firstRecord(log: ChangeLog): Promise<LogRecord | null> {
  const seq = log.stream.firstSeqNum;
  if (seq >= log.durableSeq) return null;
  const record = await readRecord(log, seq);
  // One that was voided is in the log again, whole.
  return record.open !== null && log.voided(seq, record.open.lsn) ? { ...record, open: null } : record;
}

/** LSN of the last transaction before the first one at or after this time. */
async function lastBefore(log: ChangeLog, first: LogRecord | null, timeMs: number): Promise<Lsn> {
  if (first === null) return log.durableLsn;
  if (first.open !== null && first.open.timeMs >= timeMs) throw overrun();
  // The first record in which, or after which, a transaction of that time begins.
  let low = log.stream.firstSeqNum;
  let high = log.durableSeq;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const found = await nextCommits(log, middle, high);
    if (found === null || found.record.commits.at(-1)!.timeMs >= timeMs) high = middle;
    else low = found.seq + 1;
  }
  const found = await nextCommits(log, low, log.durableSeq);
  if (found === null) return log.durableLsn;
  const { record } = found;
  const at = record.commits.findIndex((commit) => commit.timeMs >= timeMs);
  if (at > 0) return record.commits[at - 1]!.lsn;
  // Nothing of the log is older: what came between may be what was forgotten.
  if (record.previousLsn === first.previousLsn && first.previousLsn !== 0n) throw overrun();
  // What is before it in the log was before that time.
  return record.commits[0]!.lsn - 1n;
}

/** The first record in [from, to) in which a transaction begins: a large one goes on over many. */
async function nextCommits(
  log: ChangeLog,
  from: number,
  to: number,
): Promise<{ readonly seq: number; readonly record: LogRecord } | null> {
  for (let seq = from; seq < to; seq++) {
    const record = await readRecord(log, seq);
    if (record.commits.length > 0) return { seq, record };
  }
  return null;
}

async function readRecord(log: ChangeLog, seq: number): Promise<LogRecord> {
  const slice = await log.stream.read(seq, ONE_RECORD);
  if (slice === null || slice.firstSeqNum !== seq) {
    throw new MillraceError('storage_corrupt', { detail: `Record ${seq} of the change log is missing.` });
  }
  const cursor = new RecordCursor(slice.records);
  if (!cursor.next())
    throw new MillraceError('storage_corrupt', { detail: `Record ${seq} of the change log is empty.` });
  const bytes = Buffer.from(slice.records.buffer, slice.records.byteOffset, slice.records.byteLength);
  const header = readChunkHeader(bytes, cursor.bodyStart, cursor.bodyEnd);
  const startsOpen = (header.flags & FLAG_STARTS_OPEN) !== 0;
  const commits: Commit[] = [];
  // The preamble repeats the BEGIN of a transaction that began in a record before.
  for (let at = header.bodyStart; at < cursor.bodyEnd; ) {
    const isRest = at === header.bodyStart && (header.flags & FLAG_REST) !== 0;
    const size = messageSize(bytes, at, cursor.bodyEnd);
    const message = at + 4;
    at = message + size;
    if (isRest || bytes[message] !== BEGIN || size !== 21) continue;
    commits.push(commitOf(bytes, message));
  }
  const open = startsOpen ? commitOf(bytes, header.preambleStart + 4) : null;
  return { previousLsn: header.previousLsn, open, commits };
}

/** Of a BEGIN. */
function commitOf(bytes: Buffer, message: number): Commit {
  const timeMs = commitTimeMs(bytes.readUInt32BE(message + 9), bytes.readUInt32BE(message + 13));
  return { lsn: bytes.readBigUInt64BE(message + 1), timeMs };
}
