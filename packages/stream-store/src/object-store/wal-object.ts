import { crc32 } from 'node:zlib';
import { MillraceError } from '@millrace/core/error';

/*
 * One object of the write-ahead log in a bucket, integers big-endian:
 *
 *   header (64)  magic "MRWAL\0\0\1" · crc u32 of all after it · kind u32 · epoch u64 · ordinal u64 · writer (16)
 *                · segment u32 · zero u32 · offset u64
 *   body         group: bytes of the journal at (segment, offset), offset 0 when they begin the segment; fence: nothing
 */
export const WAL_HEADER_BYTES = 64;

export const WAL_GROUP = 1;
export const WAL_FENCE = 2;

export interface WalHeader {
  readonly kind: typeof WAL_GROUP | typeof WAL_FENCE;
  readonly epoch: number;
  readonly ordinal: number;
  /** 32 hexadecimal digits that no other opening of the store has. */
  readonly writer: string;
  readonly segment: number;
  readonly offset: number;
}

export interface WalObject extends WalHeader {
  readonly body: Buffer;
}

const MAGIC = Buffer.from('MRWAL\0\0\x01', 'latin1');

export function encodeWalHeader(header: WalHeader, parts: readonly Uint8Array[]): Buffer {
  const bytes = Buffer.alloc(WAL_HEADER_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt32BE(header.kind, 12);
  bytes.writeBigUInt64BE(BigInt(header.epoch), 16);
  bytes.writeBigUInt64BE(BigInt(header.ordinal), 24);
  bytes.write(header.writer, 32, 'hex');
  bytes.writeUInt32BE(header.segment, 48);
  bytes.writeBigUInt64BE(BigInt(header.offset), 56);
  let crc = crc32(bytes.subarray(12));
  for (const part of parts) crc = crc32(part, crc);
  bytes.writeUInt32BE(crc, 8);
  return bytes;
}

/** Throws storage_corrupt for anything but a whole and undamaged object of this ordinal. */
export function decodeWalObject(key: string, ordinal: number, bytes: Buffer): WalObject {
  if (bytes.length < WAL_HEADER_BYTES || MAGIC.compare(bytes, 0, 8) !== 0) {
    throw corruptObject(key, 'it is not an object of the write-ahead log of this version');
  }
  if (crc32(bytes.subarray(12)) !== bytes.readUInt32BE(8)) throw corruptObject(key, 'its checksum is wrong');
  const kind = bytes.readUInt32BE(12);
  if (kind !== WAL_GROUP && kind !== WAL_FENCE) throw corruptObject(key, 'it is of an unknown kind');
  if (Number(bytes.readBigUInt64BE(24)) !== ordinal) throw corruptObject(key, 'it belongs under another key');
  const body = bytes.subarray(WAL_HEADER_BYTES);
  if ((kind === WAL_FENCE) !== (body.length === 0)) throw corruptObject(key, 'its length does not fit its kind');
  return {
    kind,
    epoch: Number(bytes.readBigUInt64BE(16)),
    ordinal,
    writer: bytes.toString('hex', 32, 48),
    segment: bytes.readUInt32BE(48),
    offset: Number(bytes.readBigUInt64BE(56)),
    body,
  };
}

export function corruptObject(key: string, what: string): MillraceError {
  return new MillraceError('storage_corrupt', {
    detail: `Object ${key}: ${what}.`,
    hint: 'Restore the bucket from a copy or an earlier version. Nothing was changed.',
  });
}
