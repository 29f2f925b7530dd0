import { sliceRecords } from './record-codec.ts';
import type { ReadLimits, ReadSlice } from './store.ts';

/** Puts consecutive batches together into one slice within the limits. A single whole batch is passed on uncopied. */
export class SliceGatherer {
  readonly #limits: ReadLimits;
  readonly #pieces: ReadSlice[] = [];
  /** The next sequence number wanted. */
  seqNum: number;
  #count = 0;
  #meteredBytes = 0;

  constructor(seqNum: number, limits: ReadLimits) {
    this.seqNum = seqNum;
    this.#limits = limits;
  }

  get recordsLeft(): number {
    return this.#limits.countMax - this.#count;
  }

  get meteredBytesLeft(): number {
    return this.#limits.meteredBytesMax - this.#meteredBytes;
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

  result(): ReadSlice | null {
    const pieces = this.#pieces;
    if (pieces.length === 0) return null;
    if (pieces.length === 1) return pieces[0]!;
    return {
      records: Buffer.concat(pieces.map((piece) => piece.records)),
      firstSeqNum: pieces[0]!.firstSeqNum,
      count: this.#count,
      meteredBytes: this.#meteredBytes,
      lastTimestamp: pieces.at(-1)!.lastTimestamp,
    };
  }
}
