import type { ByteWriter } from '@millrace/core/byte-writer';
import type { TimestampingMode } from './model.ts';
import { COMMAND_NONE, commandOf, type RecordCommand, readCommand } from './record-commands.ts';
import { joinHalves, RecordCursor } from './record-cursor.ts';
import { contentSizeOf, copyContent, startSequenced } from './record-writer.ts';
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
    // Canonical: no unknown fields, empty ones left out.
    startSequenced(out, seqNum, low, high, contentSizeOf(cursor));
    copyContent(out, cursor);
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
