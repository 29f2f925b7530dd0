import { crc32 } from 'node:zlib';
import { MillraceError } from '@millrace/core/error';
import { ENTRY_BYTES_MAX, ENTRY_HEADER_BYTES, SEGMENT_HEADER_BYTES } from '../journal/segment-format.ts';

/**
 * Checks the entries of a sealed file chunk by chunk, wherever chunks are cut: a file that was damaged on the local disk
 * must not take the place of a whole one in the bucket and then be evicted.
 */
export class EntryCheck {
  readonly #path: string;
  readonly #header = Buffer.alloc(ENTRY_HEADER_BYTES);
  #headerAt = 0;
  /** Bytes of the file before the first entry, or of the entry, still to come. */
  #skip = SEGMENT_HEADER_BYTES;
  #payloadLeft = 0;
  #crc = 0;
  #at = 0;

  constructor(path: string) {
    this.#path = path;
  }

  push(chunk: Buffer): void {
    let from = 0;
    while (from < chunk.length) {
      const left = chunk.length - from;
      let taken: number;
      if (this.#skip > 0) {
        taken = Math.min(left, this.#skip);
        this.#skip -= taken;
      } else if (this.#headerAt < ENTRY_HEADER_BYTES) {
        taken = Math.min(left, ENTRY_HEADER_BYTES - this.#headerAt);
        chunk.copy(this.#header, this.#headerAt, from, from + taken);
        this.#headerAt += taken;
        if (this.#headerAt === ENTRY_HEADER_BYTES) this.#begin();
      } else {
        taken = Math.min(left, this.#payloadLeft);
        this.#crc = crc32(chunk.subarray(from, from + taken), this.#crc);
        this.#payloadLeft -= taken;
      }
      from += taken;
      this.#at += taken;
      if (this.#headerAt === ENTRY_HEADER_BYTES && this.#payloadLeft === 0) this.#end();
    }
  }

  /** All was pushed. */
  finish(): void {
    if (this.#skip > 0 || this.#headerAt > 0) throw this.#corrupt();
  }

  #begin(): void {
    this.#payloadLeft = this.#header.readUInt32BE(8);
    if (this.#payloadLeft > ENTRY_BYTES_MAX) throw this.#corrupt();
    this.#crc = crc32(this.#header.subarray(8));
  }

  #end(): void {
    if (this.#crc !== this.#header.readUInt32BE(4)) throw this.#corrupt();
    this.#headerAt = 0;
  }

  #corrupt(): MillraceError {
    return new MillraceError('storage_corrupt', {
      detail: `${this.#path} before offset ${this.#at}: a damaged entry; it was not uploaded.`,
    });
  }
}
