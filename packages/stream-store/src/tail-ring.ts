import { TAIL_RING_BLOCK_BYTES, TAIL_RING_BLOCK_BYTES_MIN, TAIL_RING_BYTES_MAX } from './limits.ts';
import { SliceGatherer } from './slice-gatherer.ts';
import type { SpanPool } from './span-pool.ts';
import type { ReadLimits, ReadSlice } from './store.ts';

/**
 * The most recent durable batches of one stream, consecutive, for its followers. Bounded by TAIL_RING_BYTES_MAX.
 *
 * Batches are copied one behind the other into blocks of memory that are used again once their batches have left the ring
 * and every slice of them was released. Fresh memory for each batch would live just long enough to survive the young
 * generation, and V8 marks the whole heap for every 64 MiB of that. HOT PATH: push and read, once per batch.
 */
export class TailRing {
  /** Store clock, of the last read or wait. */
  usedAtMs: number;
  /** Memory held. */
  bytes = 0;
  readonly #pool: SpanPool;
  // A queue in an array: `#head` moves, and the array is cut now and then.
  #batches: RingBatch[] = [];
  #head = 0;

  constructor(nowMs: number, pool: SpanPool) {
    this.usedAtMs = nowMs;
    this.#pool = pool;
  }

  /** `records` are copied, unless they are `lasting`: memory that nobody writes to any more. */
  push(batch: ReadSlice, lasting: boolean): void {
    const { records } = batch;
    const block = lasting ? new Block(records, null) : this.#room(records.length);
    if (block.batches++ === 0) this.bytes += block.bytes;
    this.#batches.push({ block, slice: lasting ? batch : { ...batch, records: block.copy(records) } });
    while (this.bytes > TAIL_RING_BYTES_MAX && this.#head < this.#batches.length) this.#drop();
    if (this.#head > 64 && this.#head * 2 > this.#batches.length) {
      this.#batches = this.#batches.slice(this.#head);
      this.#head = 0;
    }
  }

  /** undefined: the ring does not reach back to `seqNum`; null: nothing fits the limits. */
  read(seqNum: number, limits: ReadLimits): ReadSlice | null | undefined {
    const batches = this.#batches;
    if (this.#head === batches.length || batches[this.#head]!.slice.firstSeqNum > seqNum) return undefined;
    let low = this.#head;
    let high = batches.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (batches[middle]!.slice.firstSeqNum <= seqNum) low = middle + 1;
      else high = middle;
    }
    const gatherer = new SliceGatherer(seqNum, limits, this.#pool);
    const { block } = batches[low - 1]!;
    for (let i = low - 1; i < batches.length; i++) if (!gatherer.add(batches[i]!.slice)) break;
    const slice = gatherer.result();
    if (slice === null || slice.records.buffer !== block.memory.buffer) return slice;
    return { ...slice, release: block.lend() };
  }

  /** Gives back the memory; the ring is not used any more. */
  clear(): void {
    while (this.#head < this.#batches.length) this.#drop();
  }

  #room(size: number): Block {
    const last = this.#batches.at(-1)?.block;
    if (last?.fits(size)) return last;
    // In proportion to what the ring holds: most streams are small.
    let wanted = TAIL_RING_BLOCK_BYTES_MIN;
    while (wanted < TAIL_RING_BLOCK_BYTES && wanted < this.bytes / 4) wanted *= 2;
    return new Block(this.#pool.take(Math.max(size, wanted)), this.#pool);
  }

  #drop(): void {
    const { block } = this.#batches[this.#head]!;
    // What is behind the head may be looked at by nobody: its memory may be in use again.
    this.#batches[this.#head++] = GONE;
    if (--block.batches > 0) return;
    this.bytes -= block.bytes;
    block.left();
  }
}

interface RingBatch {
  readonly block: Block;
  readonly slice: ReadSlice;
}

/** Memory for consecutive batches. It is given back when they have left the ring and nobody reads them. */
class Block {
  readonly memory: Uint8Array;
  /** In the ring. */
  batches = 0;
  readonly #pool: SpanPool | null;
  #used = 0;
  #readers = 0;
  #gone = false;

  constructor(memory: Uint8Array, pool: SpanPool | null) {
    this.memory = memory;
    this.#pool = pool;
  }

  /** What it takes of the memory of this process. */
  get bytes(): number {
    return this.#pool === null ? this.memory.length : this.memory.buffer.byteLength;
  }

  fits(size: number): boolean {
    return this.#pool !== null && this.memory.length - this.#used >= size;
  }

  copy(records: Uint8Array): Uint8Array {
    const at = this.#used;
    this.memory.set(records, at);
    this.#used += records.length;
    return this.memory.subarray(at, this.#used);
  }

  /** For a reader, who calls what this returns when done. */
  lend(): (() => void) | undefined {
    if (this.#pool === null) return undefined;
    this.#readers++;
    let lent = true;
    return () => {
      if (!lent) return;
      lent = false;
      this.#readers--;
      this.#giveBack();
    };
  }

  left(): void {
    this.#gone = true;
    this.#giveBack();
  }

  #giveBack(): void {
    if (this.#gone && this.#readers === 0) this.#pool?.give(this.memory as Buffer);
  }
}

const GONE: RingBatch = {
  block: new Block(new Uint8Array(0), null),
  slice: { records: new Uint8Array(0), firstSeqNum: -1, count: 0, meteredBytes: 0, lastTimestamp: 0n },
};
