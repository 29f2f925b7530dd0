import { MillraceError } from '@millrace/core/error';
import { storageError } from '../journal/journal.ts';
import type { BucketJournal } from './bucket-journal.ts';
import { UPLOAD_INTERVAL_MS } from './limits.ts';
import { Repeated } from './repeated.ts';

export interface UploaderOptions {
  readonly journals: readonly BucketJournal[];
  readonly cacheBytesMax: number;
  /** The bucket is somebody else's now. */
  readonly fenced: (error: MillraceError) => void;
  readonly log: (line: string) => void;
  readonly now: () => number;
}

/** Brings the bucket up to date with the directory, step by step, and keeps the directory within its budget. */
export class Uploader {
  readonly #options: UploaderOptions;
  readonly #loop: Repeated;
  #dead = false;
  evictedBytes = 0;
  caughtUpAtMs: number | null = null;
  /** Why the last attempt failed. */
  failure: string | null = null;

  constructor(options: UploaderOptions) {
    this.#options = options;
    this.#loop = new Repeated(UPLOAD_INTERVAL_MS, () => this.#attempt(false));
  }

  start(): void {
    this.#loop.start();
  }

  wake(): void {
    this.#loop.wake();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  /** After `stop`: everything that is sealed, now. True: it is in the bucket. */
  async finish(): Promise<boolean> {
    await this.#attempt(true);
    return this.failure === null && !this.#dead;
  }

  async #attempt(hasty: boolean): Promise<void> {
    if (this.#dead) return;
    try {
      await this.#catchUp(hasty);
      this.failure = null;
    } catch (error) {
      this.#failed(error);
    }
  }

  async #catchUp(hasty: boolean): Promise<void> {
    let moved = true;
    while (moved) {
      moved = false;
      for (const journal of this.#options.journals) {
        if (this.#loop.stopping && !hasty) return;
        if ((await journal.step(hasty)) !== 'idle') moved = true;
      }
      await this.evict(this.#options.cacheBytesMax);
    }
    if (this.#options.journals.every((journal) => journal.pending().files.length === 0)) {
      this.caughtUpAtMs = this.#options.now();
    }
  }

  /** Until no more than `localBytesMax` are left, or nothing that the bucket holds. Returns how many bytes went. */
  async evict(localBytesMax: number): Promise<number> {
    const { journals } = this.#options;
    const before = this.evictedBytes;
    let local = 0;
    for (const journal of journals) local += journal.localBytes;
    // The change log is read by everybody and deleted soon: it stays as long as there is something else.
    for (const journal of journals) {
      while (local > localBytesMax) {
        const bytes = await journal.evictOne();
        if (bytes === null) break;
        local -= bytes;
        this.evictedBytes += bytes;
      }
    }
    return this.evictedBytes - before;
  }

  #failed(error: unknown): void {
    const known = knownFailure(error);
    if (known.code === 'storage_fenced') {
      this.#dead = true;
      this.#options.fenced(known);
      return;
    }
    const failure = `${known.message} (${known.code})`;
    if (failure !== this.failure) this.#options.log(`object storage: ${failure} Trying again.`);
    this.failure = failure;
  }
}

/** A failure of the bucket or the disk, to be tried again while everything else goes on. A bug is none, and is thrown. */
export function knownFailure(error: unknown): MillraceError {
  if (error instanceof MillraceError) return error;
  if (typeof (error as { code?: unknown } | null)?.code === 'string')
    return storageError(error, 'a file on its way to the bucket');
  throw error;
}
