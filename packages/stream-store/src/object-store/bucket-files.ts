import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { MillraceError } from '@millrace/core/error';
import { type FileSystem, isMissing } from '../journal/file-system.ts';
import { partBytes, partKey, type StoredBlob } from './bucket-manifest.ts';
import { PART_BYTES, PARTS_AT_ONCE } from './limits.ts';
import { listAll, type ObjectStore } from './object-store.ts';
import { RetryingReader, type RetryPolicy } from './retrying.ts';
import { corruptObject } from './wal-object.ts';

/** Puts files of a journal into the bucket in parts, reads them back whole or by part, and removes them. */
export class BucketFiles {
  readonly #store: RetryingReader;
  readonly #prefix: string;

  /** `prefix` ends with a slash; everything under it is ours. */
  constructor(store: ObjectStore, prefix: string, policy: RetryPolicy = {}) {
    this.#store = new RetryingReader(store, policy);
    this.#prefix = prefix;
  }

  /**
   * Uploads a file that does not change any more. `check` sees its bytes in order, before they are sent, and throws to
   * refuse them. null: the file is gone. `sent` is told of the bytes of each part.
   */
  async upload(
    fileSystem: FileSystem,
    path: string,
    check: (chunk: Buffer) => void = () => {},
    sent: (bytes: number) => void = () => {},
  ): Promise<StoredBlob | null> {
    const tag = randomBytes(16).toString('hex');
    try {
      const file = await fileSystem.open(path, 'read');
      const underWay: Promise<void>[] = [];
      try {
        const bytes = await file.size();
        const crcs: number[] = [];
        for (let at = 0; at < bytes; at += PART_BYTES) {
          const chunk = Buffer.allocUnsafeSlow(Math.min(PART_BYTES, bytes - at));
          if ((await file.read(chunk, at)) !== chunk.length) return null;
          check(chunk);
          if (underWay.length === PARTS_AT_ONCE) await underWay.shift();
          const putting = this.#putPart(tag, crcs.length, chunk).then(() => sent(chunk.length));
          // Met when it is waited for.
          putting.catch(() => {});
          underWay.push(putting);
          crcs.push(crc32(chunk));
        }
        await Promise.all(underWay);
        return { tag, bytes, crcs };
      } finally {
        await Promise.allSettled(underWay);
        await file.close();
      }
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
  }

  /** Bytes [offset, offset + length) of one part; null: not there. */
  readPart(blob: StoredBlob, part: number, offset: number, length: number): Promise<Buffer | null> {
    return this.#store.getRange(partKey(this.#prefix, blob.tag, part), offset, length);
  }

  /** All of it, checked against its checksums; null: not there. */
  async readWhole(blob: StoredBlob): Promise<Buffer | null> {
    const whole = Buffer.allocUnsafeSlow(blob.bytes);
    for (let part = 0; part < blob.crcs.length; part++) {
      const key = partKey(this.#prefix, blob.tag, part);
      const found = await this.#store.get(key);
      if (found === null) return null;
      if (found.bytes.length !== partBytes(blob, part) || crc32(found.bytes) !== blob.crcs[part]) {
        throw corruptObject(key, 'its checksum is wrong');
      }
      found.bytes.copy(whole, part * PART_BYTES);
    }
    return whole;
  }

  async remove(blob: StoredBlob): Promise<void> {
    await this.#store.deleteAll(blob.crcs.map((_crc, part) => partKey(this.#prefix, blob.tag, part)));
  }

  /** Removes every object whose tag is not to stay: what interrupted uploads and removals left. Nothing is uploaded now. */
  async sweep(stays: (tag: string) => boolean): Promise<void> {
    const keys = (await listAll(this.#store, this.#prefix)).map(({ key }) => key);
    await this.#store.deleteAll(keys.filter((key) => !stays(key.slice(this.#prefix.length, key.lastIndexOf('/')))));
  }

  /** The endpoint checks the bytes by their MD5; the size is looked at once more when they are stored. */
  async #putPart(tag: string, part: number, chunk: Buffer): Promise<void> {
    const key = partKey(this.#prefix, tag, part);
    await this.#store.put(key, [chunk]);
    const stored = await this.#store.head(key);
    if (stored?.bytes === chunk.length) return;
    throw new MillraceError('object_store_unavailable', { detail: `head: object ${key} is not as it was put` });
  }
}
