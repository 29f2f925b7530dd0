/**
 * When the source committed what is in the change log, by its own clock: a bounded list of samples. The age of what is
 * missing is by that clock as well, so that a skewed one does no harm.
 */
import { assert } from '@millrace/core/assert';
import type { Lsn } from '@millrace/core/lsn';

export interface CommitSample {
  readonly lsn: Lsn;
  /** On the clock of the source; any origin. null: not known, of a first sample only. */
  readonly timeMs: number | null;
  /** A running count of transactions. */
  readonly transactions: number;
}

export interface Lag {
  readonly bytes: bigint;
  /** null: it began before this process did, and was not counted. */
  readonly transactions: number | null;
  /** For how long the oldest thing that is missing has been there. null: as above, and the log could not tell. */
  readonly seconds: number | null;
}

/** When the first commit after `lsn` was, as the log has it. */
export interface FirstMissing {
  readonly lsn: Lsn;
  readonly timeMs: number | null;
}

export const NO_LAG: Lag = { bytes: 0n, transactions: 0, seconds: 0 };

export const COMMIT_SAMPLES_MAX = 4_096;

export class CommitHistory {
  #samples: CommitSample[] = [];

  get newest(): CommitSample | null {
    return this.#samples.at(-1) ?? null;
  }

  get sampleCount(): number {
    return this.#samples.length;
  }

  /** `lsn` must not go back. A sample that says nothing new is not kept. */
  add(sample: CommitSample): void {
    const last = this.newest;
    assert(last === null || sample.lsn >= last.lsn, 'commit samples come in the order of their LSNs');
    if (last !== null && sample.lsn === last.lsn) return;
    this.#samples.push(sample);
    // Every other one of the older half goes: what is near stays fine, what is long ago becomes coarse.
    if (this.#samples.length > COMMIT_SAMPLES_MAX) {
      const half = COMMIT_SAMPLES_MAX / 2;
      this.#samples = this.#samples.filter((_, index) => index >= half || index % 2 === 0);
    }
  }

  clear(): void {
    this.#samples = [];
  }

  /** The newest sample at or before `lsn`. */
  at(lsn: Lsn): CommitSample | null {
    return this.#samples[this.#indexAfter(lsn) - 1] ?? null;
  }

  #indexAfter(lsn: Lsn): number {
    let low = 0;
    let high = this.#samples.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#samples[middle]!.lsn <= lsn) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /**
   * How far `reached` is behind the newest sample. `nowMs` is on the clock of the source; null: not known. `first` says
   * exactly when what is missing began, for this `reached`; of an earlier one it is used where there are no fine samples.
   * Never negative: a source whose clock was set back has zero.
   */
  lag(reached: Lsn, nowMs: number | null, first: FirstMissing | null): Lag {
    const { newest } = this;
    if (newest === null || reached >= newest.lsn) return NO_LAG;
    const index = this.#indexAfter(reached);
    const known = this.#samples[index - 1] ?? null;
    const read = first?.lsn === reached || !this.#isFine(index) ? (first?.timeMs ?? null) : null;
    // The one before may be from long ago: what counts is not since when there was nothing.
    const sinceMs = read ?? (known === null ? null : this.#samples[index]!.timeMs);
    return {
      bytes: newest.lsn - reached,
      transactions: known === null ? null : Math.max(0, newest.transactions - known.transactions),
      seconds: sinceMs === null || nowMs === null ? null : Math.max(0, nowMs - sinceMs) / 1000,
    };
  }

  /** No sample is missing before this one. */
  #isFine(index: number): boolean {
    return index > 0 && index >= this.#samples.length - COMMIT_SAMPLES_MAX / 2;
  }
}
