import { READ_FRAME_BYTES, READ_MEMORY_BYTES_MAX, READ_SLICE_BYTES } from './limits.ts';

/**
 * What is being read for the sessions of a server, or was given to them and not yet taken, of all of them together.
 * Beyond the bound everybody gets a frame at a time instead of a megabyte, so that thousands of readers that stand still
 * cost little each; one that keeps up is hardly slower.
 */
export class ReadMemory {
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(bytesMax = READ_MEMORY_BYTES_MAX) {
    this.#bytesMax = bytesMax;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** How much to ask of the store, counted from now on; `isLarge`: as much as a record can have, all the same. */
  reserve(isLarge: boolean): number {
    const bytes = isLarge || this.#bytes + READ_SLICE_BYTES <= this.#bytesMax ? READ_SLICE_BYTES : READ_FRAME_BYTES;
    this.#bytes += bytes;
    return bytes;
  }

  /** What was reserved turned out to be as much. Returns it. */
  settle(reserved: number, bytes: number): number {
    this.#bytes += bytes - reserved;
    return bytes;
  }

  release(bytes: number): void {
    this.#bytes -= bytes;
  }
}
