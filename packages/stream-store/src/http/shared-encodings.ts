import type { StreamPosition } from '../model.ts';
import type { ReadSlice } from '../store.ts';

/** Larger slices are encoded for each follower: the copy is not what they cost. */
const SHARED_RECORD_BYTES_MAX = 64 * 1024;

/**
 * Thousands of followers of one stream are woken one after another and get the same records: the encoding made for the
 * first of them is that of all. Keeps the last one, by the identity of the view of its records, of which there is a
 * new one whenever the memory under it is used again; whoever reads with a key has records of its own.
 */
export class SharedEncodings<T> {
  #records: Uint8Array | null = null;
  #tailSeqNum = 0;
  #encoded: T | null = null;

  of(slice: ReadSlice, tail: StreamPosition | null, encode: (slice: ReadSlice, tail: StreamPosition) => T): T | null {
    const { records } = slice;
    if (tail === null || records.length > SHARED_RECORD_BYTES_MAX) return null;
    if (records !== this.#records || tail.seqNum !== this.#tailSeqNum) {
      this.#encoded = encode(slice, tail);
      this.#records = records;
      this.#tailSeqNum = tail.seqNum;
    }
    return this.#encoded;
  }
}
