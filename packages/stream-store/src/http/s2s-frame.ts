import { assert } from '@millrace/core/assert';
import { FRAME_BYTES_MAX } from '../limits.ts';
import { S2Error } from '../s2-error.ts';

/**
 * S2S framing. HOT PATH.
 *
 *   0..2  length, 24-bit big-endian: flag byte + payload, not itself; 1 to 2 MiB
 *   3     flag: 0x80 terminal | 0x60 compression (00 none, 20 zstd, 40 gzip) | 0x10 reconnect advised | rest reserved
 *   4..   payload; of a terminal frame: HTTP status as u16 big-endian, then the JSON error body
 */
export const FRAME_HEAD_BYTES = 4;

export const FLAG_TERMINAL = 0x80;
export const FLAG_RECONNECT = 0x10;
export const FLAG_COMPRESSION = 0x60;
export const COMPRESSION_NONE = 0x00;
export const COMPRESSION_ZSTD = 0x20;
export const COMPRESSION_GZIP = 0x40;

/** Below it a frame that straddles chunks is put together in a buffer of its own, above it in one from the pool. */
const SMALL_FRAME_BYTES = 64 * 1024;
const POOLED_BUFFERS_MAX = 8;
const POOLED_BUFFER_BYTES = FRAME_BYTES_MAX + FRAME_HEAD_BYTES;

/** Large buffers shared by the sessions of a server: idle sessions hold none, and busy ones do not wear out the heap. */
export class FrameBufferPool {
  readonly #free: Buffer[] = [];

  /** At least `bytes` long; contents arbitrary. */
  take(bytes: number): Buffer {
    if (bytes <= SMALL_FRAME_BYTES || bytes > POOLED_BUFFER_BYTES) return Buffer.allocUnsafeSlow(bytes);
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(POOLED_BUFFER_BYTES);
  }

  /** Once nobody looks at it any more. */
  give(buffer: Buffer): void {
    if (buffer.length === POOLED_BUFFER_BYTES && this.#free.length < POOLED_BUFFERS_MAX) this.#free.push(buffer);
  }
}

/**
 * Cuts a byte stream into frames. `push` a chunk, then call `next` until it says false; `flag` and `payload` are the
 * frame's. A payload is a view that holds until the next `next` or `push`: chunks that contain whole frames are not
 * copied.
 */
export class FrameDecoder {
  flag = 0;
  payload: Buffer = EMPTY;
  readonly #pool: FrameBufferPool;
  /** The chunk being cut, from #at on. */
  #chunk: Buffer = EMPTY;
  #at = 0;
  /** The frame being put together from several chunks, if any: #held of its #wanted bytes are there. */
  #assembly: Buffer | null = null;
  #held = 0;
  #wanted = 0;
  /** The assembly buffer of the frame handed out last. */
  #lent: Buffer | null = null;

  constructor(pool: FrameBufferPool) {
    this.#pool = pool;
  }

  /** True when bytes of an incomplete frame are waiting. */
  get partial(): boolean {
    return this.#assembly !== null || this.#at < this.#chunk.length;
  }

  push(chunk: Buffer): void {
    assert(this.#at === this.#chunk.length, 'a frame decoder gets a chunk when the last one is used up');
    this.#chunk = chunk;
    this.#at = 0;
  }

  /** Throws bad_frame on a length or flag the protocol does not allow; the stream cannot be read any further then. */
  next(): boolean {
    if (this.#lent !== null) {
      this.#pool.give(this.#lent);
      this.#lent = null;
    }
    const chunk = this.#chunk;
    const available = chunk.length - this.#at;
    if (this.#assembly === null) {
      if (available === 0) return false;
      if (available >= FRAME_HEAD_BYTES) {
        const total = frameBytes(chunk, this.#at);
        if (available >= total) {
          this.#hand(chunk, this.#at, total);
          this.#at += total;
          return true;
        }
        this.#assembly = this.#pool.take(total);
        this.#wanted = total;
      } else {
        this.#assembly = this.#pool.take(FRAME_HEAD_BYTES);
        this.#wanted = FRAME_HEAD_BYTES;
      }
      this.#held = 0;
    }
    this.#fill();
    if (this.#held < this.#wanted) return false;
    if (this.#wanted === FRAME_HEAD_BYTES) {
      // The head alone was short of its bytes; now the frame's length is known.
      const total = frameBytes(this.#assembly, 0);
      if (total > FRAME_HEAD_BYTES) {
        const whole = this.#pool.take(total);
        this.#assembly.copy(whole, 0, 0, FRAME_HEAD_BYTES);
        this.#assembly = whole;
        this.#wanted = total;
        this.#fill();
        if (this.#held < total) return false;
      }
    }
    const frame = this.#assembly;
    this.#assembly = null;
    this.#lent = frame;
    this.#hand(frame, 0, this.#wanted);
    return true;
  }

  /** Gives its buffers back. The decoder is not used afterwards. */
  release(): void {
    if (this.#lent !== null) this.#pool.give(this.#lent);
    if (this.#assembly !== null) this.#pool.give(this.#assembly);
    this.#lent = this.#assembly = null;
    this.#chunk = this.payload = EMPTY;
    this.#at = 0;
  }

  #fill(): void {
    const taken = Math.min(this.#chunk.length - this.#at, this.#wanted - this.#held);
    this.#chunk.copy(this.#assembly!, this.#held, this.#at, this.#at + taken);
    this.#at += taken;
    this.#held += taken;
  }

  #hand(buffer: Buffer, at: number, total: number): void {
    const flag = buffer[at + 3]!;
    if ((flag & FLAG_COMPRESSION) === FLAG_COMPRESSION) throw new S2Error('bad_frame', 'Unknown frame compression.');
    this.flag = flag;
    this.payload = buffer.subarray(at + FRAME_HEAD_BYTES, at + total);
  }
}

const EMPTY = Buffer.alloc(0);

/** Whole size of the frame whose first four bytes are at `at`. */
function frameBytes(buffer: Buffer, at: number): number {
  const length = buffer.readUIntBE(at, 3);
  if (length === 0) throw new S2Error('bad_frame', 'A frame has to have a flag byte.');
  if (length > FRAME_BYTES_MAX) throw new S2Error('bad_frame', 'A frame is larger than 2 MiB.');
  return length + 3;
}

/** Writes the head of a frame whose payload of `payloadBytes` follows. */
export function writeFrameHead(target: Buffer, at: number, flag: number, payloadBytes: number): void {
  assert(payloadBytes < FRAME_BYTES_MAX, 'a frame we send is within the limit');
  target.writeUIntBE(payloadBytes + 1, at, 3);
  target[at + 3] = flag;
}

export function encodeFrame(flag: number, payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(FRAME_HEAD_BYTES + payload.length);
  writeFrameHead(frame, 0, flag, payload.length);
  frame.set(payload, FRAME_HEAD_BYTES);
  return frame;
}

export function encodeTerminalFrame(status: number, body: string): Buffer {
  const bytes = Buffer.byteLength(body);
  const frame = Buffer.allocUnsafe(FRAME_HEAD_BYTES + 2 + bytes);
  writeFrameHead(frame, 0, FLAG_TERMINAL, 2 + bytes);
  frame.writeUInt16BE(status, FRAME_HEAD_BYTES);
  frame.write(body, FRAME_HEAD_BYTES + 2, 'utf8');
  return frame;
}
