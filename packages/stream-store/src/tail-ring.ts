import { TAIL_RING_BYTES_MAX } from './limits.ts';
import { SliceGatherer } from './slice-gatherer.ts';
import type { ReadLimits, ReadSlice } from './store.ts';

/** The most recent durable batches of one stream, consecutive, for its followers. Bounded by TAIL_RING_BYTES_MAX. */
export class TailRing {
  /** Store clock, of the last read or wait. */
  usedAtMs: number;
  bytes = 0;
  // A queue in an array: `#head` moves, and the array is cut now and then.
  #batches: ReadSlice[] = [];
  #head = 0;

  constructor(nowMs: number) {
    this.usedAtMs = nowMs;
  }

  push(batch: ReadSlice): void {
    this.#batches.push(batch);
    this.bytes += batch.records.length;
    while (this.bytes > TAIL_RING_BYTES_MAX && this.#head < this.#batches.length) {
      this.bytes -= this.#batches[this.#head]!.records.length;
      this.#head++;
    }
    if (this.#head > 64 && this.#head * 2 > this.#batches.length) {
      this.#batches = this.#batches.slice(this.#head);
      this.#head = 0;
    }
  }

  /** undefined: the ring does not reach back to `seqNum`; null: nothing fits the limits. */
  read(seqNum: number, limits: ReadLimits): ReadSlice | null | undefined {
    const batches = this.#batches;
    if (this.#head === batches.length || batches[this.#head]!.firstSeqNum > seqNum) return undefined;
    let low = this.#head;
    let high = batches.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (batches[middle]!.firstSeqNum <= seqNum) low = middle + 1;
      else high = middle;
    }
    const gatherer = new SliceGatherer(seqNum, limits);
    for (let i = low - 1; i < batches.length; i++) if (!gatherer.add(batches[i]!)) break;
    return gatherer.result();
  }
}
