import { randomFillSync } from 'node:crypto';
import { crc32 } from 'node:zlib';

/*
 * A journal segment on disk, integers big-endian:
 *
 *   header  magic "MRSEG\0\0\1" · journal id (16) · segment number u32 · marker u32 · crc u32 of all before, padded to 64
 *   entry   marker u32 · crc u32 of all after it · payload length u32 · behind u32 · payload
 *   ...     zeros to the end of the file, while the segment is being written; nothing once it is sealed
 *
 * `behind` is the distance from the start of the group the entry was written with. Everything before that start was
 * durable before the group was written, so a damaged entry which a later group follows was durable once: corruption.
 * A damaged entry followed only by entries of its own group is a torn write: nobody was told it is durable.
 * `marker` is random per journal: it lets recovery look for entries behind a damaged one.
 *
 * HOT PATH: writeEntryHeader runs once per append.
 */

export const SEGMENT_HEADER_BYTES = 64;
export const ENTRY_HEADER_BYTES = 16;
/** Payload of one entry. A batch of 1 MiB metered with 1000 records stays well below. */
export const ENTRY_BYTES_MAX = 8 * 1_048_576;
/** A group is written once it is this large; the entry that crosses the line still belongs to it. */
export const GROUP_BYTES_MAX = 8 * 1_048_576;

const MAGIC = Buffer.from('MRSEG\0\0\x01', 'latin1');
const HEADER_CRC_AT = 32;

export interface SegmentHeader {
  readonly journalId: string;
  readonly segment: number;
  readonly marker: number;
}

export function newJournalIdentity(): { journalId: string; marker: number } {
  const bytes = randomFillSync(Buffer.alloc(20));
  // No zero byte in the marker: the unwritten rest of a segment must never look like one.
  for (let i = 16; i < 20; i++) bytes[i] = bytes[i]! | 0x81;
  return { journalId: bytes.toString('hex', 0, 16), marker: bytes.readUInt32BE(16) };
}

export function encodeSegmentHeader(header: SegmentHeader): Buffer {
  const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES);
  MAGIC.copy(bytes);
  bytes.write(header.journalId, 8, 'hex');
  bytes.writeUInt32BE(header.segment, 24);
  bytes.writeUInt32BE(header.marker, 28);
  bytes.writeUInt32BE(crc32(bytes.subarray(0, HEADER_CRC_AT)), HEADER_CRC_AT);
  return bytes;
}

/** null: not a header of this version. */
export function decodeSegmentHeader(bytes: Buffer): SegmentHeader | null {
  if (bytes.length < SEGMENT_HEADER_BYTES || MAGIC.compare(bytes, 0, 8) !== 0) return null;
  if (crc32(bytes.subarray(0, HEADER_CRC_AT)) !== bytes.readUInt32BE(HEADER_CRC_AT)) return null;
  return {
    journalId: bytes.toString('hex', 8, 24),
    segment: bytes.readUInt32BE(24),
    marker: bytes.readUInt32BE(28),
  };
}

/** Completes the entry at `at`, whose payload of `size` bytes (the last of them possibly in `external`) is written. */
export function writeEntryHeader(
  buffer: Buffer,
  at: number,
  end: number,
  marker: number,
  behind: number,
  external: Uint8Array | null,
): void {
  const size = end - at - ENTRY_HEADER_BYTES + (external === null ? 0 : external.length);
  buffer.writeUInt32BE(marker, at);
  buffer.writeUInt32BE(size, at + 8);
  buffer.writeUInt32BE(behind, at + 12);
  let crc = crc32(buffer.subarray(at + 8, end));
  if (external !== null) crc = crc32(external, crc);
  buffer.writeUInt32BE(crc, at + 4);
}

/** Payload length of the entry at `at`, or -1 when there is no whole and undamaged one. */
export function checkEntry(bytes: Buffer, at: number, marker: number): number {
  if (at + ENTRY_HEADER_BYTES > bytes.length || bytes.readUInt32BE(at) !== marker) return -1;
  const size = bytes.readUInt32BE(at + 8);
  if (size > ENTRY_BYTES_MAX || size > bytes.length - at - ENTRY_HEADER_BYTES) return -1;
  const end = at + ENTRY_HEADER_BYTES + size;
  return crc32(bytes.subarray(at + 8, end)) === bytes.readUInt32BE(at + 4) ? size : -1;
}

/**
 * Judges what follows the last good entry, which ends at `end`, in the segment a journal was last written to.
 * 'clean': nothing; 'torn': remains of a write that was never durable; 'corrupt': something durable was damaged.
 */
export function judgeTail(bytes: Buffer, end: number, marker: number): 'clean' | 'torn' | 'corrupt' {
  const rest = bytes.subarray(end);
  const lastNonZero = lastNonZeroOf(rest);
  if (lastNonZero < 0) return 'clean';
  // One group is in flight at a time, so the remains of a torn write cannot reach further than one.
  if (lastNonZero >= GROUP_BYTES_MAX + ENTRY_BYTES_MAX + 2 * ENTRY_HEADER_BYTES) return 'corrupt';
  const needle = Buffer.alloc(4);
  needle.writeUInt32BE(marker);
  for (let at = rest.indexOf(needle, 1); at >= 0; at = rest.indexOf(needle, at + 1)) {
    if (checkEntry(rest, at, marker) < 0) continue;
    const behind = rest.readUInt32BE(at + 12);
    if (at - behind > 0) return 'corrupt';
  }
  return 'torn';
}

function lastNonZeroOf(bytes: Buffer): number {
  let end = bytes.length;
  // Mostly a long run of zeros: compare it in blocks.
  while (end >= ZEROS.length && bytes.compare(ZEROS, 0, ZEROS.length, end - ZEROS.length, end) === 0)
    end -= ZEROS.length;
  while (end > 0 && bytes[end - 1] === 0) end--;
  return end - 1;
}

const ZEROS = Buffer.alloc(64 * 1024);
