import type { ByteWriter } from '@millrace/core/byte-writer';
import type { RecordCursor } from '../record-cursor.ts';
import { fieldSize, varintSize, writeTag, writeVarint } from '../record-fields.ts';
import { startSequenced } from '../record-writer.ts';

/** The part of a record that is sealed, and what is written around it. HOT PATH. */

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

/** An entry of ReadBatch of what copyContent wrote. */
export function writeSequencedContent(
  out: ByteWriter,
  seqNum: number,
  timestampLow: number,
  timestampHigh: number,
  content: Uint8Array,
): void {
  startSequenced(out, seqNum, timestampLow, timestampHigh, content.length);
  out.bytes(content);
}
