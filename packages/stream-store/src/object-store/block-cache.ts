import { BLOCK_BYTES, BLOCK_CACHE_BYTES_MAX, PART_BYTES, READ_AHEAD_BLOCKS } from './limits.ts';

/** Where blocks come from: bytes [offset, offset + length) of a part of a file. null: it is not there any more. */
export type FetchBlock = (file: number, part: number, offset: number, length: number) => Promise<Buffer | null>;

const BLOCKS_PER_PART = PART_BYTES / BLOCK_BYTES;

/**
 * Blocks of remote files in memory, the least recently used leaving first. A reader that comes to the block after the
 * last one it had finds the next ones on their way.
 */
export class BlockCache {
  readonly #fetch: FetchBlock;
  readonly #blocks = new Map<string, Promise<Buffer | null>>();
  readonly #bytesMax: number;
  #bytes = 0;
  /** Per file the block that was read last, to see that somebody reads on. */
  readonly #last = new Map<number, number>();
  hits = 0;
  misses = 0;

  constructor(fetch: FetchBlock, bytesMax = BLOCK_CACHE_BYTES_MAX) {
    this.#fetch = fetch;
    this.#bytesMax = bytesMax;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Fills `target` from `position` of a file of `fileBytes`. False: it is not there, or ends before. */
  async read(file: number, fileBytes: number, target: Uint8Array, position: number): Promise<boolean> {
    const end = position + target.length;
    if (end > fileBytes) return false;
    const first = Math.floor(position / BLOCK_BYTES);
    const last = Math.max(first, Math.ceil(end / BLOCK_BYTES) - 1);
    const wanted: Promise<Buffer | null>[] = [];
    for (let block = first; block <= last; block++) wanted.push(this.#take(file, fileBytes, block));
    const before = this.#last.get(file);
    this.#last.set(file, last);
    if (before !== undefined && before <= first && first <= before + 1) {
      for (let block = last + 1; block <= last + READ_AHEAD_BLOCKS && block * BLOCK_BYTES < fileBytes; block++) {
        void this.#take(file, fileBytes, block);
      }
    }
    for (let block = first; block <= last; block++) {
      const bytes = await wanted[block - first]!;
      if (bytes === null) return false;
      const from = block * BLOCK_BYTES;
      const start = Math.max(position, from);
      target.set(bytes.subarray(start - from, Math.min(end, from + bytes.length) - from), start - position);
    }
    return true;
  }

  drop(file: number): void {
    this.#last.delete(file);
    for (const key of [...this.#blocks.keys()]) if (key.startsWith(`${file}:`)) this.#forget(key);
  }

  #take(file: number, fileBytes: number, block: number): Promise<Buffer | null> {
    const key = `${file}:${block}`;
    const known = this.#blocks.get(key);
    if (known !== undefined) {
      this.hits++;
      this.#blocks.delete(key);
      this.#blocks.set(key, known);
      return known;
    }
    this.misses++;
    const length = Math.min(BLOCK_BYTES, fileBytes - block * BLOCK_BYTES);
    const offset = (block % BLOCKS_PER_PART) * BLOCK_BYTES;
    const fetching = this.#fetch(file, Math.floor(block / BLOCKS_PER_PART), offset, length);
    this.#blocks.set(key, fetching);
    this.#bytes += BLOCK_BYTES;
    // A failure is for those who wait; the next reader asks again.
    fetching.then(
      (bytes) => bytes === null && this.#forgetIf(key, fetching),
      () => this.#forgetIf(key, fetching),
    );
    while (this.#bytes > this.#bytesMax && this.#blocks.size > 1) this.#forget(this.#blocks.keys().next().value!);
    return fetching;
  }

  #forgetIf(key: string, fetching: Promise<Buffer | null>): void {
    if (this.#blocks.get(key) === fetching) this.#forget(key);
  }

  #forget(key: string): void {
    if (this.#blocks.delete(key)) this.#bytes -= BLOCK_BYTES;
  }
}
