/** How much to read at once, and how soon again. */
import type { RowChunk } from './row-chunk.ts';

/** A query that takes longer holds back vacuum, and is lost work when its chunk has to be read again. */
export const CHUNK_TARGET_MS = 200;
/** A chunk is kept in memory until it is delivered. */
export const CHUNK_BYTES_TARGET = 4 << 20;
export const CHUNK_ROWS_MAX = 50_000;
export const CHUNK_ROWS_FIRST = 4_000;
const CHUNK_PAGES_FIRST = 64;
const CHUNK_PAGES_MAX = 16_384;

/** Steers the size of a table's chunks towards a reading time, within the memory a chunk may take. */
export class ChunkSize {
  rows = CHUNK_ROWS_FIRST;
  pages = CHUNK_PAGES_FIRST;
  readonly #rowsMax: number;

  /** `rowsPerSecondMax`: a chunk is no more than a second of it. */
  constructor(rowsPerSecondMax: number | null) {
    this.#rowsMax = Math.max(1, Math.min(CHUNK_ROWS_MAX, rowsPerSecondMax ?? CHUNK_ROWS_MAX));
    this.rows = Math.min(this.rows, this.#rowsMax);
  }

  /** After a chunk that was read in `tookMs`, over `pages` pages where it was read by page. */
  read(chunk: RowChunk, tookMs: number, pages: number | null): void {
    const { count, length } = chunk;
    const faster = tookMs < CHUNK_TARGET_MS / 2 ? 2 : tookMs > CHUNK_TARGET_MS * 2 ? 0.5 : 1;
    const rowBytes = count === 0 ? 1 : length / count;
    const rows = Math.min(this.rows * faster, CHUNK_BYTES_TARGET / rowBytes);
    if (pages === null) {
      this.rows = clamp(rows, this.#rowsMax);
      return;
    }
    // By page, the number of rows is but a guard against pages that are fuller than those before.
    const rowsPerPage = Math.max(count / pages, 0.01);
    const byBytes = CHUNK_BYTES_TARGET / rowBytes / rowsPerPage;
    this.pages = clamp(Math.min(this.pages * faster, byBytes, this.#rowsMax / rowsPerPage), CHUNK_PAGES_MAX);
    this.rows = clamp(Math.max((CHUNK_BYTES_TARGET / rowBytes) * 2, CHUNK_ROWS_FIRST), this.#rowsMax);
  }

  /** The chunk could not be decided: the shorter it is under way, the likelier the next one can. */
  halve(): void {
    this.rows = clamp(this.rows / 2, this.#rowsMax);
    this.pages = clamp(this.pages / 2, CHUNK_PAGES_MAX);
  }
}

function clamp(value: number, max: number): number {
  return Math.round(Math.min(max, Math.max(1, value)));
}

/** Rows per second, over all readers of a source: a bucket of one second. */
export class RateLimit {
  readonly #perSecond: number | null;
  #freeAt = 0;

  constructor(perSecond: number | null) {
    this.#perSecond = perSecond;
  }

  /** Rows that are about to be read; at most a second of them, for it is a guess. Returns what was counted. */
  reserve(rows: number, now: number): number {
    if (this.#perSecond === null) return 0;
    const counted = Math.min(rows, this.#perSecond);
    this.taken(counted, now);
    return counted;
  }

  /** Negative where more was reserved. */
  taken(rows: number, now: number): void {
    if (this.#perSecond === null) return;
    this.#freeAt = Math.max(this.#freeAt, now) + (rows * 1000) / this.#perSecond;
  }

  /** Milliseconds until the next chunk may be read. */
  waitMs(now: number): number {
    return Math.max(0, this.#freeAt - now);
  }
}
