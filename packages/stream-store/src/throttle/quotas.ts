import { S2Error } from '../s2-error.ts';
import type { QuotaLimits } from './limits-config.ts';

/** How much there may be. What is being made counts, so that many at once do not get past the last free place. */
export class Quotas {
  readonly #limits: QuotaLimits;
  #basinsPending = 0;
  readonly #streamsPending = new Map<string, number>();
  /** Refusals so far, for /metrics. */
  readonly refused = { basins: 0, streams: 0, stored_bytes: 0 };

  constructor(limits: QuotaLimits) {
    this.#limits = limits;
  }

  get storedBytesMax(): number {
    return this.#limits.storedBytesMax ?? Number.POSITIVE_INFINITY;
  }

  /** Rejects with quota_exhausted. `basins` counts those that are there. */
  async forBasin<T>(basins: () => number, make: () => Promise<T>): Promise<T> {
    const { basinsMax } = this.#limits;
    if (basinsMax === null) return await make();
    if (basins() + this.#basinsPending >= basinsMax) {
      this.refused.basins++;
      throw new S2Error('quota_exhausted', `There may be ${basinsMax} basins.`);
    }
    this.#basinsPending++;
    try {
      return await make();
    } finally {
      this.#basinsPending--;
    }
  }

  /** Rejects with quota_exhausted. `streams` counts those that are in the basin. */
  async forStream<T>(basin: string, streams: () => number, make: () => Promise<T>): Promise<T> {
    const { streamsPerBasinMax } = this.#limits;
    if (streamsPerBasinMax === null) return await make();
    const pending = this.#streamsPending.get(basin) ?? 0;
    if (streams() + pending >= streamsPerBasinMax) {
      this.refused.streams++;
      throw new S2Error('quota_exhausted', `There may be ${streamsPerBasinMax} streams in a basin.`);
    }
    this.#streamsPending.set(basin, pending + 1);
    try {
      return await make();
    } finally {
      const left = this.#streamsPending.get(basin)! - 1;
      if (left === 0) this.#streamsPending.delete(basin);
      else this.#streamsPending.set(basin, left);
    }
  }

  /** For an append while the stored bytes are used up. */
  refuseAppend(): S2Error {
    this.refused.stored_bytes++;
    return new S2Error('quota_exhausted', 'The store holds as many bytes as it may; trim or delete first.');
  }
}
