import { ByteWriter } from '@millrace/core/byte-writer';
import { type MetaEntry, writeMeta, writeStatePut } from './entries.ts';
import type { FrozenStreams } from './stream-table/frozen-streams.ts';

/** Bytes of entries per slice: a millisecond of work between two turns of the event loop. */
const SLICE_BYTES = 64 * 1024;

/**
 * Everything a StoreState knew at one moment, taken in well under a millisecond per million streams and written out
 * bit by bit while the store goes on. Release it: until then writers copy what they touch.
 */
export class FrozenState {
  readonly #metas: readonly MetaEntry[];
  readonly #streams: FrozenStreams;
  readonly #later: readonly MetaEntry[];
  readonly #table: readonly (readonly [string, Uint8Array])[];

  constructor(
    metas: readonly MetaEntry[],
    streams: FrozenStreams,
    later: readonly MetaEntry[],
    table: readonly (readonly [string, Uint8Array])[],
  ) {
    this.#metas = metas;
    this.#streams = streams;
    this.#later = later;
    this.#table = table;
  }

  release(): void {
    this.#streams.release();
  }

  /** The entries of a checkpoint, each as a function that writes its payload. Basins come before their streams, those before `later`. */
  *entries(): Generator<(out: ByteWriter) => void> {
    for (const entry of this.#metas) yield (out) => writeMeta(out, entry);
    for (const basin of this.#streams.basins) {
      for (const run of basin.runs) yield (out) => this.#streams.writeRun(out, basin, run);
    }
    for (const entry of this.#later) yield (out) => writeMeta(out, entry);
    for (const [key, value] of this.#table) yield (out) => writeStatePut(out, key, value);
  }

  /** The same, framed as in a checkpoint (length u32 · payload). A slice is valid until the next one is asked for. */
  *slices(sliceBytes = SLICE_BYTES): Generator<Buffer> {
    const out = new ByteWriter(sliceBytes + sliceBytes / 4);
    for (const write of this.entries()) {
      const start = out.length;
      out.u32(0);
      write(out);
      out.buffer.writeUInt32BE(out.length - start - 4, start);
      if (out.length < sliceBytes) continue;
      yield out.view();
      out.length = 0;
    }
    if (out.length > 0) yield out.view();
  }
}
