import { joinHalves, RecordCursor } from './record-cursor.ts';
import type { ReadLimits, ReadSlice } from './store.ts';

/**
 * The records from `fromSeq` on that fit the limits, as a view into `bytes`, cut at record boundaries. null when there
 * is none: all are before `fromSeq`, or the first one does not fit.
 * HOT PATH.
 */
export function sliceRecords(bytes: Uint8Array, fromSeq: number, limits: ReadLimits): ReadSlice | null {
  const until = limits.untilTimestamp;
  const untilLow = until === undefined ? 0 : Number(until & 0xffff_ffffn);
  const untilHigh = until === undefined ? 0 : Number(until >> 32n);
  const cursor = new RecordCursor(bytes);
  let start = -1;
  let end = -1;
  let firstSeqNum = 0;
  let count = 0;
  let meteredBytes = 0;
  let lastLow = 0;
  let lastHigh = 0;
  while (count < limits.countMax && cursor.next()) {
    if (cursor.seqNum < fromSeq) continue;
    if (meteredBytes + cursor.meteredBytes > limits.meteredBytesMax) break;
    const { timestampLow, timestampHigh } = cursor;
    if (until !== undefined) {
      if (timestampHigh > untilHigh || (timestampHigh === untilHigh && timestampLow >= untilLow)) break;
    }
    if (count++ === 0) {
      start = cursor.entryStart;
      firstSeqNum = cursor.seqNum;
    }
    end = cursor.entryEnd;
    meteredBytes += cursor.meteredBytes;
    lastLow = timestampLow;
    lastHigh = timestampHigh;
  }
  if (count === 0) return null;
  return {
    records: bytes.subarray(start, end),
    firstSeqNum,
    count,
    meteredBytes,
    lastTimestamp: joinHalves(lastLow, lastHigh),
  };
}
