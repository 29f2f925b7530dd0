/**
 * The record of the change log: a run of raw pgoutput messages behind a small header. HOT PATH (ChunkWriter.message).
 *
 * ```
 * u8  version (2; 1 is read, too)
 * u8  flags
 * u16 reserved (0)
 * u32 changes: insert, update, delete, truncate and logical messages in the body
 * u64 committedLsn: commit LSN of the last transaction that is complete at the end of this chunk, counted from the log's start
 * u64 endLsn: WAL position after that transaction; what may be acknowledged once this chunk is durable
 * u64 previousLsn: committedLsn of the record before
 * u64 offset: bytes of all records before this one, so that two headers tell how much log lies between them
 * u32 keyframe: how many records before this one the last keyframe lies (0: this is one)
 * u32 openedAt: how many records before this one the transaction that is open at the end began (0 when none is open)
 * u32 ordinal: of the first change in the body, when the chunk starts inside a transaction
 * u32 preambleBytes
 * preamble: (u32 size, message)*   BEGIN of the transaction the chunk starts in
 * body:     (u32 size, message)*   as received, and what is repeated
 * ```
 *
 * A reader that comes from the record before ignores the preamble; one that starts here needs it. Reading starts at a
 * keyframe. Behind each, the RELATION of a table is repeated before the first change that needs it, and the annotations
 * of the transaction a keyframe starts in are repeated at once: so any retained position is decoded with the schema of
 * that position, and what a keyframe costs depends on the tables that are written to, not on those there are. (Version 1
 * had annotations, every RELATION and every TYPE in the preamble.) A message larger than a record is cut into pieces:
 * FLAG_MORE says the last message goes on in the next record, whose body then starts with the rest.
 * The record's timestamp in the stream is the commit LSN of the last transaction that begins or goes on in it, which
 * makes the stream's own time index an LSN index.
 */
import { assert } from '@millrace/core/assert';
import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { BEGIN } from '@millrace/postgres/pgoutput';

export const CHUNK_VERSION = 2;
const CHUNK_VERSION_OLDEST = 1;
export const CHUNK_HEADER_BYTES = 56;
/** Room a sealed chunk has in front of its header, for the record head that the stream puts there. */
export const CHUNK_FRONT_BYTES = 40;
const BODY_AT = CHUNK_FRONT_BYTES + CHUNK_HEADER_BYTES;
const BEGIN_BYTES = 21;
/** Below the record limit of a stream (1 MiB metered), less the protobuf framing around it. */
export const CHUNK_BYTES_MAX = 1_000_000;

/** Type of a message that repeats the one behind this byte. No message of pgoutput has it. */
export const REPEATED = 0x01;

/** The body starts inside a transaction whose BEGIN is in the preamble. */
export const FLAG_STARTS_OPEN = 1;
/** The body ends inside a transaction. */
export const FLAG_ENDS_OPEN = 2;
/** The last message goes on in the next record. */
export const FLAG_MORE = 4;
/** The body starts with the rest of a message. */
export const FLAG_REST = 8;
/** A transaction left open by the record before was abandoned: the source sends it again from its BEGIN. */
export const FLAG_VOIDS = 16;

export interface ChunkHeader {
  readonly flags: number;
  readonly changes: number;
  readonly committedLsn: Lsn;
  readonly endLsn: Lsn;
  readonly previousLsn: Lsn;
  readonly offset: number;
  readonly keyframe: number;
  readonly openedAt: number;
  readonly ordinal: number;
  readonly preambleStart: number;
  readonly preambleEnd: number;
  readonly bodyStart: number;
}

/** Parses the header of the chunk at bytes[start, end). Damage is storage_corrupt (I8). */
export function readChunkHeader(bytes: Buffer, start: number, end: number): ChunkHeader {
  if (end - start < CHUNK_HEADER_BYTES) throw damaged('shorter than its header');
  const version = bytes[start]!;
  if (version < CHUNK_VERSION_OLDEST || version > CHUNK_VERSION) throw damaged('of an unknown version');
  const preambleBytes = bytes.readUInt32BE(start + 52);
  const preambleStart = start + CHUNK_HEADER_BYTES;
  if (preambleStart + preambleBytes > end) throw damaged('with a preamble beyond its end');
  return {
    flags: bytes[start + 1]!,
    changes: bytes.readUInt32BE(start + 4),
    committedLsn: bytes.readBigUInt64BE(start + 8),
    endLsn: bytes.readBigUInt64BE(start + 16),
    previousLsn: bytes.readBigUInt64BE(start + 24),
    offset: Number(bytes.readBigUInt64BE(start + 32)),
    keyframe: bytes.readUInt32BE(start + 40),
    openedAt: bytes.readUInt32BE(start + 44),
    ordinal: bytes.readUInt32BE(start + 48),
    preambleStart,
    preambleEnd: preambleStart + preambleBytes,
    bodyStart: preambleStart + preambleBytes,
  };
}

/** Commit LSN of the transaction that the chunk starts in; null: it starts between two. */
export function openTransaction(bytes: Buffer, header: ChunkHeader): Lsn | null {
  if ((header.flags & FLAG_STARTS_OPEN) === 0) return null;
  if (header.preambleEnd - header.preambleStart < 4 + BEGIN_BYTES)
    throw damaged('without the transaction it starts in');
  return bytes.readBigUInt64BE(header.preambleStart + 5);
}

/** Commit LSN of the last transaction that begins or goes on in the chunk. */
export function lastBegun(bytes: Buffer, header: ChunkHeader, end: number): Lsn | null {
  let found = openTransaction(bytes, header);
  for (let at = header.bodyStart; at < end; ) {
    const isRest = at === header.bodyStart && (header.flags & FLAG_REST) !== 0;
    const size = messageSize(bytes, at, end);
    if (!isRest && size === BEGIN_BYTES && bytes[at + 4] === BEGIN) found = bytes.readBigUInt64BE(at + 5);
    at += 4 + size;
  }
  return found;
}

/** Size of the message whose length prefix stands at `at`; checks that it ends by `end`. */
export function messageSize(bytes: Buffer, at: number, end: number): number {
  if (at + 4 > end) throw damaged('with a cut length prefix');
  const size = bytes.readUInt32BE(at);
  if (size === 0 || at + 4 + size > end) throw damaged('with a message beyond its end');
  return size;
}

function damaged(what: string): MillraceError {
  return new MillraceError('storage_corrupt', { detail: `A record of the change log is ${what}.` });
}

/** Fields of the header only the log's writer knows when it seals a chunk. */
export interface Seal {
  readonly flags: number;
  readonly committedLsn: Lsn;
  readonly endLsn: Lsn;
  readonly previousLsn: Lsn;
  readonly offset: number;
  readonly keyframe: number;
  readonly openedAt: number;
}

/** Collects messages for one chunk at a time. */
export class ChunkWriter {
  readonly #out = new ByteWriter(CHUNK_BYTES_MAX + 64 * 1024);
  #changes = 0;
  #ordinal = 0;
  #preambleEnd = BODY_AT;

  constructor() {
    this.#out.length = BODY_AT;
  }

  get bytes(): number {
    return this.#out.length;
  }

  get changes(): number {
    return this.#changes;
  }

  get empty(): boolean {
    return this.#out.length === this.#preambleEnd;
  }

  /** Whether a message of `size` bytes still fits. */
  fits(size: number): boolean {
    return this.#out.length + 4 + size <= CHUNK_BYTES_MAX;
  }

  /** Room for message bytes in what is left of the chunk. */
  get room(): number {
    return CHUNK_BYTES_MAX - this.#out.length - 4;
  }

  /** A message of the preamble; before any message of the body. */
  preamble(source: Buffer, start: number, end: number): void {
    assert(this.empty, 'a preamble comes before the body');
    this.#out.u32(end - start);
    this.#out.copy(source, start, end);
    this.#preambleEnd = this.#out.length;
  }

  /** Ordinal of the next change, kept when the chunk starts inside a transaction. */
  startAt(ordinal: number): void {
    this.#ordinal = ordinal;
  }

  message(source: Buffer, start: number, end: number): void {
    const out = this.#out;
    const size = end - start;
    out.reserve(size + 4);
    const target = out.buffer;
    let at = out.length;
    target[at] = size >>> 24;
    target[at + 1] = size >>> 16;
    target[at + 2] = size >>> 8;
    target[at + 3] = size;
    at += 4;
    out.length = at + size;
    if (size < 24) for (let i = start; i < end; i++) target[at++] = source[i]!;
    else source.copy(target, at, start, end);
  }

  countChange(): void {
    this.#changes++;
  }

  /** Hands over the finished chunk, CHUNK_FRONT_BYTES of room before it, and starts an empty one. */
  seal(seal: Seal): Buffer {
    const out = this.#out;
    const bytes = Buffer.allocUnsafeSlow(out.length);
    out.buffer.copy(bytes, 0, 0, out.length);
    const at = CHUNK_FRONT_BYTES;
    bytes[at] = CHUNK_VERSION;
    bytes[at + 1] = seal.flags;
    bytes.writeUInt16BE(0, at + 2);
    bytes.writeUInt32BE(this.#changes, at + 4);
    bytes.writeBigUInt64BE(seal.committedLsn, at + 8);
    bytes.writeBigUInt64BE(seal.endLsn, at + 16);
    bytes.writeBigUInt64BE(seal.previousLsn, at + 24);
    bytes.writeBigUInt64BE(BigInt(seal.offset), at + 32);
    bytes.writeUInt32BE(seal.keyframe, at + 40);
    bytes.writeUInt32BE(seal.openedAt, at + 44);
    bytes.writeUInt32BE(this.#ordinal, at + 48);
    bytes.writeUInt32BE(this.#preambleEnd - BODY_AT, at + 52);
    this.discard();
    return bytes;
  }

  discard(): void {
    this.#out.length = BODY_AT;
    this.#changes = 0;
    this.#ordinal = 0;
    this.#preambleEnd = BODY_AT;
  }
}
