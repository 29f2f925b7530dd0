/** Records of a sink in the streams of this process's store: made, found again, and what goes wrong with them. */
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_METERED_BYTES_MAX } from '@millrace/stream-store/limits';
import { DEFAULT_BASIN_CONFIG } from '@millrace/stream-store/model';
import { RecordCursor } from '@millrace/stream-store/record-cursor';
import { type S2Code, S2Error } from '@millrace/stream-store/s2-error';
import type { Stream, StreamStore } from '@millrace/stream-store/store';
import { type Delivered, POSITION_HEADER, parseDelivered } from './delivery-header.ts';
import type { BatchLimits } from './message-batch.ts';

export const HEADER_NAME = Buffer.from(POSITION_HEADER);
/** A backfill's key in the last record's header. */
const MARK_BYTES_MAX = 16 * 1024;
const WRITE_FAILURES: { readonly [code in S2Code]?: 'sink_conflict' | 'sink_unavailable' } = {
  seq_num_mismatch: 'sink_conflict',
  basin_deletion_pending: 'sink_unavailable',
  stream_deletion_pending: 'sink_unavailable',
  stream_not_found: 'sink_unavailable',
  server_draining: 'sink_unavailable',
  unavailable: 'sink_unavailable',
};
const SCAN_LIMITS = { countMax: 1000, meteredBytesMax: 1 << 21 };
const SINK_BASIN = { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true };

/** What one append takes. */
export function localLimits(name: string): BatchLimits {
  return {
    messagesMax: BATCH_RECORDS_MAX,
    bytesMax: BATCH_METERED_BYTES_MAX - MARK_BYTES_MAX,
    messageOverhead: 8 + 2 + HEADER_NAME.length + Buffer.byteLength(name) + 32,
  };
}

export function checkRecordSize(bytes: number, lsn: bigint, ordinal: number): void {
  if (bytes <= RECORD_METERED_BYTES_MAX) return;
  throw new MillraceError('sink_record_too_large', {
    detail: `The message of change ${lsn}:${ordinal} has ${bytes} bytes; a record holds ${RECORD_METERED_BYTES_MAX}.`,
    hint: 'Leave the large column out of the publication (a column list), or take the row out of the table.',
  });
}

export interface FoundRecord {
  readonly delivered: Delivered;
  /** After the slice it was read in. */
  readonly seqNum: number;
}

/** Records of the sink at or after `from`. */
export async function* deliveredFrom(stream: Stream, name: string, from: number): AsyncGenerator<FoundRecord> {
  let seq = from;
  while (seq < stream.tail.seqNum) {
    const slice = await stream.read(seq, SCAN_LIMITS);
    if (slice === null) return;
    seq = slice.firstSeqNum + slice.count;
    for (const delivered of deliveredIn(slice.records, name)) yield { delivered, seqNum: seq };
  }
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

/**
 * In our own store nobody else has to make the place for the sink's records, so it is made here. `where`: it, for the
 * words of an error.
 */
export async function openOrCreate(
  store: StreamStore,
  basin: string,
  name: string,
  where = `s2://${basin}/${name}`,
): Promise<Stream> {
  for (let attempt = 0; ; attempt++) {
    try {
      const stream = await store.openStream(basin, name, 'append');
      if (stream.cipher === null) return stream;
      const detail = `${where} is encrypted with keys that only its clients have.`;
      throw new MillraceError('sink_refused', { detail });
    } catch (error) {
      const code = error instanceof S2Error ? error.code : null;
      if (attempt < 2 && code === 'basin_not_found') await make(store.createBasin(basin, SINK_BASIN));
      else if (attempt < 2 && code === 'stream_not_found') await make(store.createStream(basin, name, {}));
      else throw openFailure(error, where);
    }
  }
}

/** Somebody else may be quicker; then it is there all the same. */
async function make(creation: Promise<unknown>): Promise<void> {
  await creation.catch((error: unknown) => {
    if (!(error instanceof S2Error) || error.code !== 'resource_already_exists') throw error;
  });
}

function openFailure(error: unknown, where: string): unknown {
  if (!(error instanceof S2Error)) return error;
  if (error.code === 'stream_deletion_pending' || error.code === 'basin_deletion_pending') {
    return new MillraceError('sink_unavailable', { detail: `${where} is being deleted.`, cause: error });
  }
  return new MillraceError('sink_refused', { detail: `${where}: ${error.message}`, cause: error });
}

export function writeFailure(error: unknown, where: string): unknown {
  if (!(error instanceof S2Error)) return error;
  if (error.cause instanceof MillraceError) return error.cause;
  // What the store calls malformed is a fault of this program, which no retry may hide.
  const code = WRITE_FAILURES[error.code];
  assert(code !== undefined, 'the store refuses a batch of the sink only for what can change');
  return new MillraceError(code, { detail: `${where}: ${error.message}`, cause: error });
}
