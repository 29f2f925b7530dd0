import { randomFillSync } from 'node:crypto';
import { NameHash } from './name-hash.ts';
import type { RowBlobs } from './row-blobs.ts';
import { BASIN, type RowPages, rowAt } from './row-pages.ts';
import { SlotHash } from './slot-hash.ts';

/** Rows by basin and name. HOT PATH: slotOf. */
export class NameIndex {
  readonly #pages: RowPages;
  readonly #blobs: RowBlobs;
  readonly #slots = new SlotHash();
  readonly #hash = new NameHash(randomFillSync(new Uint32Array(2)));
  #scratch = Buffer.allocUnsafeSlow(2048);

  constructor(pages: RowPages, blobs: RowBlobs) {
    this.#pages = pages;
    this.#blobs = blobs;
  }

  get byteLength(): number {
    return this.#slots.byteLength;
  }

  /** -1: there is none. */
  slotOf(basin: number, name: string): number {
    const length = this.encode(name);
    const hash = this.#hash.of(basin, this.#scratch, 0, length);
    let slot = this.#slots.find(hash);
    while (slot >= 0 && !this.#isNamed(slot, basin, length)) slot = this.#slots.findNext(hash);
    return slot;
  }

  /** The row has its basin and its name, which is name[start, end). */
  insert(slot: number, basin: number, name: Buffer, start: number, end: number): void {
    this.#slots.insert(this.#hash.of(basin, name, start, end), slot);
  }

  /** While the row still has its name. */
  remove(slot: number, basin: number): void {
    const hash = this.#blobs.withName(slot, (bytes, start, end) => this.#hash.of(basin, bytes, start, end));
    this.#slots.remove(hash, slot);
  }

  /** The name's UTF-8 at the beginning of `encoded`, until the next call; returns its length. */
  encode(name: string): number {
    if (name.length * 3 > this.#scratch.length) this.#scratch = Buffer.allocUnsafeSlow(name.length * 3);
    const scratch = this.#scratch;
    for (let i = 0; i < name.length; i++) {
      const unit = name.charCodeAt(i);
      if (unit >= 0x80) return scratch.write(name, 0, 'utf8');
      scratch[i] = unit;
    }
    return name.length;
  }

  get encoded(): Buffer {
    return this.#scratch;
  }

  #isNamed(slot: number, basin: number, length: number): boolean {
    const view = this.#pages.readable(slot);
    if (view.getUint32(rowAt(slot) + BASIN, true) !== basin) return false;
    return this.#blobs.compareName(slot, this.#scratch, length) === 0;
  }
}
