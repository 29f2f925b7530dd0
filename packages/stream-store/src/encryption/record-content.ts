import type { ByteWriter } from '@millrace/core/byte-writer';
import type { RecordCursor } from '../record-cursor.ts';
import { fieldSize, varintSize, writeTag, writeVarint } from '../record-fields.ts';

/** The part of a record that is sealed, and what is written around it. HOT PATH. */

/** Headers and body of the AppendRecord under the cursor, as they stand in a SequencedRecord. */
export function writeRecordContent(out: ByteWriter, cursor: RecordCursor): void {
  const source = cursor.bytes;
  const headers = cursor.headers;
  const headersEnd = cursor.headerCount * 4;
  for (let at = 0; at < headersEnd; at += 4) {
    const nameSize = headers[at + 1]! - headers[at]!;
    const valueSize = headers[at + 3]! - headers[at + 2]!;
    out.reserve(nameSize + valueSize + 24);
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
    out.reserve(bodySize + 8);
    writeTag(out, 0x22);
    writeVarint(out, bodySize, 0);
    out.copy(source, cursor.bodyStart, cursor.bodyEnd);
  }
}

/** An AppendRecord with the timestamp of the one under the cursor and a body of `bodySize` bytes, which come next. */
export function writeAppendHead(out: ByteWriter, cursor: RecordCursor, bodySize: number): void {
  const { hasTimestamp, timestampLow, timestampHigh } = cursor;
  const size = fieldSize(bodySize) + (hasTimestamp ? 1 + varintSize(timestampLow, timestampHigh) : 0);
  out.reserve(size + 11);
  writeTag(out, 0x0a);
  writeVarint(out, size, 0);
  if (hasTimestamp) {
    writeTag(out, 0x08);
    writeVarint(out, timestampLow, timestampHigh);
  }
  writeTag(out, 0x1a);
  writeVarint(out, bodySize, 0);
}

/** An entry of ReadBatch of what writeRecordContent wrote. */
export function writeSequencedContent(
  out: ByteWriter,
  seqNum: number,
  timestampLow: number,
  timestampHigh: number,
  content: Uint8Array,
): void {
  const seqLow = seqNum >>> 0;
  const seqHigh = Math.floor(seqNum / 4_294_967_296);
  const size = 2 + varintSize(seqLow, seqHigh) + varintSize(timestampLow, timestampHigh) + content.length;
  out.reserve(size + 11);
  writeTag(out, 0x0a);
  writeVarint(out, size, 0);
  writeTag(out, 0x08);
  writeVarint(out, seqLow, seqHigh);
  writeTag(out, 0x10);
  writeVarint(out, timestampLow, timestampHigh);
  out.bytes(content);
}
