import { assert } from './assert.ts';

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

  /** Copies source[start, end). A loop beats Buffer.copy below some tens of bytes. */
  copy(source: Uint8Array, start: number, end: number): void {
    const size = end - start;
    this.reserve(size);
    const target = this.buffer;
    let at = this.length;
    if (size < 48) {
      for (let i = start; i < end; i++) target[at++] = source[i]!;
      this.length = at;
    } else {
      target.set(start === 0 && end === source.length ? source : source.subarray(start, end), at);
      this.length = at + size;
    }
  }

  bytes(source: Uint8Array): void {
    this.copy(source, 0, source.length);
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
