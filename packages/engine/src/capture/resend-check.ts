/**
 * Whether a server still has the history that was captured. System identifier and timeline do not tell when a copy of
 * the disk was restored and written to: its WAL has the same positions, and other transactions at them. But a slot that
 * stands before the last transaction of the log sends that transaction again, with the same id and commit time, in the
 * history it was captured from, and in no other. So it is asked to, before anything is taken from it.
 */
import type { Lsn } from '@millrace/core/lsn';
import type { PgConnection } from '@millrace/postgres/connection';
import { BEGIN, MESSAGE } from '@millrace/postgres/pgoutput';
import { startReplication } from '@millrace/postgres/replication';
import type { ChangeLog } from '../change-log/change-log.ts';
import { FLAG_REST, messageSize, readChunkHeader } from '../change-log/chunk.ts';
import { type LogChunk, LogReader } from '../change-log/log-reader.ts';

/** Stream Commit of protocol version 2: a large transaction that was sent while it ran. */
const STREAM_COMMIT = 0x63;
const BEGIN_BYTES = 21;
const STREAM_COMMIT_BYTES = 30;
/** How far back the last whole transaction may lie behind the beginning of one that never ended. */
const RECORDS_BACK_MAX = 64;

/** How often a server that is still on its way there is asked how far it is. */
const ASK_AGAIN_MS = 50;

/** A transaction as its BEGIN names it; the time as Postgres counts, in microseconds. */
export interface CapturedTransaction {
  readonly lsn: Lsn;
  readonly endLsn: Lsn;
  readonly time: bigint;
  readonly xid: number;
}

/** The last whole transaction of the log; null when there is none, or none near the end. */
export async function lastTransaction(log: ChangeLog): Promise<CapturedTransaction | null> {
  if (log.committedLsn === 0n) return null;
  const oldest = Math.max(log.stream.firstSeqNum, log.durableSeq - RECORDS_BACK_MAX);
  for (let seq = log.durableSeq - 1; seq >= oldest; seq--) {
    const chunk = await new LogReader(log, seq).next();
    const found = chunk === null ? null : findBegin(chunk, log.committedLsn, log.endLsn);
    if (found !== null) return found;
  }
  return null;
}

/** The record with the COMMIT has the BEGIN too: in its body, or in its preamble. */
function findBegin({ bytes, start, end }: LogChunk, lsn: Lsn, endLsn: Lsn): CapturedTransaction | null {
  const header = readChunkHeader(bytes, start, end);
  let found: CapturedTransaction | null = null;
  const scan = (from: number, to: number, skip: boolean) => {
    for (let at = from, first = true; at < to; first = false) {
      const size = messageSize(bytes, at, to);
      const message = at + 4;
      at = message + size;
      // The rest of a message that began in the record before may look like anything.
      if ((skip && first) || size !== BEGIN_BYTES || bytes[message] !== BEGIN) continue;
      if (bytes.readBigUInt64BE(message + 1) !== lsn) continue;
      found = { lsn, endLsn, time: bytes.readBigInt64BE(message + 9), xid: bytes.readUInt32BE(message + 17) };
    }
  };
  scan(header.preambleStart, header.preambleEnd, false);
  scan(header.bodyStart, end, (header.flags & FLAG_REST) !== 0);
  return found;
}

/**
 * Has the slot send from `wanted` on, and looks at the first transaction that comes. `connection` is used up.
 * The slot must stand at or before it. Nothing is confirmed.
 */
export async function sendsAgain(
  connection: PgConnection,
  slot: string,
  publication: string,
  wanted: CapturedTransaction,
  signal: AbortSignal,
): Promise<boolean> {
  const answer = Promise.withResolvers<boolean>();
  answer.promise.catch(() => {});
  let again: NodeJS.Timeout | undefined;
  const judge = (lsn: Lsn, time: bigint, xid: number) => {
    if (lsn >= wanted.lsn) answer.resolve(lsn === wanted.lsn && time === wanted.time && xid === wanted.xid);
  };
  const stream = await startReplication(
    connection,
    // A message without a transaction begins before the position the log gave it: nothing may be skipped on the way there.
    { slot, publications: [publication], startLsn: wanted.xid === 0 ? 0n : wanted.lsn },
    {
      message(buffer, start, end) {
        if (buffer[start] === BEGIN && end - start === BEGIN_BYTES) {
          judge(buffer.readBigUInt64BE(start + 1), buffer.readBigInt64BE(start + 9), buffer.readUInt32BE(start + 17));
        } else if (buffer[start] === STREAM_COMMIT && end - start === STREAM_COMMIT_BYTES) {
          judge(buffer.readBigUInt64BE(start + 6), buffer.readBigInt64BE(start + 22), buffer.readUInt32BE(start + 1));
        } else if (
          wanted.xid === 0 &&
          buffer[start] === MESSAGE &&
          end - start >= 11 &&
          (buffer[start + 1]! & 1) === 0
        ) {
          // The log gave a message without a transaction one of its own, without an id and with our time.
          const endLsn = buffer.readBigUInt64BE(start + 2);
          if (endLsn >= wanted.endLsn) answer.resolve(endLsn === wanted.endLsn);
        }
      },
      keepalive(walEnd) {
        // It has come to the end of the transaction without sending it.
        if (walEnd >= wanted.endLsn) answer.resolve(false);
        else again = setTimeout(() => stream.requestKeepalive(), ASK_AGAIN_MS);
      },
      burst() {},
      closed: (error) => answer.reject(error ?? signal.reason),
    },
  );
  const onAbort = () => void stream.stop();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    if (signal.aborted) onAbort();
    stream.requestKeepalive();
    return await answer.promise;
  } finally {
    signal.removeEventListener('abort', onAbort);
    clearTimeout(again);
    await stream.stop();
  }
}
