/**
 * The S2 sink into the store of this process. HOT PATH (sequence). One process owns the data directory, so the stream
 * cannot change between reading its assigned tail and appending; a stream that other clients append to as well is fine.
 * After a crash the records after the saved sequence number say what arrived: exactly once, in commit order.
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import { POSITION_ZERO } from '@millrace/core/position';
import { NumberedRecordWriter } from '@millrace/stream-store/numbered-record-writer';
import type { Stream, StreamStore } from '@millrace/stream-store/store';
import { advance, headerPrefix, headerSuffix } from './delivery-header.ts';
import type { MessageBatch } from './message-batch.ts';
import {
  checkRecordSize,
  deliveredFrom,
  HEADER_NAME,
  localLimits,
  openOrCreate,
  writeFailure,
} from './s2-local-records.ts';
import type { Sink, SinkCursor } from './sink.ts';

export interface LocalS2Options {
  readonly store: StreamStore;
  /** The sink's own name, which its records carry. */
  readonly name: string;
  readonly basin: string;
  readonly stream: string;
  readonly now?: () => number;
}

/** Stream incarnation and the sequence number after the sink's last record. */
interface Place {
  readonly id: number;
  readonly seqNum: number;
}

const NOTHING: Omit<SinkCursor, 'destination'> = { position: POSITION_ZERO, backfills: new Map() };
/** Looked through at a time, from the end on. */
const SCAN_RECORDS = 1000;

export function localS2Sink(options: LocalS2Options): Sink {
  const { store, name, basin, stream: streamName, now = Date.now } = options;
  const out = new ByteWriter(64 * 1024);
  let stream: Stream | null = null;
  let timestamp = 0n;

  return {
    limits: localLimits(name),
    writesMax: 16,

    async resume(saved) {
      stream = await openOrCreate(store, basin, streamName);
      timestamp = stream.tail.timestamp;
      const place = (saved?.destination ?? null) as Place | null;
      if (place !== null && place.id === stream.id) return await forward(stream, name, saved, place.seqNum);
      // Killed before a place was on record: all there is of the sink came after `saved`.
      if (saved !== null && place === null) return await forward(stream, name, saved, stream.firstSeqNum);
      // A place also where nothing was delivered yet: after a crash the records are looked through from there, all of
      // them, since the newest alone does not have every mark.
      const here = { id: stream.id, seqNum: stream.tail.seqNum } satisfies Place;
      return (await backward(stream, name)) ?? { ...(saved ?? NOTHING), destination: here };
    },

    async write(batch) {
      if (stream === null) throw new MillraceError('storage_closed');
      const target = stream;
      // Nothing is awaited before the append: writes are sequenced in the order they are called. What is in flight is
      // bounded by writesMax batches.
      const size = batch.body.length + batch.count * 128;
      const arrival = BigInt(now());
      if (arrival > timestamp) timestamp = arrival;
      out.length = 0;
      out.reserve(size);
      const firstSeqNum = target.assignedSeqNum;
      const meteredBytes = sequence(out, batch, name, firstSeqNum, timestamp);
      const input = { records: out.view(), firstSeqNum, timestamp, count: batch.count, meteredBytes, reused: true };
      try {
        const ack = await target.appendSequenced(input);
        return { id: target.id, seqNum: ack.end.seqNum } satisfies Place;
      } catch (error) {
        // Another client's record can carry a later timestamp; take it over for the next attempt.
        timestamp = target.tail.timestamp > timestamp ? target.tail.timestamp : timestamp;
        throw writeFailure(error, `s2://${basin}/${streamName}`);
      }
    },

    saved() {},

    async close() {
      stream = null;
    },
  };
}

function sequence(out: ByteWriter, batch: MessageBatch, name: string, firstSeqNum: number, timestamp: bigint): number {
  const body = batch.body.buffer;
  const { ends, ordinals, runEnds, runLsns, count } = batch;
  const writer = new NumberedRecordWriter(out, timestamp, HEADER_NAME);
  const suffix = batch.mark === null ? null : Buffer.from(headerSuffix(batch.mark));
  let metered = 0;
  let start = 0;
  let index = 0;
  for (let run = 0; run < runEnds.length; run++) {
    const runEnd = runEnds[run]!;
    writer.prefix(headerPrefix(name, runLsns[run]!));
    for (; index < runEnd; index++) {
      const end = ends[index]!;
      const last = index === count - 1 ? suffix : null;
      const bytes = writer.write(firstSeqNum + index, ordinals[index]!, last, body, start, end);
      checkRecordSize(bytes, runLsns[run]!, ordinals[index]!);
      metered += bytes;
      start = end;
    }
  }
  return metered;
}

async function forward(
  stream: Stream,
  name: string,
  saved: SinkCursor | null,
  from: number,
): Promise<SinkCursor | null> {
  let cursor = saved;
  const { tail } = stream;
  for await (const { delivered, seqNum } of deliveredFrom(stream, name, from)) {
    cursor = advance(cursor, delivered, { id: stream.id, seqNum } satisfies Place);
  }
  const seqNum = Math.max(from, tail.seqNum);
  return cursor === null ? null : { ...cursor, destination: { id: stream.id, seqNum } satisfies Place };
}

/** Without a saved place: the newest of the sink's records in the stream, if there is one. */
async function backward(stream: Stream, name: string): Promise<SinkCursor | null> {
  for (let end = stream.tail.seqNum; end > stream.firstSeqNum; end -= SCAN_RECORDS) {
    const start = Math.max(stream.firstSeqNum, end - SCAN_RECORDS);
    const cursor = await forward(stream, name, null, start);
    if (cursor !== null) return cursor;
  }
  return null;
}
