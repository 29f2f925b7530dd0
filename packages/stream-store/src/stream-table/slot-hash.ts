import { assert } from '@millrace/core/assert';

const SHARDS = 256;
const CAPACITY_MIN = 8;

/**
 * Slots by a 32-bit hash; the caller compares what lies behind a slot. Open addressing in 256 shards of (hash, slot + 1)
 * pairs, each of which grows by itself and by half: a million entries are 13 MB, and no growth ever stops the process
 * for more than one shard. HOT PATH: find.
 */
export class SlotHash {
  readonly #shards: Uint32Array[] = [];
  readonly #sizes = new Uint32Array(SHARDS);
  size = 0;
  /** Of the last find: where it stopped. */
  #shard = 0;
  #at = 0;

  constructor() {
    for (let i = 0; i < SHARDS; i++) this.#shards.push(new Uint32Array(CAPACITY_MIN * 2));
  }

  get byteLength(): number {
    let bytes = 0;
    for (const shard of this.#shards) bytes += shard.byteLength;
    return bytes;
  }

  /** The first slot with this hash, or -1. Go on with findNext while it is not the one. */
  find(hash: number): number {
    const shard = this.#shards[hash >>> 24]!;
    this.#shard = hash >>> 24;
    this.#at = home(hash, shard.length >>> 1);
    return this.#seek(hash, shard);
  }

  /** The next slot with the hash of the last find, or -1. Nothing may have changed in between. */
  findNext(hash: number): number {
    const shard = this.#shards[this.#shard]!;
    this.#at = this.#at + 1 === shard.length >>> 1 ? 0 : this.#at + 1;
    return this.#seek(hash, shard);
  }

  #seek(hash: number, shard: Uint32Array): number {
    const capacity = shard.length >>> 1;
    let at = this.#at;
    for (;;) {
      const slot = shard[at * 2 + 1]!;
      if (slot === 0) return -1;
      if (shard[at * 2] === hash) {
        this.#at = at;
        return slot - 1;
      }
      if (++at === capacity) at = 0;
    }
  }

  insert(hash: number, slot: number): void {
    const index = hash >>> 24;
    let shard = this.#shards[index]!;
    if ((this.#sizes[index]! + 1) * 4 > (shard.length >>> 1) * 3) shard = this.#grow(index);
    place(shard, hash, slot + 1);
    this.#sizes[index]!++;
    this.size++;
  }

  remove(hash: number, slot: number): void {
    const index = hash >>> 24;
    const shard = this.#shards[index]!;
    const capacity = shard.length >>> 1;
    let at = home(hash, capacity);
    while (shard[at * 2 + 1] !== slot + 1) {
      assert(shard[at * 2 + 1] !== 0, 'a slot that is removed was inserted');
      if (++at === capacity) at = 0;
    }
    // What comes behind moves up unless it would land before its home: no tombstones, so look-ups stay short.
    for (let next = at; ; ) {
      if (++next === capacity) next = 0;
      const moved = shard[next * 2 + 1]!;
      if (moved === 0) break;
      const from = home(shard[next * 2]!, capacity);
      const stays = at <= next ? from > at && from <= next : from > at || from <= next;
      if (stays) continue;
      shard[at * 2] = shard[next * 2]!;
      shard[at * 2 + 1] = moved;
      at = next;
    }
    shard[at * 2 + 1] = 0;
    this.#sizes[index]!--;
    this.size--;
  }

  #grow(index: number): Uint32Array {
    const from = this.#shards[index]!;
    const capacity = from.length >>> 1;
    const to = new Uint32Array((capacity + Math.max(CAPACITY_MIN, capacity >>> 1)) * 2);
    for (let at = 0; at < capacity; at++) if (from[at * 2 + 1] !== 0) place(to, from[at * 2]!, from[at * 2 + 1]!);
    this.#shards[index] = to;
    return to;
  }
}

function place(shard: Uint32Array, hash: number, value: number): void {
  const capacity = shard.length >>> 1;
  let at = home(hash, capacity);
  while (shard[at * 2 + 1] !== 0) if (++at === capacity) at = 0;
  shard[at * 2] = hash;
  shard[at * 2 + 1] = value;
}

/** The shard is chosen by the upper 8 bits, so the place by the lower 24, scaled: a capacity need not be a power of 2. */
function home(hash: number, capacity: number): number {
  return Math.floor(((hash & 0xff_ffff) * capacity) / 0x100_0000);
}
