import { assert } from '@millrace/core/assert';
import { SPAN_POOL_BYTES_MAX } from './limits.ts';

/** Sizes are powers of two, so that spans of about the same length share buffers. */
const SPAN_BYTES_MIN = 64 * 1024;
const SPAN_BYTES_MAX = 8 * 1_048_576;

/**
 * Memory that segments are read into. Fresh memory costs a page fault every 4 KiB, which took longer than the read
 * itself: a reader that gives back what it has dealt with reads into pages that are there. HOT PATH: once per read.
 */
export class SpanPool {
  readonly #free = new Map<number, Buffer[]>();
  #freeBytes = 0;

  /** `size` bytes with arbitrary content, at the start of a buffer that may be given back. */
  take(size: number): Buffer {
    if (size < SPAN_BYTES_MIN || size > SPAN_BYTES_MAX) return Buffer.allocUnsafeSlow(size);
    const bytes = classOf(size);
    const buffer = this.#free.get(bytes)?.pop();
    if (buffer === undefined) return Buffer.allocUnsafeSlow(bytes).subarray(0, size);
    this.#freeBytes -= bytes;
    return buffer.subarray(0, size);
  }

  /** Once nobody looks at any part of it any more. Optional: what is not given back is collected like anything else. */
  give(span: Buffer): void {
    const bytes = span.buffer.byteLength;
    if (bytes < SPAN_BYTES_MIN || bytes > SPAN_BYTES_MAX || this.#freeBytes + bytes > SPAN_POOL_BYTES_MAX) return;
    assert(span.byteOffset === 0 && bytes === classOf(bytes), 'a span that is given back was taken here');
    const whole = Buffer.from(span.buffer);
    const free = this.#free.get(bytes);
    if (free === undefined) this.#free.set(bytes, [whole]);
    else free.push(whole);
    this.#freeBytes += bytes;
  }
}

function classOf(size: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(size, SPAN_BYTES_MIN)));
}
