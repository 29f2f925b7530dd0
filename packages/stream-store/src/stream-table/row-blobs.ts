import type { StreamExtra } from '../stream-state.ts';
import { atOf, type BlobKind, type BlobOwner, ByteArena, compareBytes, EXTRA, NAME, sizeOf } from './byte-arena.ts';
import type { NameBytes } from './name-order.ts';
import { EXTRA_REF, NAME_REF, type RowPages, rowAt } from './row-pages.ts';
import {
  extraSize,
  NO_EXTRA,
  readDeletedAt,
  readExtra,
  TRIPLE_BYTES,
  writeExtra as writeExtraBytes,
  writeTriple,
} from './stream-extra.ts';

/**
 * What of a row has no fixed size, in an arena that the row refers to: the name, and the fields that few streams have.
 * HOT PATH: compareName.
 */
export class RowBlobs implements NameBytes, BlobOwner {
  readonly #pages: RowPages;
  readonly #arena = new ByteArena(this);

  constructor(pages: RowPages) {
    this.#pages = pages;
  }

  get byteLength(): number {
    return this.#arena.bytes;
  }

  /** The chunks of the arena; see ByteArena. */
  snapshot(): readonly (Buffer | null)[] {
    return this.#arena.snapshot();
  }

  // Names.

  /** name[start, end) for a row that is not live yet; returns the reference that it has to keep. */
  takeName(slot: number, name: Buffer, start: number, end: number): number {
    const ref = this.#arena.take(slot, NAME, end - start);
    name.copy(this.#arena.bytesOf(ref), atOf(ref), start, end);
    return ref;
  }

  /** Of a row that is not live any more, with the reference that it had. */
  freeName(ref: number): void {
    this.#arena.free(ref);
  }

  nameAt(slot: number): string {
    const ref = this.#nameRef(slot);
    const bytes = this.#arena.bytesOf(ref);
    const at = atOf(ref);
    return bytes.toString('utf8', at, at + sizeOf(bytes, ref));
  }

  nameStartsWith(slot: number, prefix: Uint8Array): boolean {
    const ref = this.#nameRef(slot);
    const bytes = this.#arena.bytesOf(ref);
    if (sizeOf(bytes, ref) < prefix.length) return false;
    const at = atOf(ref);
    for (let i = 0; i < prefix.length; i++) if (bytes[at + i] !== prefix[i]) return false;
    return true;
  }

  compareName(slot: number, other: Uint8Array, length: number): number {
    const ref = this.#nameRef(slot);
    const bytes = this.#arena.bytesOf(ref);
    return compareBytes(bytes, atOf(ref), sizeOf(bytes, ref), other, 0, length);
  }

  compareSlots(a: number, b: number): number {
    const refA = this.#nameRef(a);
    const refB = this.#nameRef(b);
    const bytesA = this.#arena.bytesOf(refA);
    const bytesB = this.#arena.bytesOf(refB);
    return compareBytes(bytesA, atOf(refA), sizeOf(bytesA, refA), bytesB, atOf(refB), sizeOf(bytesB, refB));
  }

  /** Calls `take` with the stretch of bytes in which the name lies. */
  withName(slot: number, take: (bytes: Buffer, start: number, end: number) => number): number {
    const ref = this.#nameRef(slot);
    const bytes = this.#arena.bytesOf(ref);
    const at = atOf(ref);
    return take(bytes, at, at + sizeOf(bytes, ref));
  }

  isShared(epoch: number): boolean {
    return this.#pages.isShared(epoch);
  }

  get epoch(): number {
    return this.#pages.epoch;
  }

  // Rare fields.

  extraAt(slot: number): StreamExtra {
    const ref = this.#extraRef(slot);
    if (ref === 0) return NO_EXTRA;
    const bytes = this.#arena.bytesOf(ref);
    const at = atOf(ref);
    return readExtra(bytes, at, at + sizeOf(bytes, ref));
  }

  /** Of a row that has rare fields. */
  deletedAt(slot: number): number | null {
    const ref = this.#extraRef(slot);
    return readDeletedAt(this.#arena.bytesOf(ref), atOf(ref));
  }

  writeExtra(slot: number, extra: StreamExtra): void {
    this.#replaceExtra(slot, extraSize(extra), (out, at) => writeExtraBytes(out, at, extra));
  }

  /** They are bytes[start, end), as a checkpoint has them. */
  loadExtra(slot: number, bytes: Buffer, start: number, end: number): void {
    this.#replaceExtra(slot, end - start, (out, at) => bytes.copy(out, at, start, end));
  }

  /** One more triple of segments; they are last in the extra, so this is a copy with something behind it. */
  appendTriple(slot: number, segment: number, firstSeqNum: number, lastArrivalMs: number): void {
    const ref = this.#extraRef(slot);
    const from = ref === 0 ? null : this.#arena.bytesOf(ref);
    const size = from === null ? 1 : sizeOf(from, ref);
    this.#replaceExtra(slot, size + TRIPLE_BYTES, (out, at) => {
      if (from === null) out[at] = 0;
      else from.copy(out, at, atOf(ref), atOf(ref) + size);
      writeTriple(out, at + size, segment, firstSeqNum, lastArrivalMs);
    });
  }

  freeExtra(slot: number): void {
    const ref = this.#extraRef(slot);
    this.#pages.writable(slot).setUint32(rowAt(slot) + EXTRA_REF, 0, true);
    if (ref !== 0) this.#arena.free(ref);
  }

  // What the arena asks.

  blobOf(slot: number, kind: BlobKind): number {
    if (kind === EXTRA) return this.#extraRef(slot);
    // In a free row the place of the name holds the next free slot.
    return this.#pages.isLive(slot) ? this.#nameRef(slot) : 0;
  }

  blobMoved(slot: number, kind: BlobKind, ref: number): void {
    this.#pages.writable(slot).setUint32(rowAt(slot) + (kind === NAME ? NAME_REF : EXTRA_REF), ref, true);
  }

  /** `size` 0: there is nothing to keep. */
  #replaceExtra(slot: number, size: number, write: (out: Buffer, at: number) => void): void {
    let ref = 0;
    if (size > 0) {
      ref = this.#arena.take(slot, EXTRA, size);
      write(this.#arena.bytesOf(ref), atOf(ref));
    }
    // The old one may have moved to make room.
    const view = this.#pages.writable(slot);
    const at = rowAt(slot);
    const old = view.getUint32(at + EXTRA_REF, true);
    view.setUint32(at + EXTRA_REF, ref, true);
    if (old !== 0) this.#arena.free(old);
  }

  #nameRef(slot: number): number {
    return this.#pages.readable(slot).getUint32(rowAt(slot) + NAME_REF, true);
  }

  #extraRef(slot: number): number {
    return this.#pages.readable(slot).getUint32(rowAt(slot) + EXTRA_REF, true);
  }
}
