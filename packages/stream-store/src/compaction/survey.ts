import type { Clock } from '@millrace/core/clock';
import { MillraceError } from '@millrace/core/error';
import { segmentPath } from '../journal/file-names.ts';
import type { Shelf } from '../store-core.ts';
import { type FileLife, surveyFile } from './file-life.ts';
import type { StreamLives } from './stream-lives.ts';
import type { CompactionThrottle } from './throttle.ts';

export interface SurveyOptions {
  readonly clock: Clock;
  readonly main: Shelf;
  readonly lives: StreamLives;
}

/** A file is looked at again after this, if something happened. */
const LOOK_AGAIN_MS = 60_000;

interface Seen {
  /** Store clock. */
  readonly atMs: number;
  /** Where the main journal was: trims and deletions are entries in it. */
  readonly segment: number;
  readonly end: number;
}

/** What is known of the sealed files of the main journal: how much of each is alive. */
export class Survey {
  readonly lives = new Map<number, FileLife>();
  readonly #options: SurveyOptions;
  readonly #seen = new Map<number, Seen>();

  constructor(options: SurveyOptions) {
    this.#options = options;
  }

  /** Brings up to date what may have changed of `files`; all of it with `everything`. Forgets other files. */
  async look(files: readonly number[], everything: boolean, throttle: CompactionThrottle): Promise<void> {
    const { clock, main, lives } = this.#options;
    const { index, journal } = main;
    for (const file of files) {
      if (!everything && !this.#isDue(file, clock.now())) continue;
      const seen = { atMs: clock.now(), segment: journal.segment, end: journal.end };
      const found = await index.read(file);
      if (found === null) {
        throw new MillraceError('storage_corrupt', { detail: `${segmentPath(journal.dir, file)} is missing.` });
      }
      await throttle.take(found.byteLength);
      this.lives.set(file, await surveyFile(found, lives, seen.atMs, throttle));
      this.#seen.set(file, seen);
    }
  }

  forget(file: number): void {
    this.lives.delete(file);
    this.#seen.delete(file);
  }

  totals(): { liveBytes: number; deadBytes: number } {
    let liveBytes = 0;
    let deadBytes = 0;
    for (const life of this.lives.values()) {
      liveBytes += life.liveBytes;
      deadBytes += life.bytes - life.liveBytes;
    }
    return { liveBytes, deadBytes };
  }

  #isDue(file: number, nowMs: number): boolean {
    const seen = this.#seen.get(file);
    const life = this.lives.get(file);
    if (seen === undefined || life === undefined) return true;
    if (nowMs >= life.halfDeadAtMs && seen.atMs < life.halfDeadAtMs) return true;
    // Abs: the clock may have been set back.
    if (Math.abs(nowMs - seen.atMs) < LOOK_AGAIN_MS) return false;
    const { journal } = this.#options.main;
    return seen.segment !== journal.segment || seen.end !== journal.end;
  }
}
