import type { ByteWriter } from '@millrace/core/byte-writer';
import type { RecordCursor } from './record-cursor.ts';
import { fieldSize, varintSize, writeTag, writeVarint } from './record-fields.ts';

/** Writing single records, in the form of record-cursor.ts: one to append, or one that has its number. HOT PATH. */

const TWO_32 = 4_294_967_296;

export interface RecordHeader {
  readonly name: Uint8Array;
  readonly value: Uint8Array;
}

function headersSize(headers: readonly RecordHeader[]): number {
  let size = 0;
  for (let i = 0; i < headers.length; i++) {
    const header = fieldSize(headers[i]!.name.length) + fieldSize(headers[i]!.value.length);
    size += 1 + varintSize(header, 0) + header;
  }
  return size;
}

function writeHeaders(out: ByteWriter, tag: number, headers: readonly RecordHeader[]): void {
  for (let i = 0; i < headers.length; i++) {
    const { name, value } = headers[i]!;
    writeTag(out, tag);
    writeVarint(out, fieldSize(name.length) + fieldSize(value.length), 0);
    if (name.length > 0) writeField(out, 0x0a, name);
    if (value.length > 0) writeField(out, 0x12, value);
  }
}

function writeField(out: ByteWriter, tag: number, value: Uint8Array): void {
  writeTag(out, tag);
  writeVarint(out, value.length, 0);
  out.copy(value, 0, value.length);
}

/** One AppendRecord as field 1 of an AppendInput. */
export function writeAppendRecord(
  out: ByteWriter,
  record: {
    readonly timestamp?: bigint | undefined;
    readonly headers: readonly RecordHeader[];
    readonly body: Uint8Array;
  },
): void {
  const low = record.timestamp === undefined ? 0 : Number(record.timestamp & 0xffff_ffffn);
  const high = record.timestamp === undefined ? 0 : Number(record.timestamp >> 32n);
  let size = headersSize(record.headers) + fieldSize(record.body.length);
  if (record.timestamp !== undefined) size += 1 + varintSize(low, high);
  out.reserve(size + 11);
  writeTag(out, 0x0a);
  writeVarint(out, size, 0);
  if (record.timestamp !== undefined) {
    writeTag(out, 0x08);
    writeVarint(out, low, high);
  }
  writeHeaders(out, 0x12, record.headers);
  if (record.body.length > 0) writeField(out, 0x1a, record.body);
}

/** One SequencedRecord as field 1 of a ReadBatch; the body is body[bodyStart, bodyEnd). Returns its metered bytes. */
export function writeSequencedRecord(
  out: ByteWriter,
  seqNum: number,
  timestamp: bigint,
  headers: readonly RecordHeader[],
  body: Uint8Array,
  bodyStart = 0,
  bodyEnd = body.length,
): number {
  const metered = writeSequencedHead(out, seqNum, timestamp, headers, bodyEnd - bodyStart);
  out.copy(body, bodyStart, bodyEnd);
  return metered;
}

/**
 * As writeSequencedRecord, but leaves the body to the caller, who must write exactly `bodySize` bytes next: for bodies
 * that are made in place. Room for them is reserved. Returns the record's metered bytes.
 */
export function writeSequencedHead(
  out: ByteWriter,
  seqNum: number,
  timestamp: bigint,
  headers: readonly RecordHeader[],
  bodySize: number,
): number {
  const low = Number(timestamp & 0xffff_ffffn);
  const high = Number(timestamp >> 32n);
  startSequenced(out, seqNum, low, high, headersSize(headers) + fieldSize(bodySize));
  writeHeaders(out, 0x1a, headers);
  if (bodySize > 0) {
    writeTag(out, 0x22);
    writeVarint(out, bodySize, 0);
  }
  let metered = 8 + bodySize;
  for (let i = 0; i < headers.length; i++) metered += 2 + headers[i]!.name.length + headers[i]!.value.length;
  return metered;
}

/** The entry of ReadBatch up to its headers and body, `contentSize` bytes, which come next; room for them is reserved. */
export function startSequenced(
  out: ByteWriter,
  seqNum: number,
  timestampLow: number,
  timestampHigh: number,
  contentSize: number,
): void {
  const seqLow = seqNum >>> 0;
  const seqHigh = Math.floor(seqNum / TWO_32);
  const size = 2 + varintSize(seqLow, seqHigh) + varintSize(timestampLow, timestampHigh) + contentSize;
  out.reserve(size + 11);
  writeTag(out, 0x0a);
  writeVarint(out, size, 0);
  writeTag(out, 0x08);
  writeVarint(out, seqLow, seqHigh);
  writeTag(out, 0x10);
  writeVarint(out, timestampLow, timestampHigh);
}

/** Bytes of headers and body of the AppendRecord under the cursor, as copyContent writes them. */
export function contentSizeOf(cursor: RecordCursor): number {
  const headers = cursor.headers;
  const headersEnd = cursor.headerCount * 4;
  let size = fieldSize(cursor.bodyEnd - cursor.bodyStart);
  for (let at = 0; at < headersEnd; at += 4) {
    const header = fieldSize(headers[at + 1]! - headers[at]!) + fieldSize(headers[at + 3]! - headers[at + 2]!);
    size += 1 + varintSize(header, 0) + header;
  }
  return size;
}

/** Headers and body of the AppendRecord under the cursor, as they stand in a SequencedRecord. The caller has made room. */
export function copyContent(out: ByteWriter, cursor: RecordCursor): void {
  const source = cursor.bytes;
  const headers = cursor.headers;
  const headersEnd = cursor.headerCount * 4;
  for (let at = 0; at < headersEnd; at += 4) {
    const nameSize = headers[at + 1]! - headers[at]!;
    const valueSize = headers[at + 3]! - headers[at + 2]!;
    writeTag(out, 0x1a);
    writeVarint(out, fieldSize(nameSize) + fieldSize(valueSize), 0);
    if (nameSize > 0) {
      writeTag(out, 0x0a);
      writeVarint(out, nameSize, 0);
      out.copy(source, headers[at]!, headers[at + 1]!);
    }
    if (valueSize > 0) {
      writeTag(out, 0x12);
      writeVarint(out, valueSize, 0);
      out.copy(source, headers[at + 2]!, headers[at + 3]!);
    }
  }
  const bodySize = cursor.bodyEnd - cursor.bodyStart;
  if (bodySize > 0) {
    writeTag(out, 0x22);
    writeVarint(out, bodySize, 0);
    out.copy(source, cursor.bodyStart, cursor.bodyEnd);
  }
}
