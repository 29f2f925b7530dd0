/** Streams of this process's own store, as a routed sink writes to them. HOT PATH (sequence). */
import { ByteWriter } from '@millrace/core/byte-writer';
import { madeName } from '@millrace/core/error';
import { NumberedRecordWriter } from '@millrace/stream-store/numbered-record-writer';
import { S2Error } from '@millrace/stream-store/s2-error';
import type { Stream, StreamStore } from '@millrace/stream-store/store';
import { type BatchSlice, lsnOf, subOf } from './batch-slices.ts';
import { headerPrefix } from './delivery-header.ts';
import type { RoutedStream, RoutedStreams } from './routed-writes.ts';
import {
  checkRecordSize,
  deliveredFrom,
  HEADER_NAME,
  localLimits,
  openOrCreate,
  writeFailure,
} from './s2-local-records.ts';
import { placeName, splitPlace } from './s2-place.ts';

export function localRoutedStreams(options: {
  readonly store: StreamStore;
  /** The sink's own name, which its records carry. */
  readonly name: string;
  readonly now?: () => number;
}): RoutedStreams {
  const { store, name, now = Date.now } = options;
  const out = new ByteWriter(64 * 1024);
  return {
    limits: localLimits(name),
    ordered: true,

    async open(place) {
      const { basin, stream } = splitPlace(place);
      return new LocalRoutedStream(await openOrCreate(store, basin, stream, whereOf(basin, stream)), {
        name,
        out,
        now,
      });
    },

    async prove(place, id, from) {
      const { basin, stream: streamName } = splitPlace(place);
      const stream = await existing(store, basin, streamName);
      if (stream === null || stream.id !== id) return { kind: 'records', delivered: [] };
      const delivered = [];
      for await (const found of deliveredFrom(stream, name, from)) delivered.push(found.delivered);
      return { kind: 'records', delivered };
    },

    async close() {},
  };
}

function whereOf(basin: string, stream: string): string {
  return `s2://${madeName(placeName(basin, stream))}`;
}

async function existing(store: StreamStore, basin: string, name: string): Promise<Stream | null> {
  try {
    return await store.openStream(basin, name, 'append');
  } catch (error) {
    if (error instanceof S2Error && GONE.has(error.code)) return null;
    throw error;
  }
}

const GONE: ReadonlySet<string> = new Set([
  'basin_not_found',
  'stream_not_found',
  'stream_deletion_pending',
  'basin_deletion_pending',
]);

interface LocalParts {
  readonly name: string;
  readonly out: ByteWriter;
  readonly now: () => number;
}

class LocalRoutedStream implements RoutedStream {
  readonly #stream: Stream;
  readonly #parts: LocalParts;
  #timestamp: bigint;
  #broken = false;
  /** Kept by the store, which opens it again for nothing. */
  readonly busy = false;

  constructor(stream: Stream, parts: LocalParts) {
    this.#stream = stream;
    this.#parts = parts;
    this.#timestamp = stream.tail.timestamp;
  }

  get id(): number {
    return this.#stream.id;
  }

  get nextSeqNum(): number {
    return this.#stream.assignedSeqNum;
  }

  get broken(): boolean {
    return this.#broken;
  }

  append(slice: BatchSlice): Promise<void> {
    const stream = this.#stream;
    const arrival = BigInt(this.#parts.now());
    if (arrival > this.#timestamp) this.#timestamp = arrival;
    const timestamp = this.#timestamp;
    const firstSeqNum = stream.assignedSeqNum;
    const count = slice.end - slice.start;
    let appended: Promise<unknown>;
    try {
      const meteredBytes = this.#sequence(slice, firstSeqNum, timestamp);
      const records = this.#parts.out.view();
      appended = stream.appendSequenced({ records, firstSeqNum, timestamp, count, meteredBytes, reused: true });
    } catch (error) {
      this.#broken = true;
      return Promise.reject(error);
    }
    this.#broken = stream.assignedSeqNum !== firstSeqNum + count;
    return appended.then(
      () => {},
      (error: unknown) => {
        throw writeFailure(error, whereOf(stream.basin, stream.name));
      },
    );
  }

  #sequence(slice: BatchSlice, firstSeqNum: number, timestamp: bigint): number {
    const { name, out } = this.#parts;
    const { batch, order, start, end, runs } = slice;
    const body = batch.body.buffer;
    out.length = 0;
    const writer = new NumberedRecordWriter(out, timestamp, HEADER_NAME);
    let metered = 0;
    let run = -1;
    for (let i = start; i < end; i++) {
      const index = order[i]!;
      if (runs[index] !== run) {
        run = runs[index]!;
        writer.prefix(headerPrefix(name, batch.runLsns[run]!));
      }
      const sub = subOf(batch, index);
      const mark = i === end - 1 ? slice.suffix : '';
      const suffix = sub === 0 && mark === '' ? null : Buffer.from(sub === 0 ? mark : `.${sub}${mark}`);
      const seqNum = firstSeqNum + i - start;
      const ordinal = batch.ordinals[index]!;
      const bytes = writer.write(seqNum, ordinal, suffix, body, batch.start(index), batch.ends[index]!);
      checkRecordSize(bytes, lsnOf(slice, index), ordinal);
      metered += bytes;
    }
    return metered;
  }
}
