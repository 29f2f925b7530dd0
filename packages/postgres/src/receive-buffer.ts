/**
 * The bytes between a socket and the code that consumes messages: one buffer that is read into and parsed in place.
 * A partial message stays where it is and the next read goes behind it; it moves to the front only when room runs out.
 * HOT PATH: once per read, nothing per message.
 */
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';

/**
 * Gets what was received and not yet consumed, returns the offset of the first byte it did not consume.
 * The bytes are valid only during the call.
 */
export type Consume = (buffer: Buffer, start: number, end: number) => number;

/** The largest message taken. Postgres builds a message in a buffer of at most 1 GB; its header is ours to add. */
export const FRAME_BYTES_MAX = 0x4000_0000 + 1024;

/** When less is free behind a partial message, it moves. */
const ROOM_BYTES_MIN = 64 * 1024;

export class ReceiveBuffer {
  consume: Consume;
  readonly #baseBytes: number;
  #buffer: Buffer;
  #start = 0;
  #end = 0;

  constructor(baseBytes: number, consume: Consume) {
    this.consume = consume;
    this.#baseBytes = baseBytes;
    this.#buffer = Buffer.allocUnsafeSlow(baseBytes);
  }

  /** Where the next read goes; never empty. */
  free(): Buffer {
    return this.#end === 0 ? this.#buffer : this.#buffer.subarray(this.#end);
  }

  /** `size` bytes were read into free(). Throws what the consumer throws, and then is of no more use. */
  received(size: number): void {
    this.#end += size;
    const start = this.consume(this.#buffer, this.#start, this.#end);
    assert(start >= this.#start && start <= this.#end, 'a consumer consumes what it was given');
    if (start === this.#end) {
      this.#start = this.#end = 0;
      // One huge message must not keep its memory for the rest of the session.
      if (this.#buffer.length > this.#baseBytes) this.#buffer = Buffer.allocUnsafeSlow(this.#baseBytes);
    } else {
      this.#start = start;
      this.#makeRoom(ROOM_BYTES_MIN);
    }
  }

  /**
   * Offers once more what the consumer left. Between reads the socket already holds the place it reads into next, so
   * nothing may move here.
   */
  redeliver(): void {
    this.#start = this.consume(this.#buffer, this.#start, this.#end);
    assert(this.#start <= this.#end, 'a consumer consumes what it was given');
  }

  /** For a socket that reads into buffers of its own (TLS). */
  receivedCopy(chunk: Buffer): void {
    this.#makeRoom(chunk.length);
    chunk.copy(this.#buffer, this.#end);
    this.received(chunk.length);
  }

  /** Leaves at least `size` bytes free behind the data, and room for the whole of a message that has begun. */
  #makeRoom(size: number): void {
    const pending = this.#end - this.#start;
    let needed = pending + size;
    if (pending >= 5) {
      const frame = 1 + this.#buffer.readUInt32BE(this.#start + 1);
      if (frame > FRAME_BYTES_MAX) {
        throw new MillraceError('pg_protocol', { detail: 'A message is larger than 1 GiB.' });
      }
      needed = Math.max(needed, frame);
    }
    if (this.#start + needed <= this.#buffer.length) return;
    if (needed <= this.#buffer.length) {
      this.#buffer.copyWithin(0, this.#start, this.#end);
    } else {
      const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.#baseBytes));
      this.#buffer.copy(grown, 0, this.#start, this.#end);
      this.#buffer = grown;
    }
    this.#start = 0;
    this.#end = pending;
  }
}
