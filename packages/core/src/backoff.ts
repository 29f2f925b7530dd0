export interface BackoffOptions {
  readonly minMs: number;
  readonly maxMs: number;
  /** In [0, 1). Injected so that tests are deterministic. */
  readonly random?: () => number;
}

/** Exponential delay with full jitter on its upper half: attempt 0 waits minMs at most. */
export function backoffMs(attempt: number, { minMs, maxMs, random = Math.random }: BackoffOptions): number {
  const ceiling = Math.min(maxMs, minMs * 2 ** Math.min(attempt, 30));
  return ceiling / 2 + random() * (ceiling / 2);
}
