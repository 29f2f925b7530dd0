import { setTimeout as delay } from 'node:timers/promises';
import { assert } from '@millrace/core/assert';
import { segmentPath } from '../journal/file-names.ts';
import { type File, type FileSystem, writeAll } from '../journal/file-system.ts';
import type { JournalReplica } from '../journal/replica.ts';
import { WAL_OBJECTS_PER_SEGMENT } from './limits.ts';
import type { Wal } from './wal.ts';
import { corruptObject, WAL_FENCE } from './wal-object.ts';

/** A journal's writes go to the bucket's write-ahead log, and the directory is filled from it at the start. */
export class WalReplica implements JournalReplica {
  readonly #wal: Wal;
  readonly #flushIntervalMs: number;
  /** Ordinal at or before which each segment that is in the log begins. */
  readonly #begins = new Map<number, number>();
  #putAtMs = Number.NEGATIVE_INFINITY;
  #groups = 0;
  /** The segment has as many groups as one may have. */
  onSegmentFull: () => void = () => {};

  constructor(wal: Wal, flushIntervalMs: number) {
    this.#wal = wal;
    this.#flushIntervalMs = flushIntervalMs;
  }

  /** Groups in the log of the segment being written. */
  get groups(): number {
    return this.#groups;
  }

  async write(segment: number, offset: number, parts: readonly Uint8Array[]): Promise<void> {
    this.#putAtMs = performance.now();
    if (offset === 0) {
      this.#begins.set(segment, this.#wal.nextOrdinal);
      this.#groups = 0;
    }
    await this.#wal.put(segment, offset, parts);
    if (++this.#groups === WAL_OBJECTS_PER_SEGMENT) this.onSegmentFull();
  }

  async pace(): Promise<void> {
    const waitMs = this.#putAtMs + this.#flushIntervalMs - performance.now();
    if (waitMs > 0) await delay(waitMs);
  }

  /** The first ordinal with anything of `segment` or a later one. */
  firstOrdinal(segment: number): number {
    const ordinal = this.#begins.get(segment);
    assert(ordinal !== undefined, 'a segment that is not in the bucket is in its log');
    return ordinal;
  }

  /** The bucket's manifest says that the log is needed from `segment` on only. */
  async collect(segment: number): Promise<void> {
    const ordinal = this.firstOrdinal(segment);
    for (const older of this.#begins.keys()) if (older < segment) this.#begins.delete(older);
    await this.#wal.collect(ordinal);
  }

  /** Writes what the log holds into the segment files of an empty directory. */
  async fill(fileSystem: FileSystem, dir: string): Promise<void> {
    let file: File | null = null;
    let segment = 0;
    let end = 0;
    try {
      for await (const object of this.#wal.read()) {
        if (object.kind === WAL_FENCE) continue;
        const begins = object.offset === 0 && (file === null || object.segment === segment + 1);
        const follows = file !== null && object.segment === segment && object.offset === end;
        if (!begins && !follows) {
          throw corruptObject(`${dir}, log object ${object.ordinal}`, 'it does not follow the one before');
        }
        if (begins) {
          await file?.close();
          segment = object.segment;
          end = 0;
          file = await fileSystem.open(segmentPath(dir, segment), 'create');
          this.#begins.set(segment, object.ordinal);
          this.#groups = 0;
        }
        await writeAll(file!, [object.body], end);
        end += object.body.length;
        this.#groups++;
      }
    } finally {
      await file?.close();
    }
  }
}
