/**
 * What protocol version 2 of pgoutput adds: fragments of transactions that are still in progress. A fragment is a run
 * of messages between STREAM_START and STREAM_STOP; each message in it carries the id of its (sub)transaction behind its
 * type byte. What becomes of them is said later by STREAM_COMMIT and STREAM_ABORT.
 * Source: "Logical Replication Message Formats" in the Postgres manual.
 */
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { BEGIN, COMMIT } from './pgoutput.ts';

export const STREAM_START = 0x53;
export const STREAM_STOP = 0x45;
export const STREAM_COMMIT = 0x63;
export const STREAM_ABORT = 0x41;

/** The id between the type byte and the rest of a message in a fragment. */
export const STREAMED_XID_BYTES = 4;

const BEGIN_BYTES = 21;
const COMMIT_BYTES = 26;

export interface StreamStart {
  /** Of the top-level transaction. */
  readonly xid: number;
  /** The first fragment of this transaction. */
  readonly first: boolean;
}

export interface StreamCommit {
  readonly xid: number;
  readonly commitLsn: Lsn;
  readonly endLsn: Lsn;
  /** Since 2000-01-01, as on the wire. */
  readonly commitTime: bigint;
}

export interface StreamAbort {
  readonly xid: number;
  /** What was rolled back; equal to `xid` when it is all of it. */
  readonly subxid: number;
}

export function decodeStreamStart(buffer: Buffer, start: number, end: number): StreamStart {
  if (buffer[start] !== STREAM_START || end - start !== 6) throw malformed();
  return { xid: nonzero(buffer.readUInt32BE(start + 1)), first: buffer[start + 5] === 1 };
}

export function decodeStreamCommit(buffer: Buffer, start: number, end: number): StreamCommit {
  if (buffer[start] !== STREAM_COMMIT || end - start !== 30) throw malformed();
  return {
    xid: nonzero(buffer.readUInt32BE(start + 1)),
    commitLsn: buffer.readBigUInt64BE(start + 6),
    endLsn: buffer.readBigUInt64BE(start + 14),
    commitTime: buffer.readBigInt64BE(start + 22),
  };
}

export function decodeStreamAbort(buffer: Buffer, start: number, end: number): StreamAbort {
  if (buffer[start] !== STREAM_ABORT || end - start !== 9) throw malformed();
  return { xid: nonzero(buffer.readUInt32BE(start + 1)), subxid: nonzero(buffer.readUInt32BE(start + 5)) };
}

/** A BEGIN as version 1 sends it. `commitTime` is in microseconds since 2000-01-01. */
export function encodeBegin(finalLsn: Lsn, commitTime: bigint, xid: number): Buffer {
  const bytes = Buffer.alloc(BEGIN_BYTES);
  bytes[0] = BEGIN;
  bytes.writeBigUInt64BE(finalLsn, 1);
  bytes.writeBigInt64BE(commitTime, 9);
  bytes.writeUInt32BE(xid, 17);
  return bytes;
}

/** A COMMIT as version 1 sends it. */
export function encodeCommit(commitLsn: Lsn, endLsn: Lsn, commitTime: bigint): Buffer {
  const bytes = Buffer.alloc(COMMIT_BYTES);
  bytes[0] = COMMIT;
  bytes.writeBigUInt64BE(commitLsn, 2);
  bytes.writeBigUInt64BE(endLsn, 10);
  bytes.writeBigInt64BE(commitTime, 18);
  return bytes;
}

function nonzero(xid: number): number {
  if (xid === 0) throw malformed();
  return xid;
}

function malformed(): MillraceError {
  return new MillraceError('pg_protocol', { detail: 'A message about a transaction in progress cannot be read.' });
}
