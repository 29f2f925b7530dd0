/** When records became readable. */
export interface Arrivals {
  /** Sequence numbers up to which was read (exclusive), ascending, ... */
  readonly ends: readonly number[];
  /** ... and when. */
  readonly atMs: readonly number[];
}

/**
 * A clock that all processes of a machine share. Not performance.now() and an origin: the first use of `performance` loads
 * it, which takes some milliseconds between the two readings that an origin is made of.
 */
export function monotonicMs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1000 + nanoseconds / 1e6;
}
