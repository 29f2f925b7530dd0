import { assert } from '@millrace/core/assert';
import type { StreamExtra } from '../stream-state.ts';

/*
 * The rare fields of a stream as bytes: in the arena, and in checkpoints (there without `expiredTo`, which the journal
 * does not know).
 *
 *   flags u8 · [request key: length u8, UTF-8] · [fencing token: length u8, UTF-8] · [deleted at f64] · [expired to f64]
 *   · segments: triples of segment u32, first seq f64, last arrival ms u48
 */
const REQUEST_KEY = 1;
const FENCING_TOKEN = 2;
const DELETED_AT = 4;
const EXPIRED_TO = 8;

export const TRIPLE_BYTES = 18;
const NO_SEGMENTS: readonly number[] = Object.freeze([]) as readonly number[];

/** 0: nothing to keep. */
export function extraSize(extra: StreamExtra): number {
  const { requestKey, fencingToken, deletedAt, expiredTo, segments } = extra;
  let size = 0;
  if (requestKey !== null) size += 1 + Buffer.byteLength(requestKey);
  if (fencingToken !== '') size += 1 + Buffer.byteLength(fencingToken);
  if (deletedAt !== null) size += 8;
  if (expiredTo > 0) size += 8;
  assert(segments.length % 3 === 0, 'a segment list consists of triples');
  size += (segments.length / 3) * TRIPLE_BYTES;
  return size === 0 ? 0 : size + 1;
}

export function writeExtra(out: Buffer, start: number, extra: StreamExtra): void {
  const { requestKey, fencingToken, deletedAt, expiredTo, segments } = extra;
  let flags = 0;
  let at = start + 1;
  if (requestKey !== null) {
    flags |= REQUEST_KEY;
    at = writeText(out, at, requestKey);
  }
  if (fencingToken !== '') {
    flags |= FENCING_TOKEN;
    at = writeText(out, at, fencingToken);
  }
  if (deletedAt !== null) {
    flags |= DELETED_AT;
    at = out.writeDoubleLE(deletedAt, at);
  }
  if (expiredTo > 0) {
    flags |= EXPIRED_TO;
    at = out.writeDoubleLE(expiredTo, at);
  }
  out[start] = flags;
  for (let i = 0; i < segments.length; i += 3) {
    at = writeTriple(out, at, segments[i]!, segments[i + 1]!, segments[i + 2]!);
  }
}

export function writeTriple(out: Buffer, at: number, segment: number, firstSeq: number, arrivalMs: number): number {
  out.writeUInt32LE(segment, at);
  out.writeDoubleLE(firstSeq, at + 4);
  out.writeUIntLE(arrivalMs, at + 12, 6);
  return at + TRIPLE_BYTES;
}

export const NO_EXTRA: StreamExtra = {
  requestKey: null,
  fencingToken: '',
  deletedAt: null,
  expiredTo: 0,
  segments: NO_SEGMENTS,
};

/** Of bytes[start, end). */
export function readExtra(bytes: Buffer, start: number, end: number): StreamExtra {
  const flags = bytes[start]!;
  let at = start + 1;
  let requestKey: string | null = null;
  let fencingToken = '';
  let deletedAt: number | null = null;
  let expiredTo = 0;
  if ((flags & REQUEST_KEY) !== 0) {
    requestKey = bytes.toString('utf8', at + 1, at + 1 + bytes[at]!);
    at += 1 + bytes[at]!;
  }
  if ((flags & FENCING_TOKEN) !== 0) {
    fencingToken = bytes.toString('utf8', at + 1, at + 1 + bytes[at]!);
    at += 1 + bytes[at]!;
  }
  if ((flags & DELETED_AT) !== 0) {
    deletedAt = bytes.readDoubleLE(at);
    at += 8;
  }
  if ((flags & EXPIRED_TO) !== 0) {
    expiredTo = bytes.readDoubleLE(at);
    at += 8;
  }
  if (at === end) return { requestKey, fencingToken, deletedAt, expiredTo, segments: NO_SEGMENTS };
  const segments: number[] = [];
  for (; at < end; at += TRIPLE_BYTES) {
    segments.push(bytes.readUInt32LE(at), bytes.readDoubleLE(at + 4), bytes.readUIntLE(at + 12, 6));
  }
  return { requestKey, fencingToken, deletedAt, expiredTo, segments };
}

/** Only the time of deletion, for lists. */
export function readDeletedAt(bytes: Buffer, start: number): number | null {
  const flags = bytes[start]!;
  if ((flags & DELETED_AT) === 0) return null;
  let at = start + 1;
  if ((flags & REQUEST_KEY) !== 0) at += 1 + bytes[at]!;
  if ((flags & FENCING_TOKEN) !== 0) at += 1 + bytes[at]!;
  return bytes.readDoubleLE(at);
}

/** Where the triples begin. */
export function segmentsStart(bytes: Buffer, start: number): number {
  const flags = bytes[start]!;
  let at = start + 1;
  if ((flags & REQUEST_KEY) !== 0) at += 1 + bytes[at]!;
  if ((flags & FENCING_TOKEN) !== 0) at += 1 + bytes[at]!;
  if ((flags & DELETED_AT) !== 0) at += 8;
  if ((flags & EXPIRED_TO) !== 0) at += 8;
  return at;
}

function writeText(out: Buffer, at: number, text: string): number {
  const size = out.write(text, at + 1, 'utf8');
  assert(size <= 255, 'a request key and a fencing token are short');
  out[at] = size;
  return at + 1 + size;
}
