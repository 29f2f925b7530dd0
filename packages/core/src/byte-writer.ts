import { assert } from './assert.ts';

/** Takes any Uint8Array as its source. */
const copyBytes = Buffer.prototype.copy;

/**
 * A growing buffer to write bytes into. HOT PATH: callers reserve once for many small writes and then write through
 * `buffer` and `length` directly.
 */
export class ByteWriter {
  buffer: Buffer;
  length = 0;

  constructor(capacity = 64 * 1024) {
    // allocUnsafeSlow: never a slice of Node's shared pool, so the bytes can be handed on without pinning a neighbour.
    this.buffer = Buffer.allocUnsafeSlow(capacity);
  }

  /** Makes room for `size` more bytes. Invalidates references to `buffer` taken before. */
  reserve(size: number): void {
    const needed = this.length + size;
    if (needed <= this.buffer.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.buffer.length * 2));
    this.buffer.copy(grown, 0, 0, this.length);
    this.buffer = grown;
  }

  u8(value: number): void {
    this.reserve(1);
    this.buffer[this.length++] = value;
  }

  u32(value: number): void {
    this.reserve(4);
    this.buffer.writeUInt32BE(value, this.length);
    this.length += 4;
  }

  u64(value: bigint): void {
    this.reserve(8);
    this.buffer.writeBigUInt64BE(value, this.length);
    this.length += 8;
  }

  /** Copies source[start, end). Measured on Node 24: a loop wins below 24 bytes, Buffer.copy over a view above. */
  copy(source: Uint8Array, start: number, end: number): void {
    const size = end - start;
    this.reserve(size);
    const at = this.length;
    this.length = at + size;
    if (size < 24) {
      const target = this.buffer;
      for (let i = 0; i < size; i++) target[at + i] = source[start + i]!;
    } else copyBytes.call(source as Buffer, this.buffer, at, start, end);
  }

  /** A whole array: the cheapest copy there is, a few nanoseconds whatever its size. */
  bytes(source: Uint8Array): void {
    this.reserve(source.length);
    this.buffer.set(source, this.length);
    this.length += source.length;
  }

  /** ASCII text only. */
  ascii(text: string): void {
    this.reserve(text.length);
    this.buffer.write(text, this.length, 'latin1');
    this.length += text.length;
  }

  /** A view of what was written. It must not be used after the next write. */
  view(): Buffer {
    return this.buffer.subarray(0, this.length);
  }

  /** Hands over what was written and starts anew with an empty buffer of `capacity`. */
  take(capacity = this.buffer.length): Buffer {
    const taken = this.view();
    this.buffer = Buffer.allocUnsafeSlow(capacity);
    this.length = 0;
    return taken;
  }

  rewind(length: number): void {
    assert(length >= 0 && length <= this.length, 'a writer rewinds to a length it had');
    this.length = length;
  }
}
