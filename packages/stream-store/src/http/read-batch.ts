import { ByteWriter } from '@millrace/core/byte-writer';
import type { AppendAck, StreamPosition } from '../model.ts';
import { RecordCursor } from '../record-cursor.ts';
import type { RecordFormat } from './append-input.ts';
import { FRAME_HEAD_BYTES, writeFrameHead } from './s2s-frame.ts';
import { positionJson } from './wire.ts';

/** ReadBatch and AppendAck as clients get them. HOT PATH: records are copied as journaled, never taken apart. */

const POSITION_BYTES_MAX = 2 + 11 + 11;

/** `field` is the tag with which the position is embedded. */
function writePosition(out: ByteWriter, field: number, position: StreamPosition): void {
  out.reserve(POSITION_BYTES_MAX);
  const buffer = out.buffer;
  buffer[out.length++] = field;
  const sizeAt = out.length++;
  // proto3 leaves out zeros.
  if (position.seqNum > 0) {
    buffer[out.length++] = 0x08;
    writeVarint(out, position.seqNum);
  }
  if (position.timestamp > 0n) {
    buffer[out.length++] = 0x10;
    if (position.timestamp <= MAX_SAFE) writeVarint(out, Number(position.timestamp));
    else writeBigVarint(out, position.timestamp);
  }
  buffer[sizeAt] = out.length - sizeAt - 1;
}

const MAX_SAFE = BigInt(Number.MAX_SAFE_INTEGER);

function writeVarint(out: ByteWriter, value: number): void {
  let rest = value;
  while (rest >= 0x80) {
    out.buffer[out.length++] = (rest % 0x80) | 0x80;
    rest = Math.floor(rest / 0x80);
  }
  out.buffer[out.length++] = rest;
}

function writeBigVarint(out: ByteWriter, value: bigint): void {
  let rest = value;
  while (rest >= 0x80n) {
    out.buffer[out.length++] = Number(rest & 0x7fn) | 0x80;
    rest >>= 7n;
  }
  out.buffer[out.length++] = Number(rest);
}

export function writeAppendAck(out: ByteWriter, ack: AppendAck): void {
  writePosition(out, 0x0a, ack.start);
  writePosition(out, 0x12, ack.end);
  writePosition(out, 0x1a, ack.tail);
}

export function encodeAppendAck(ack: AppendAck): Buffer {
  const out = new ByteWriter(3 * POSITION_BYTES_MAX);
  writeAppendAck(out, ack);
  return out.view();
}

/** The `tail` field of a ReadBatch; empty for null. */
export function encodeTail(tail: StreamPosition | null): Buffer {
  if (tail === null) return NOTHING;
  const out = new ByteWriter(POSITION_BYTES_MAX);
  writePosition(out, 0x12, tail);
  return out.view();
}

const NOTHING = Buffer.alloc(0);

/** End of the run of whole records from `start` on that has about `bytesMax` bytes; at least one record. */
export function cutRecords(records: Uint8Array, start: number, bytesMax: number): number {
  const size = records.length;
  if (size - start <= bytesMax) return size;
  let end = start;
  while (end < size) {
    // Journaled records are canonical: the one-byte tag of field 1, then a length.
    let at = end + 1;
    let length = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = records[at++]!;
      length |= (byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    at += length;
    if (end > start && at - start > bytesMax) return end;
    end = at;
  }
  return size;
}

/** Room that encodeReadFrames may need: frames are at least half full, or hold one record. */
export function readFramesRoom(recordBytes: number, records: number, tailBytes: number, bytesMax: number): number {
  const frames = Math.min(records, Math.ceil(recordBytes / bytesMax) * 2) + 1;
  return recordBytes + frames * (FRAME_HEAD_BYTES + tailBytes);
}

/** Frames of about `bytesMax` with the records and, in each of them, the tail. Returns the bytes written into `out`. */
export function encodeReadFrames(out: Buffer, records: Uint8Array, tail: Buffer, bytesMax: number): number {
  let length = 0;
  let start = 0;
  do {
    const end = cutRecords(records, start, bytesMax);
    writeFrameHead(out, length, 0, end - start + tail.length);
    length += FRAME_HEAD_BYTES;
    out.set(records.subarray(start, end), length);
    length += end - start;
    out.set(tail, length);
    length += tail.length;
    start = end;
  } while (start < records.length);
  return length;
}

export function readBatchJson(
  records: readonly Uint8Array[],
  tail: StreamPosition | null,
  format: RecordFormat,
): string {
  let json = '{"records":[';
  let separator = '';
  for (const slice of records) {
    const bytes = Buffer.from(slice.buffer, slice.byteOffset, slice.length);
    const cursor = new RecordCursor(bytes);
    while (cursor.next()) {
      json += `${separator}{"seq_num":${cursor.seqNum},"timestamp":${cursor.timestamp}`;
      separator = ',';
      if (cursor.headerCount > 0) {
        json += ',"headers":[';
        for (let i = 0; i < cursor.headerCount; i++) {
          const at = i * 4;
          const name = text(bytes, cursor.headers[at]!, cursor.headers[at + 1]!, format);
          const value = text(bytes, cursor.headers[at + 2]!, cursor.headers[at + 3]!, format);
          json += `${i === 0 ? '' : ','}[${name},${value}]`;
        }
        json += ']';
      }
      if (cursor.bodyEnd > cursor.bodyStart) {
        json += `,"body":${text(bytes, cursor.bodyStart, cursor.bodyEnd, format)}`;
      }
      json += '}';
    }
  }
  return `${json}]${tail === null ? '' : `,"tail":${positionJson(tail)}`}}`;
}

/** `raw` is lossy by contract: what is not UTF-8 becomes U+FFFD. */
function text(bytes: Buffer, start: number, end: number, format: RecordFormat): string {
  return format === 'raw'
    ? JSON.stringify(bytes.toString('utf8', start, end))
    : `"${bytes.toString('base64', start, end)}"`;
}
