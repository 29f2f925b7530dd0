/** When records became readable. */
export interface Arrivals {
  /** Sequence numbers up to which was read (exclusive), ascending, ... */
  readonly ends: readonly number[];
  /** ... and when. */
  readonly atMs: readonly number[];
}

const ORIGIN_MS = Number(process.hrtime.bigint()) / 1e6 - performance.now();

/** A clock that all processes of a machine share, to some microseconds. */
export function monotonicMs(): number {
  return ORIGIN_MS + performance.now();
}
