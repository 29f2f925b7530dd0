/** When a failed message, or a destination that is away, is tried again. */
import type { MillraceError } from '@millrace/core/error';

export interface RetryTimes {
  readonly minMs: number;
  readonly maxMs: number;
}

/** Of the delay, up and down. */
const JITTER = 0.15;
/** A destination that says when to come again is not believed beyond this. */
export const RETRY_AFTER_MAX_MS = 3_600_000;
/** A worker that gives a message back may say twelve hours. */
export const ASKED_MAX_MS = 12 * 3_600_000;
/** However long single messages wait: a destination that is back is noticed within this. */
export const AWAY_MAX_MS = 30_000;

/** `tries`: failures so far, 1 at least. Never below what the destination asked for. */
export function retryDelayMs(
  tries: number,
  { minMs, maxMs }: RetryTimes,
  retryAfterMs: number | undefined,
  random: () => number,
): number {
  const exponential = Math.min(maxMs, minMs * 2 ** Math.min(tries - 1, 40));
  const delay = exponential * (1 - JITTER + 2 * JITTER * random());
  return Math.max(delay, Math.min(retryAfterMs ?? 0, RETRY_AFTER_MAX_MS));
}

export function awayDelayMs(
  attempt: number,
  times: RetryTimes,
  retryAfterMs: number | undefined,
  random: () => number,
): number {
  return retryDelayMs(attempt, { ...times, maxMs: Math.min(times.maxMs, AWAY_MAX_MS) }, retryAfterMs, random);
}

/** It says more of the destination than of the message: rights, certificate, address, the place itself. */
const OF_DESTINATION: ReadonlySet<string> = new Set([
  'sink_denied',
  'sink_credentials_missing',
  'sink_unverified',
  'sink_address_refused',
  'sink_place_missing',
]);

export function concernsDestination({ code }: MillraceError): boolean {
  return OF_DESTINATION.has(code);
}

/** It may say something of either. */
export function mayConcernDestination({ retry }: MillraceError): boolean {
  return retry === 'backoff' || retry === 'reconnect';
}
