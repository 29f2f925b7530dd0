/**
 * The S2 sink into the store of this process. HOT PATH (sequence). One process owns the data directory, so the stream
 * cannot change between reading its assigned tail and appending; a stream that other clients append to as well is fine.
 * After a crash the records after the saved sequence number say what arrived: exactly once, in commit order.
 */
import { assert } from '@millrace/core/assert';
import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import { POSITION_ZERO } from '@millrace/core/position';
import { BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_METERED_BYTES_MAX } from '@millrace/stream-store/limits';
import { DEFAULT_BASIN_CONFIG } from '@millrace/stream-store/model';
import { NumberedRecordWriter, RecordCursor } from '@millrace/stream-store/record-codec';
import { type S2Code, S2Error } from '@millrace/stream-store/s2-error';
import type { Stream, StreamStore } from '@millrace/stream-store/store';
import {
  advance,
  type Delivered,
  headerPrefix,
  headerSuffix,
  POSITION_HEADER,
  parseDelivered,
} from './delivery-header.ts';
import type { MessageBatch } from './message-batch.ts';
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

const HEADER_NAME = Buffer.from(POSITION_HEADER);
const WRITE_FAILURES: { readonly [code in S2Code]?: 'sink_conflict' | 'sink_unavailable' } = {
  seq_num_mismatch: 'sink_conflict',
  basin_deletion_pending: 'sink_unavailable',
  stream_deletion_pending: 'sink_unavailable',
  stream_not_found: 'sink_unavailable',
  server_draining: 'sink_unavailable',
  unavailable: 'sink_unavailable',
};
const NOTHING: Omit<SinkCursor, 'destination'> = { position: POSITION_ZERO, backfills: new Map() };
const SCAN_LIMITS = { countMax: 1000, meteredBytesMax: 1 << 21 };
const SINK_BASIN = { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true };
/** A backfill's key in the last record's header. */
const MARK_BYTES_MAX = 16 * 1024;

export function localS2Sink(options: LocalS2Options): Sink {
  const { store, name, basin, stream: streamName, now = Date.now } = options;
  const out = new ByteWriter(64 * 1024);
  let stream: Stream | null = null;
  let timestamp = 0n;

  return {
    limits: {
      messagesMax: BATCH_RECORDS_MAX,
      bytesMax: BATCH_METERED_BYTES_MAX - MARK_BYTES_MAX,
      messageOverhead: 8 + 2 + HEADER_NAME.length + Buffer.byteLength(name) + 32,
    },
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
        throw writeFailure(error, basin, streamName);
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
      if (bytes > RECORD_METERED_BYTES_MAX) throw tooLarge(bytes, runLsns[run]!, ordinals[index]!);
      metered += bytes;
      start = end;
    }
  }
  return metered;
}

function tooLarge(bytes: number, lsn: bigint, ordinal: number): MillraceError {
  return new MillraceError('sink_record_too_large', {
    detail: `The message of change ${lsn}:${ordinal} has ${bytes} bytes; a record holds ${RECORD_METERED_BYTES_MAX}.`,
    hint: 'Leave the large column out of the publication (a column list), or take the row out of the table.',
  });
}

async function forward(
  stream: Stream,
  name: string,
  saved: SinkCursor | null,
  from: number,
): Promise<SinkCursor | null> {
  let cursor = saved;
  let seq = from;
  while (seq < stream.tail.seqNum) {
    const slice = await stream.read(seq, SCAN_LIMITS);
    if (slice === null) break;
    seq = slice.firstSeqNum + slice.count;
    for (const found of deliveredIn(slice.records, name)) {
      cursor = advance(cursor, found, { id: stream.id, seqNum: seq } satisfies Place);
    }
  }
  return cursor === null ? null : { ...cursor, destination: { id: stream.id, seqNum: seq } satisfies Place };
}

/** Without a saved place: the newest of the sink's records in the stream, if there is one. */
async function backward(stream: Stream, name: string): Promise<SinkCursor | null> {
  for (let end = stream.tail.seqNum; end > stream.firstSeqNum; end -= SCAN_LIMITS.countMax) {
    const start = Math.max(stream.firstSeqNum, end - SCAN_LIMITS.countMax);
    const cursor = await forward(stream, name, null, start);
    if (cursor !== null) return cursor;
  }
  return null;
}

function deliveredIn(records: Uint8Array, name: string): Delivered[] {
  const found: Delivered[] = [];
  const cursor = new RecordCursor(records);
  while (cursor.next()) {
    for (let i = 0; i < cursor.headerCount; i++) {
      const [nameStart, nameEnd, valueStart, valueEnd] = cursor.headers.subarray(
        i * 4,
        i * 4 + 4,
      ) as unknown as number[];
      if (HEADER_NAME.compare(records, nameStart!, nameEnd!) !== 0) continue;
      const text = Buffer.from(records.subarray(valueStart!, valueEnd!)).toString();
      const delivered = parseDelivered(name, text);
      if (delivered !== null) found.push(delivered);
    }
  }
  return found;
}

/** In our own store nobody else has to make the place for the sink's records, so it is made here. */
async function openOrCreate(store: StreamStore, basin: string, name: string): Promise<Stream> {
  for (let attempt = 0; ; attempt++) {
    try {
      const stream = await store.openStream(basin, name, 'append');
      if (stream.cipher === null) return stream;
      const detail = `s2://${basin}/${name} is encrypted with keys that only its clients have.`;
      throw new MillraceError('sink_refused', { detail });
    } catch (error) {
      const code = error instanceof S2Error ? error.code : null;
      if (attempt < 2 && code === 'basin_not_found') await make(store.createBasin(basin, SINK_BASIN));
      else if (attempt < 2 && code === 'stream_not_found') await make(store.createStream(basin, name, {}));
      else throw openFailure(error, basin, name);
    }
  }
}

/** Somebody else may be quicker; then it is there all the same. */
async function make(creation: Promise<unknown>): Promise<void> {
  await creation.catch((error: unknown) => {
    if (!(error instanceof S2Error) || error.code !== 'resource_already_exists') throw error;
  });
}

function openFailure(error: unknown, basin: string, stream: string): unknown {
  if (!(error instanceof S2Error)) return error;
  if (error.code === 'stream_deletion_pending' || error.code === 'basin_deletion_pending') {
    return new MillraceError('sink_unavailable', { detail: `s2://${basin}/${stream} is being deleted.`, cause: error });
  }
  return new MillraceError('sink_refused', { detail: `s2://${basin}/${stream}: ${error.message}`, cause: error });
}

function writeFailure(error: unknown, basin: string, stream: string): unknown {
  if (!(error instanceof S2Error)) return error;
  if (error.cause instanceof MillraceError) return error.cause;
  // What the store calls malformed is a fault of this program, which no retry may hide.
  const code = WRITE_FAILURES[error.code];
  assert(code !== undefined, 'the store refuses a batch of the sink only for what can change');
  return new MillraceError(code, { detail: `s2://${basin}/${stream}: ${error.message}`, cause: error });
}
