import { MillraceError } from '@millrace/core/error';
import {
  BATCH_HEADER_BYTES,
  BatchHead,
  KIND_BATCH,
  KIND_CARRY,
  KIND_META,
  KIND_STATE_DELETE,
  KIND_STATE_PUT,
  KIND_TRIM,
  readCarry,
  readMeta,
  readStateDelete,
  readStatePut,
  readTrim,
} from './entries.ts';
import type { JournalIndex } from './index/journal-index.ts';
import { readCommands } from './record-commands.ts';
import type { StoreState } from './store-state.ts';
import type { StreamState } from './stream-state.ts';
import { KIND_STREAMS } from './stream-table/stream-entries.ts';

const NO_COMMANDS: ReturnType<typeof readCommands> = [];

/** Takes entries into state and index, on recovery. */
export class EntryApplier {
  readonly #state: StoreState;
  readonly #index: JournalIndex;
  readonly #dir: string;
  readonly #head = new BatchHead();

  constructor(state: StoreState, index: JournalIndex, dir: string) {
    this.#state = state;
    this.#index = index;
    this.#dir = dir;
  }

  /** An entry of a checkpoint. Without `places`, the files it names as those of its streams are not the store's. */
  applyCheckpointed(payload: Buffer, places: boolean): void {
    if (payload[0] === KIND_STREAMS) this.#state.applyStreams(payload, places);
    else if (payload[0] !== KIND_CARRY || places) this.apply(0, payload);
    else this.#state.applyCarry({ ...readCarry(payload), segments: [] });
  }

  apply(offset: number, payload: Buffer): void {
    const state = this.#state;
    // Between two entries nobody holds a stream: recovery of a million streams needs no million objects.
    state.streams.parkIdle();
    switch (payload[0]) {
      case KIND_BATCH: {
        const stream = this.place(offset, payload);
        if (stream === undefined) return;
        if (this.#head.firstSeqNum !== stream.tailSeqNum) throw this.#corrupt(offset, 'sequence numbers are not dense');
        const commands = this.#head.hasCommands ? readCommands(payload.subarray(BATCH_HEADER_BYTES)) : NO_COMMANDS;
        state.applyBatch(stream, this.#head, commands);
        // Nothing is in flight: the assigned state is the durable one.
        stream.settle();
        return;
      }
      case KIND_TRIM: {
        const { streamId, seqNum } = readTrim(payload);
        const stream = state.streams.get(streamId);
        if (stream !== undefined) state.applyTrim(stream, seqNum);
        return;
      }
      case KIND_CARRY:
        state.applyCarry(readCarry(payload));
        return;
      case KIND_META:
        state.applyMeta(readMeta(payload));
        return;
      case KIND_STATE_PUT: {
        const { key, value } = readStatePut(payload);
        state.table.set(key, value);
        return;
      }
      case KIND_STATE_DELETE:
        state.table.delete(readStateDelete(payload));
        return;
      default:
        throw this.#corrupt(offset, 'an entry of an unknown kind');
    }
  }

  /** Only where a batch lies. undefined: not a batch, or of a stream that is gone. */
  place(offset: number, payload: Buffer): StreamState | undefined {
    if (payload[0] !== KIND_BATCH) return undefined;
    this.#state.streams.parkIdle();
    const head = this.#head;
    head.read(payload);
    const stream = this.#state.streams.get(head.streamId);
    if (stream === undefined) return undefined;
    this.#index.add(
      stream,
      head.firstSeqNum,
      head.count,
      head.lastTimestamp,
      head.arrivalMs,
      head.meteredBytes,
      offset,
      payload.length,
    );
    return stream;
  }

  #corrupt(offset: number, what: string): MillraceError {
    return new MillraceError('storage_corrupt', { detail: `${this.#dir} at offset ${offset} of a segment: ${what}.` });
  }
}
