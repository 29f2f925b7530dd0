/** Without one, ending a wait makes an error with its stack each time. */
const OVER = 'over';

/**
 * Resolves with the first of several waits, or when all end on the signal. The waits get a signal of their own that ends
 * with this one: what lives longer, as `signal` does, would gather those that nothing came of.
 */
export async function firstOf(
  signal: AbortSignal,
  begin: (over: AbortSignal) => readonly Promise<unknown>[],
): Promise<void> {
  const over = new AbortController();
  const end = () => over.abort(OVER);
  signal.addEventListener('abort', end, { once: true });
  if (signal.aborted) end();
  try {
    await Promise.race(begin(over.signal));
  } finally {
    signal.removeEventListener('abort', end);
    end();
  }
}
