/**
 * Where batches lie in one segment, by columns: a quarter of a million small batches fit into a 64 MiB segment, and as
 * objects they would weigh more than the segment itself. HOT PATH: push, once per append.
 */
export class BatchTable {
  length = 0;
  firstSeq: Float64Array;
  arrivalMs: Float64Array;
  /** Of the last record; timestamps ascend, so it is the largest. */
  timestamp: BigUint64Array;
  count: Uint32Array;
  meteredBytes: Uint32Array;
  /** Of the journal entry's header. */
  offset: Uint32Array;
  payloadBytes: Uint32Array;
  /** While the segment is being written: the stream's slot, and its row before this one + 1 (0: none). */
  slot: Uint32Array;
  previous: Uint32Array;

  constructor(capacity: number) {
    this.firstSeq = new Float64Array(capacity);
    this.arrivalMs = new Float64Array(capacity);
    this.timestamp = new BigUint64Array(capacity);
    this.count = new Uint32Array(capacity);
    this.meteredBytes = new Uint32Array(capacity);
    this.offset = new Uint32Array(capacity);
    this.payloadBytes = new Uint32Array(capacity);
    this.slot = new Uint32Array(capacity);
    this.previous = new Uint32Array(capacity);
  }

  /** Returns the row. */
  push(
    firstSeq: number,
    count: number,
    timestamp: bigint,
    arrivalMs: number,
    meteredBytes: number,
    offset: number,
    payloadBytes: number,
    slot = 0,
    previousRow = -1,
  ): number {
    const row = this.length;
    if (row === this.firstSeq.length) this.#grow();
    this.firstSeq[row] = firstSeq;
    this.arrivalMs[row] = arrivalMs;
    this.timestamp[row] = timestamp;
    this.count[row] = count;
    this.meteredBytes[row] = meteredBytes;
    this.offset[row] = offset;
    this.payloadBytes[row] = payloadBytes;
    this.slot[row] = slot;
    this.previous[row] = previousRow + 1;
    this.length = row + 1;
    return row;
  }

  #grow(): void {
    const capacity = Math.max(64, this.firstSeq.length * 2);
    this.firstSeq = grown(this.firstSeq, new Float64Array(capacity));
    this.arrivalMs = grown(this.arrivalMs, new Float64Array(capacity));
    const timestamp = new BigUint64Array(capacity);
    timestamp.set(this.timestamp);
    this.timestamp = timestamp;
    this.count = grown(this.count, new Uint32Array(capacity));
    this.meteredBytes = grown(this.meteredBytes, new Uint32Array(capacity));
    this.offset = grown(this.offset, new Uint32Array(capacity));
    this.payloadBytes = grown(this.payloadBytes, new Uint32Array(capacity));
    this.slot = grown(this.slot, new Uint32Array(capacity));
    this.previous = grown(this.previous, new Uint32Array(capacity));
  }
}

function grown<T extends Float64Array | Uint32Array>(from: T, to: T): T {
  to.set(from);
  return to;
}

/** The batches of one stream in one segment, in order. */
export class BatchRun {
  readonly segment: number;
  readonly table: BatchTable;
  readonly length: number;
  /** Rows of the table, or null when they are consecutive from `#start`. */
  readonly #rows: readonly number[] | null;
  readonly #start: number;

  constructor(segment: number, table: BatchTable, rows: readonly number[] | null, start: number, length: number) {
    this.segment = segment;
    this.table = table;
    this.#rows = rows;
    this.#start = start;
    this.length = length;
  }

  row(index: number): number {
    return this.#rows === null ? this.#start + index : this.#rows[index]!;
  }

  /** Index of the batch that holds `seqNum`, which must not be before the first batch. */
  find(seqNum: number): number {
    const firstSeq = this.table.firstSeq;
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (firstSeq[this.row(middle)]! <= seqNum) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }

  /** Index of the first batch written after `timeMs`; `length` when there is none. */
  firstArrivedAfter(timeMs: number): number {
    const arrivalMs = this.table.arrivalMs;
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (arrivalMs[this.row(middle)]! <= timeMs) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Index of the first batch whose last timestamp is at or above; `length` when there is none. */
  firstReaching(timestamp: bigint): number {
    const timestamps = this.table.timestamp;
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (timestamps[this.row(middle)]! < timestamp) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
