import { LIVE } from './row-flags.ts';

/** Rows per page: a page is the unit of copying while a frozen view is held, 36 KiB in 2 microseconds. */
export const PAGE_ROWS = 512;
const PAGE_BITS = 9;

/*
 * Layout of a row, by byte offset. Numbers above 32 bits are f64 (sequence numbers and times are below 2^53) or u64.
 */
export const TAIL_SEQ = 0;
export const TAIL_TIMESTAMP = 8;
export const TRIM_POINT = 16;
export const LAST_ARRIVAL_MS = 24;
export const CREATED_AT = 32;
export const ID_LOW = 40;
export const ID_HIGH = 44;
export const FLAGS = 46;
/** Reference into the arena. In a free row: the next free slot + 1. */
export const NAME_REF = 48;
export const EXTRA_REF = 52;
/** Row + 1 in the table of the segment being written; 0: none. */
export const ACTIVE_FIRST = 56;
export const ACTIVE_LAST = 60;
export const BASIN = 64;
export const CONFIG = 68;
export const ROW_BYTES = 72;

/** The rows of PAGE_ROWS streams. Immutable once a frozen view shares it. */
export class RowPage {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView;
  /** Of the table when the page was made or copied. */
  readonly epoch: number;

  constructor(epoch: number, bytes: Uint8Array<ArrayBuffer>) {
    this.epoch = epoch;
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer);
  }
}

/** Where a row begins in its page. */
export function rowAt(slot: number): number {
  return (slot & (PAGE_ROWS - 1)) * ROW_BYTES;
}

/**
 * Fixed-size rows by slot, in pages that are copied on the first write after a freeze. HOT PATH: readable, writable.
 */
export class RowPages {
  readonly #pages: RowPage[] = [];
  #epoch = 0;
  /** Pages of this epoch and older are shared with a frozen view; -1: there is none. */
  #sharedEpoch = -1;
  readonly #held = new Set<number>();

  get length(): number {
    return this.#pages.length * PAGE_ROWS;
  }

  readable(slot: number): DataView {
    return this.#pages[slot >>> PAGE_BITS]!.view;
  }

  writable(slot: number): DataView {
    const page = this.#pages[slot >>> PAGE_BITS]!;
    return page.epoch > this.#sharedEpoch ? page.view : this.#copy(slot >>> PAGE_BITS);
  }

  /** Whether the row is a stream's: rows of purged streams are free. */
  isLive(slot: number): boolean {
    return (this.readable(slot).getUint16(rowAt(slot) + FLAGS, true) & LIVE) !== 0;
  }

  grow(): void {
    this.#pages.push(new RowPage(this.#epoch, new Uint8Array(PAGE_ROWS * ROW_BYTES)));
  }

  /** True when something of `epoch` belongs to a frozen view too and must be copied before it is changed. */
  isShared(epoch: number): boolean {
    return epoch <= this.#sharedEpoch;
  }

  get epoch(): number {
    return this.#epoch;
  }

  /** The pages as of now. Nothing in them changes until `release` is given the same epoch. */
  freeze(): { readonly pages: readonly RowPage[]; readonly epoch: number } {
    const epoch = this.#epoch++;
    this.#held.add(epoch);
    this.#sharedEpoch = epoch;
    return { pages: this.#pages.slice(), epoch };
  }

  release(epoch: number): void {
    this.#held.delete(epoch);
    this.#sharedEpoch = Math.max(-1, ...this.#held);
  }

  #copy(index: number): DataView {
    const page = new RowPage(this.#epoch, this.#pages[index]!.bytes.slice());
    this.#pages[index] = page;
    return page.view;
  }
}
