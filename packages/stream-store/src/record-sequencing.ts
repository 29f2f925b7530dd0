import type { ByteWriter } from '@millrace/core/byte-writer';
import type { TimestampingMode } from './model.ts';
import { COMMAND_NONE, commandOf, type RecordCommand, readCommand } from './record-commands.ts';
import { joinHalves, RecordCursor } from './record-cursor.ts';
import { fieldSize, varintSize, writeTag, writeVarint } from './record-fields.ts';
import { S2Error } from './s2-error.ts';

/** Admitted records become records of a stream: with numbers, timestamps, and the bytes they are kept in. HOT PATH. */

const TWO_32 = 4_294_967_296;

export interface SequencedBatch {
  readonly firstTimestamp: bigint;
  readonly lastTimestamp: bigint;
  /** In order; empty for most batches. */
  readonly commands: readonly RecordCommand[];
}

const NO_COMMANDS: readonly RecordCommand[] = [];

/**
 * Writes scanned AppendRecords as SequencedRecords with dense numbers from `firstSeqNum` and timestamps by the rules of
 * the API: the client's or the arrival time by mode, capped at now unless uncapped, raised to the running maximum.
 * On a refusal (client-require, timestamp missing) `out` is as it was before.
 */
export function sequenceRecords(
  out: ByteWriter,
  records: Uint8Array,
  firstSeqNum: number,
  previousTimestamp: bigint,
  nowMs: number,
  mode: TimestampingMode,
  uncapped: boolean,
): SequencedBatch {
  const start = out.length;
  const cursor = new RecordCursor(records, 'append');
  const nowLow = nowMs >>> 0;
  const nowHigh = Math.floor(nowMs / TWO_32);
  const clientTime = mode !== 'arrival';
  let lastLow = Number(previousTimestamp & 0xffff_ffffn);
  let lastHigh = Number(previousTimestamp >> 32n);
  let firstLow = 0;
  let firstHigh = 0;
  let seqNum = firstSeqNum;
  let commands = NO_COMMANDS as RecordCommand[];
  while (cursor.next()) {
    let low = nowLow;
    let high = nowHigh;
    if (clientTime && cursor.hasTimestamp) {
      const past =
        cursor.timestampHigh < nowHigh || (cursor.timestampHigh === nowHigh && cursor.timestampLow <= nowLow);
      if (uncapped || past) {
        low = cursor.timestampLow;
        high = cursor.timestampHigh;
      }
    } else if (mode === 'client-require') {
      out.rewind(start);
      throw new S2Error('invalid', 'a record has no timestamp and the stream requires one');
    }
    if (high < lastHigh || (high === lastHigh && low < lastLow)) {
      low = lastLow;
      high = lastHigh;
    }
    lastLow = low;
    lastHigh = high;
    if (seqNum === firstSeqNum) {
      firstLow = low;
      firstHigh = high;
    }
    writeSequencedCopy(out, cursor, seqNum, low, high);
    if (cursor.headerCount === 1) {
      const command = commandOf(cursor);
      if (command !== COMMAND_NONE) {
        if (commands === NO_COMMANDS) commands = [];
        commands.push(readCommand(cursor, command, seqNum));
      }
    }
    seqNum++;
  }
  return {
    firstTimestamp: joinHalves(firstLow, firstHigh),
    lastTimestamp: joinHalves(lastLow, lastHigh),
    commands,
  };
}

/** An entry of ReadBatch made from the AppendRecord under the cursor. Canonical: no unknown fields, empty ones left out. */
function writeSequencedCopy(out: ByteWriter, cursor: RecordCursor, seqNum: number, low: number, high: number): void {
  const source = cursor.bytes;
  const headers = cursor.headers;
  const headersEnd = cursor.headerCount * 4;
  const bodySize = cursor.bodyEnd - cursor.bodyStart;
  const seqLow = seqNum >>> 0;
  const seqHigh = Math.floor(seqNum / TWO_32);

  let size = 2 + varintSize(seqLow, seqHigh) + varintSize(low, high);
  for (let at = 0; at < headersEnd; at += 4) {
    const header = fieldSize(headers[at + 1]! - headers[at]!) + fieldSize(headers[at + 3]! - headers[at + 2]!);
    size += 1 + varintSize(header, 0) + header;
  }
  size += fieldSize(bodySize);

  out.reserve(size + 11);
  writeTag(out, 0x0a);
  writeVarint(out, size, 0);
  writeTag(out, 0x08);
  writeVarint(out, seqLow, seqHigh);
  writeTag(out, 0x10);
  writeVarint(out, low, high);
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
  if (bodySize > 0) {
    writeTag(out, 0x22);
    writeVarint(out, bodySize, 0);
    out.copy(source, cursor.bodyStart, cursor.bodyEnd);
  }
}
