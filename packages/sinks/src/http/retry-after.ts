/** `Retry-After` of HTTP: seconds, or a date. */

/** An answer that asks for more is taken as one that asks for this. */
export const RETRY_AFTER_MS_MAX = 3_600_000;

/** Milliseconds from `now` on; undefined when it is absent or says nothing. */
export function retryAfterMs(value: string | undefined, now: number): number | undefined {
  if (value === undefined) return undefined;
  const text = value.trim();
  if (/^\d{1,15}$/.test(text)) return Math.min(Number(text) * 1000, RETRY_AFTER_MS_MAX);
  // Date.parse takes a bare number as a year; a date of HTTP begins with the day of the week.
  const at = /^[A-Za-z]{3,9},? /.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(at)) return undefined;
  return Math.min(Math.max(0, at - now), RETRY_AFTER_MS_MAX);
}
