import { sliceRecords } from './record-slice.ts';
import type { SpanPool } from './span-pool.ts';
import type { ReadLimits, ReadSlice } from './store.ts';

/** Puts consecutive batches together into one slice within the limits. Batches that lie next to one another are passed on
 * uncopied. */
export class SliceGatherer {
  readonly #limits: ReadLimits;
  readonly #pool: SpanPool | null;
  readonly #pieces: ReadSlice[] = [];
  readonly #spans: Buffer[] = [];
  /** The next sequence number wanted. */
  seqNum: number;
  #count = 0;
  #meteredBytes = 0;

  /** `pool`: where batches are read into (see `span`); none for batches that stay where they are. */
  constructor(seqNum: number, limits: ReadLimits, pool: SpanPool | null = null) {
    this.seqNum = seqNum;
    this.#limits = limits;
    this.#pool = pool;
  }

  get recordsLeft(): number {
    return this.#limits.countMax - this.#count;
  }

  get meteredBytesLeft(): number {
    return this.#limits.meteredBytesMax - this.#meteredBytes;
  }

  /** Memory to read batches into that are added next. It is given back with the slice. */
  span(size: number): Buffer {
    const span = this.#pool!.take(size);
    this.#spans.push(span);
    return span;
  }

  /** Adds what fits of a batch that holds `seqNum`. False when the slice is complete. */
  add(batch: ReadSlice): boolean {
    const { untilTimestamp } = this.#limits;
    const whole =
      batch.firstSeqNum === this.seqNum &&
      batch.count <= this.recordsLeft &&
      batch.meteredBytes <= this.meteredBytesLeft &&
      (untilTimestamp === undefined || batch.lastTimestamp < untilTimestamp);
    const piece = whole
      ? batch
      : sliceRecords(batch.records, this.seqNum, {
          countMax: this.recordsLeft,
          meteredBytesMax: this.meteredBytesLeft,
          untilTimestamp,
        });
    if (piece === null) return false;
    this.#pieces.push(piece);
    this.#count += piece.count;
    this.#meteredBytes += piece.meteredBytes;
    this.seqNum = piece.firstSeqNum + piece.count;
    return this.seqNum === batch.firstSeqNum + batch.count && this.recordsLeft > 0;
  }

  /** Called once. */
  result(): ReadSlice | null {
    const pieces = this.#pieces;
    const pool = this.#pool;
    if (pieces.length === 0) {
      this.#giveBack();
      return null;
    }
    const [{ records, firstSeqNum, count, meteredBytes, lastTimestamp }] = pieces as [ReadSlice];
    if (pieces.length === 1) {
      const release = this.#spans.length === 0 ? undefined : () => this.#giveBack();
      return { records, firstSeqNum, count, meteredBytes, lastTimestamp, release };
    }
    const all = {
      firstSeqNum,
      count: this.#count,
      meteredBytes: this.#meteredBytes,
      lastTimestamp: pieces.at(-1)!.lastTimestamp,
    };
    let size = 0;
    let adjacent = true;
    for (const piece of pieces) {
      adjacent &&= piece.records.buffer === records.buffer && piece.records.byteOffset === records.byteOffset + size;
      size += piece.records.length;
    }
    if (adjacent) {
      const release = this.#spans.length === 0 ? undefined : () => this.#giveBack();
      return { records: new Uint8Array(records.buffer, records.byteOffset, size), ...all, release };
    }
    const joined = pool === null ? Buffer.allocUnsafe(size) : pool.take(size);
    let at = 0;
    for (const piece of pieces) {
      joined.set(piece.records, at);
      at += piece.records.length;
    }
    this.#giveBack();
    return { records: joined, ...all, release: pool === null ? undefined : () => pool.give(joined) };
  }

  #giveBack(): void {
    for (const span of this.#spans.splice(0)) this.#pool!.give(span);
  }
}
