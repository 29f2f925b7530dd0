import type { ByteWriter } from '@millrace/core/byte-writer';
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
  const seqLow = seqNum >>> 0;
  const seqHigh = Math.floor(seqNum / TWO_32);
  const low = Number(timestamp & 0xffff_ffffn);
  const high = Number(timestamp >> 32n);
  const size = 2 + varintSize(seqLow, seqHigh) + varintSize(low, high) + headersSize(headers) + fieldSize(bodySize);
  out.reserve(size + 11);
  writeTag(out, 0x0a);
  writeVarint(out, size, 0);
  writeTag(out, 0x08);
  writeVarint(out, seqLow, seqHigh);
  writeTag(out, 0x10);
  writeVarint(out, low, high);
  writeHeaders(out, 0x1a, headers);
  if (bodySize > 0) {
    writeTag(out, 0x22);
    writeVarint(out, bodySize, 0);
  }
  let metered = 8 + bodySize;
  for (let i = 0; i < headers.length; i++) metered += 2 + headers[i]!.name.length + headers[i]!.value.length;
  return metered;
}
