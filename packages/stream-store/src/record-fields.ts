import type { ByteWriter } from '@millrace/core/byte-writer';

/** Fields of protobuf messages: their sizes, and writing them into space that was reserved. HOT PATH. */

/** A bytes field with its one-byte tag; nothing when empty. */
export function fieldSize(size: number): number {
  return size === 0 ? 0 : 1 + varintSize(size, 0) + size;
}

export function varintSize(low: number, high: number): number {
  if (high === 0) {
    if (low < 0x80) return 1;
    if (low < 0x4000) return 2;
    if (low < 0x20_0000) return 3;
    if (low < 0x1000_0000) return 4;
    return 5;
  }
  if (high < 0x8) return 5;
  if (high < 0x400) return 6;
  if (high < 0x2_0000) return 7;
  if (high < 0x100_0000) return 8;
  if (high < 0x8000_0000) return 9;
  return 10;
}

/** Into space already reserved, as all the writes below. */
export function writeTag(out: ByteWriter, tag: number): void {
  out.buffer[out.length++] = tag;
}

export function writeVarint(out: ByteWriter, low: number, high: number): void {
  const buffer = out.buffer;
  let at = out.length;
  while (high > 0) {
    buffer[at++] = (low & 0x7f) | 0x80;
    low = ((low >>> 7) | ((high & 0x7f) << 25)) >>> 0;
    high >>>= 7;
  }
  while (low > 0x7f) {
    buffer[at++] = (low & 0x7f) | 0x80;
    low >>>= 7;
  }
  buffer[at++] = low;
  out.length = at;
}
