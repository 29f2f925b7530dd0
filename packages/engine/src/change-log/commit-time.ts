/** When the source committed: read from the BEGIN and COMMIT messages of a chunk. */
import type { Lsn } from '@millrace/core/lsn';
import { BEGIN, COMMIT } from '@millrace/postgres/pgoutput';
import { FLAG_REST, messageSize, readChunkHeader } from './chunk.ts';

/** Milliseconds from 1970-01-01 to 2000-01-01. */
const POSTGRES_EPOCH_MS = 946_684_800_000;

/** Microseconds since 2000, in two halves, as milliseconds since 1970. Exact enough for a lag. */
export function commitTimeMs(hi: number, lo: number): number {
  return ((hi | 0) * 2 ** 32 + lo) / 1000 + POSTGRES_EPOCH_MS;
}

/** Of the first transaction in the chunk that committed after `lsn`; null without one. */
export function commitTimeAfter(bytes: Buffer, start: number, end: number, lsn: Lsn): number | null {
  const header = readChunkHeader(bytes, start, end);
  let at = header.preambleStart;
  while (at < end) {
    // What continues a message of the record before is not one.
    const isRest = at === header.bodyStart && (header.flags & FLAG_REST) !== 0;
    const size = messageSize(bytes, at, end);
    const message = at + 4;
    at = message + size;
    if (isRest) continue;
    const isBegin = bytes[message] === BEGIN && size === 21;
    const isCommit = bytes[message] === COMMIT && size === 26;
    if (!isBegin && !isCommit) continue;
    if (bytes.readBigUInt64BE(message + (isBegin ? 1 : 2)) <= lsn) continue;
    const timeAt = message + (isBegin ? 9 : 18);
    return commitTimeMs(bytes.readUInt32BE(timeAt), bytes.readUInt32BE(timeAt + 4));
  }
  return null;
}
