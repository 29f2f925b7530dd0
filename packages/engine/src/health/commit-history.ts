/**
 * When the source committed what is in the change log, by its own clock: a bounded list of samples. Both ends of a lag
 * are looked up here, so that no other clock comes in and a skewed one does no harm.
 */
import { assert } from '@millrace/core/assert';
import type { Lsn } from '@millrace/core/lsn';

export interface CommitSample {
  readonly lsn: Lsn;
  /** On the clock of the source; any origin. null: nothing was committed yet. */
  readonly timeMs: number | null;
  /** A running count of transactions. */
  readonly transactions: number;
}

export interface Lag {
  readonly bytes: bigint;
  /** null: it began before this process did, and was not counted. */
  readonly transactions: number | null;
  /** null: as above, and the log could not tell. */
  readonly seconds: number | null;
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

  get oldest(): CommitSample | null {
    return this.#samples[0] ?? null;
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
   * How far `reached` is behind the newest sample. `before` stands in for what was there before the first sample.
   * Never negative: a source whose clock was set back has zero.
   */
  lag(reached: Lsn, before: { readonly timeMs: number | null } | null): Lag {
    const { newest } = this;
    if (newest === null || reached >= newest.lsn) return NO_LAG;
    const index = this.#indexAfter(reached);
    const known = this.#samples[index - 1] ?? null;
    // Where nothing was committed before, the first commit that is missing is the oldest thing there is.
    const timeMs = known === null ? before?.timeMs : (known.timeMs ?? this.#samples[index]?.timeMs);
    return {
      bytes: newest.lsn - reached,
      transactions: known === null ? null : Math.max(0, newest.transactions - known.transactions),
      seconds: timeMs == null || newest.timeMs === null ? null : Math.max(0, newest.timeMs - timeMs) / 1000,
    };
  }
}
