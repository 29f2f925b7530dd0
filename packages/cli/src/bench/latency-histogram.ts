/**
 * Latencies of any number of operations in fixed memory: buckets that grow by 2 %, so a quantile is off by at most that.
 * Minimum and maximum are exact.
 */
const GROWTH = Math.log(1.02);
const FIRST_MS = 0.01;
const BUCKETS = 1024;

export class LatencyHistogram {
  readonly #counts = new Float64Array(BUCKETS);
  count = 0;
  minMs = Number.POSITIVE_INFINITY;
  maxMs = 0;

  add(ms: number, times = 1): void {
    const index = ms <= FIRST_MS ? 0 : Math.min(BUCKETS - 1, Math.ceil(Math.log(ms / FIRST_MS) / GROWTH));
    this.#counts[index]! += times;
    this.count += times;
    if (ms < this.minMs) this.minMs = ms;
    if (ms > this.maxMs) this.maxMs = ms;
  }

  /** The latency that this share of all operations did not exceed. */
  quantile(share: number): number {
    const wanted = Math.max(1, Math.ceil(share * this.count));
    let seen = 0;
    for (let index = 0; index < BUCKETS; index++) {
      seen += this.#counts[index]!;
      if (seen >= wanted) return Math.min(this.maxMs, Math.max(this.minMs, FIRST_MS * Math.exp(index * GROWTH)));
    }
    return this.maxMs;
  }
}
