/** A set of row ids: one bit each, in blocks that are made where ids are marked, so that gaps in the ids cost nothing. */
const BLOCK_BITS = 1 << 16;

export class MarkedRows {
  readonly #blocks = new Map<number, Uint8Array>();

  mark(id: number): void {
    const block = Math.floor(id / BLOCK_BITS);
    let bits = this.#blocks.get(block);
    if (bits === undefined) {
      bits = new Uint8Array(BLOCK_BITS >> 3);
      this.#blocks.set(block, bits);
    }
    const bit = id % BLOCK_BITS;
    bits[bit >> 3]! |= 1 << (bit & 7);
  }

  has(id: number): boolean {
    const bits = this.#blocks.get(Math.floor(id / BLOCK_BITS));
    const bit = id % BLOCK_BITS;
    return bits !== undefined && (bits[bit >> 3]! & (1 << (bit & 7))) !== 0;
  }
}
