import { MillraceError } from '@millrace/core/error';
import type { BatchRun } from '../index/batch-table.ts';
import type { JournalIndex } from '../index/journal-index.ts';
import type { SealedIndex } from '../index/sealed-index.ts';
import { segmentPath } from '../journal/file-names.ts';
import type { CompactionThrottle } from './throttle.ts';

/** One stream, and where its batches lie in the files being compacted, in order. */
export interface MergedStream {
  readonly id: number;
  readonly runs: readonly BatchRun[];
}

/**
 * Walks over the streams of several sequences of files in order of their ids. A sequence is one segment, or the packs of
 * one run, which are in that order already: so one index per sequence is in memory. Sequences are given by age.
 */
export class StreamMerge {
  readonly #cursors: Cursor[];

  constructor(sequences: readonly (readonly number[])[], index: JournalIndex, throttle: CompactionThrottle) {
    this.#cursors = sequences.map((files) => new Cursor(files, index, throttle));
  }

  /** null: no more. */
  async next(): Promise<MergedStream | null> {
    let id = Number.POSITIVE_INFINITY;
    for (const cursor of this.#cursors) {
      if (!cursor.loaded) await cursor.load();
      id = Math.min(id, cursor.id);
    }
    if (id === Number.POSITIVE_INFINITY) return null;
    const runs: BatchRun[] = [];
    for (const cursor of this.#cursors) {
      // A stream may end in one pack of a run and go on in the next.
      while (cursor.id === id) {
        runs.push(cursor.take());
        if (!cursor.loaded) await cursor.load();
      }
    }
    return { id, runs };
  }
}

class Cursor {
  readonly #files: readonly number[];
  readonly #index: JournalIndex;
  readonly #throttle: CompactionThrottle;
  #file = 0;
  #current: SealedIndex | null = null;
  #place = 0;
  /** False when the next index has to be read before `id` is known. */
  loaded = false;
  /** Infinity at the end. */
  id = Number.NEGATIVE_INFINITY;

  constructor(files: readonly number[], index: JournalIndex, throttle: CompactionThrottle) {
    this.#files = files;
    this.#index = index;
    this.#throttle = throttle;
  }

  async load(): Promise<void> {
    this.id = Number.POSITIVE_INFINITY;
    while (this.#file < this.#files.length) {
      const file = this.#files[this.#file++]!;
      const current = await this.#index.read(file);
      if (current === null) {
        const detail = `${segmentPath(this.#index.dir, file)} is missing.`;
        throw new MillraceError('storage_corrupt', { detail });
      }
      await this.#throttle.take(current.byteLength);
      if (current.streamIds.length === 0) continue;
      this.#current = current;
      this.#place = 0;
      this.id = current.streamIds[0]!;
      break;
    }
    this.loaded = true;
  }

  take(): BatchRun {
    const current = this.#current!;
    const run = current.runAt(this.#place++);
    if (this.#place < current.streamIds.length) this.id = current.streamIds[this.#place]!;
    else {
      this.loaded = false;
      this.id = Number.NEGATIVE_INFINITY;
      this.#current = null;
    }
    return run;
  }
}
