/**
 * HalfSipHash-1-3: names come from clients, so the hash has a secret key, or somebody could choose names that all fall
 * into one place. HOT PATH: once per stream opened by name.
 */
export class NameHash {
  readonly #k0: number;
  readonly #k1: number;

  constructor(key: Uint32Array) {
    this.#k0 = key[0]! | 0;
    this.#k1 = key[1]! | 0;
  }

  /** Of `salt` followed by bytes[start, end). Unsigned. */
  of(salt: number, bytes: Uint8Array, start: number, end: number): number {
    let v0 = this.#k0;
    let v1 = this.#k1;
    let v2 = 0x6c796765 ^ this.#k0;
    let v3 = 0x74656462 ^ this.#k1;
    const whole = end - ((end - start) & 3);
    // The words: the salt, the name by fours, the rest of it with the length; then three rounds to finish.
    for (let at = start - 4, rounds = 0; rounds < 3; ) {
      let word = 0;
      if (at < start) word = salt;
      else if (at < whole) {
        word = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
      } else if (at === whole) {
        word = (end - start) << 24;
        for (let i = whole, shift = 0; i < end; i++, shift += 8) word |= bytes[i]! << shift;
      } else {
        if (rounds === 0) v2 ^= 0xff;
        rounds++;
      }
      at += 4;
      v3 ^= word;
      v0 = (v0 + v1) | 0;
      v1 = (v1 << 5) | (v1 >>> 27);
      v1 ^= v0;
      v0 = (v0 << 16) | (v0 >>> 16);
      v2 = (v2 + v3) | 0;
      v3 = (v3 << 8) | (v3 >>> 24);
      v3 ^= v2;
      v0 = (v0 + v3) | 0;
      v3 = (v3 << 7) | (v3 >>> 25);
      v3 ^= v0;
      v2 = (v2 + v1) | 0;
      v1 = (v1 << 13) | (v1 >>> 19);
      v1 ^= v2;
      v2 = (v2 << 16) | (v2 >>> 16);
      v0 ^= word;
    }
    return (v1 ^ v3) >>> 0;
  }
}

/** Of a stream id. Ids are ours, nobody chooses them; below 2^32 no two have the same hash. */
export function hashId(id: number): number {
  let h = (id >>> 0) ^ Math.imul(Math.floor(id / 4_294_967_296), 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
