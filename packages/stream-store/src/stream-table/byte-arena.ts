import { assert } from '@millrace/core/assert';

/** What of a stream lies in the arena. */
export const NAME = 0;
export const EXTRA = 1;
export type BlobKind = typeof NAME | typeof EXTRA;

/** Who holds the references: asked where a blob's reference is now, and told when the blob moved. */
export interface BlobOwner {
  blobOf(slot: number, kind: BlobKind): number;
  blobMoved(slot: number, kind: BlobKind, ref: number): void;
}

const CHUNK_BYTES = 64 * 1024;
const UNIT_BITS = 3;
const CHUNK_BITS = 16 - UNIT_BITS;
const CHUNK_MASK = (1 << CHUNK_BITS) - 1;
/** Per blob: size with the kind in its top bit · slot of the owner. */
const HEAD_BYTES = 8;
const KIND_BIT = 0x8000_0000;

/**
 * Names and rare fields of parked streams as bytes in chunks, referred to by 32 bits (units of 8 bytes; 0: nothing).
 * Bytes once written never change, so whoever holds the chunks of a moment (a frozen table) reads what was there then.
 * A chunk that is half dead is emptied into the current one, which bounds the waste to the size of what lives.
 */
export class ByteArena {
  readonly #owner: BlobOwner;
  /** By number; 0 is never used, so that no reference is 0. */
  readonly #chunks: (Buffer | null)[] = [null];
  /** Bytes of living blobs and bytes written, by chunk number. */
  readonly #live: number[] = [0];
  readonly #used: number[] = [0];
  readonly #freeNumbers: number[] = [];
  #current = 0;
  bytes = 0;
  liveBytes = 0;

  constructor(owner: BlobOwner) {
    this.#owner = owner;
  }

  /**
   * Room for a blob, whose bytes the caller writes at once to bytesOf(ref), from atOf(ref) on. Other blobs may move:
   * references taken before are to be looked up again.
   */
  take(slot: number, kind: BlobKind, size: number): number {
    const needed = HEAD_BYTES + ((size + 7) & ~7);
    let chunk: number;
    if (needed > CHUNK_BYTES) chunk = this.#open(needed);
    else {
      while (this.#current === 0 || this.#used[this.#current]! + needed > CHUNK_BYTES) {
        const full = this.#current;
        this.#current = this.#open(CHUNK_BYTES);
        // It was spared while it was the current one. What still lives in it goes to the new one, and may fill that.
        if (full !== 0) this.#tidy(full);
      }
      chunk = this.#current;
    }
    const at = this.#used[chunk]!;
    this.#used[chunk] = at + needed;
    this.#live[chunk]! += needed;
    this.liveBytes += needed;
    const bytes = this.#chunks[chunk]!;
    bytes.writeUInt32LE((kind === EXTRA ? KIND_BIT + size : size) >>> 0, at);
    bytes.writeUInt32LE(slot, at + 4);
    return ((chunk << CHUNK_BITS) | (at >>> UNIT_BITS)) >>> 0;
  }

  /** The bytes around a blob; it begins at `at(ref)`. */
  bytesOf(ref: number): Buffer {
    return this.#chunks[ref >>> CHUNK_BITS]!;
  }

  /** References taken before are to be looked up again afterwards: blobs may have moved. */
  free(ref: number): void {
    const chunk = ref >>> CHUNK_BITS;
    const needed = HEAD_BYTES + ((sizeOf(this.bytesOf(ref), ref) + 7) & ~7);
    this.#live[chunk]! -= needed;
    this.liveBytes -= needed;
    assert(this.#live[chunk]! >= 0, 'a blob is freed once');
    this.#tidy(chunk);
  }

  /** The chunks as they are: what their references of now point to will not change. */
  snapshot(): readonly (Buffer | null)[] {
    return this.#chunks.slice();
  }

  #open(size: number): number {
    const number = this.#freeNumbers.pop() ?? this.#chunks.length;
    assert(number <= 0xffff_ffff >>> CHUNK_BITS, 'references of 32 bits reach 32 GiB');
    this.#chunks[number] = Buffer.allocUnsafeSlow(size);
    this.#live[number] = 0;
    this.#used[number] = 0;
    this.bytes += size;
    return number;
  }

  #tidy(chunk: number): void {
    if (chunk === this.#current || this.#chunks[chunk] === null) return;
    if (this.#live[chunk]! * 2 > this.#used[chunk]!) return;
    if (this.#live[chunk]! > 0) this.#evacuate(chunk);
    this.bytes -= this.#chunks[chunk]!.length;
    this.#chunks[chunk] = null;
    this.#freeNumbers.push(chunk);
  }

  #evacuate(chunk: number): void {
    const bytes = this.#chunks[chunk]!;
    const end = this.#used[chunk]!;
    for (let at = 0; at < end; ) {
      const ref = ((chunk << CHUNK_BITS) | (at >>> UNIT_BITS)) >>> 0;
      const size = sizeOf(bytes, ref);
      const kind = kindOf(bytes, ref);
      const slot = bytes.readUInt32LE(at + 4);
      const needed = HEAD_BYTES + ((size + 7) & ~7);
      if (this.#owner.blobOf(slot, kind) === ref) {
        // Counted out first: the chunk must not look half alive to the tidying that taking room may start.
        this.#live[chunk]! -= needed;
        this.liveBytes -= needed;
        const moved = this.take(slot, kind, size);
        bytes.copy(this.bytesOf(moved), atOf(moved), at + HEAD_BYTES, at + HEAD_BYTES + size);
        this.#owner.blobMoved(slot, kind, moved);
      }
      at += needed;
    }
    assert(this.#live[chunk] === 0, 'an emptied chunk holds nothing');
  }
}

/** Where the bytes of a blob begin in its chunk. */
export function atOf(ref: number): number {
  return ((ref & CHUNK_MASK) << UNIT_BITS) + HEAD_BYTES;
}

export function chunkOf(ref: number): number {
  return ref >>> CHUNK_BITS;
}

export function sizeOf(bytes: Buffer, ref: number): number {
  return bytes.readUInt32LE((ref & CHUNK_MASK) << UNIT_BITS) & 0x7fff_ffff;
}

function kindOf(bytes: Buffer, ref: number): BlobKind {
  return bytes.readUInt32LE((ref & CHUNK_MASK) << UNIT_BITS) >= KIND_BIT ? EXTRA : NAME;
}

/** Negative, 0 or positive: the order of two stretches of bytes. */
export function compareBytes(
  a: Uint8Array,
  atA: number,
  lengthA: number,
  b: Uint8Array,
  atB: number,
  lengthB: number,
): number {
  const length = Math.min(lengthA, lengthB);
  for (let i = 0; i < length; i++) {
    const order = a[atA + i]! - b[atB + i]!;
    if (order !== 0) return order;
  }
  return lengthA - lengthB;
}
