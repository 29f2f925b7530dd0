/**
 * 64-bit hashes of values, for comparing them without keeping them. HOT PATH.
 * Two 32-bit lanes that mix into each other: JavaScript multiplies 32 bits without allocating, 64 it does not. Not for
 * secrets and not against an adversary: two different values of one column pass as equal once in 2^64 comparisons.
 */
import type { ByteWriter } from '@millrace/core/byte-writer';

export const HASH_BYTES = 8;

/** Appends the hash of bytes[start, end), never eight zero bytes: those stand for "not known". */
export function writeHash(out: ByteWriter, bytes: Uint8Array, start: number, end: number): void {
  const size = end - start;
  let a = 0x9747b28c ^ size;
  let b = 0x1b873593 + Math.imul(size, 0x85ebca6b);
  let at = start;
  const whole = end - (size & 3);
  for (; at < whole; at += 4) {
    const word = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
    let k = Math.imul(word, 0xcc9e2d51);
    k = (k << 15) | (k >>> 17);
    a ^= Math.imul(k, 0x1b873593);
    a = ((a << 13) | (a >>> 19)) + b;
    a = Math.imul(a, 5) + 0xe6546b64;
    k = Math.imul(word, 0x239b961b);
    k = (k << 17) | (k >>> 15);
    b ^= Math.imul(k, 0x38b34ae5);
    b = ((b << 11) | (b >>> 21)) + a;
    b = Math.imul(b, 5) + 0x561ccd1b;
  }
  let rest = 0;
  for (let shift = 0; at < end; at++, shift += 8) rest |= bytes[at]! << shift;
  a ^= Math.imul(rest, 0xcc9e2d51);
  b ^= Math.imul(rest, 0x239b961b);
  a = finish(a + b);
  b = finish(b + a);
  a = (a + b) | 0;
  if ((a | b) === 0) b = 1;
  out.reserve(HASH_BYTES);
  const target = out.buffer;
  const to = out.length;
  out.length = to + HASH_BYTES;
  target[to] = a;
  target[to + 1] = a >>> 8;
  target[to + 2] = a >>> 16;
  target[to + 3] = a >>> 24;
  target[to + 4] = b;
  target[to + 5] = b >>> 8;
  target[to + 6] = b >>> 16;
  target[to + 7] = b >>> 24;
}

export function writeUnknownHash(out: ByteWriter): void {
  out.reserve(HASH_BYTES);
  out.buffer.fill(0, out.length, out.length + HASH_BYTES);
  out.length += HASH_BYTES;
}

export function isUnknownHash(hashes: Uint8Array, index: number): boolean {
  const at = index * HASH_BYTES;
  for (let i = at; i < at + HASH_BYTES; i++) if (hashes[i] !== 0) return false;
  return true;
}

/** The last step of MurmurHash3: every bit of the input reaches every bit of the result. */
function finish(value: number): number {
  let h = value;
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return h ^ (h >>> 16);
}
