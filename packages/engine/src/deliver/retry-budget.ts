/**
 * How many messages that failed one sink may try again: so many a second, and one more for each that arrives. A
 * destination that takes nothing has a window of them (10,000) fall due together, again and again; each is a request,
 * and while they run the sinks beside it wait for the thread. One that takes half of them is not held up for long.
 */

/** A request that fails costs some hundred microseconds: a twentieth of a core. */
export const RETRIES_PER_SECOND = 500;
/** At once. As many as fit into some milliseconds, so that they do not come in bursts either. */
const SAVED_MAX = 50;
/** A sink is not woken for less. */
const WAKE_FOR = 10;

export class RetryBudget {
  #saved = SAVED_MAX;
  #atMs = -Infinity;

  /** One more try. False: not yet, see `nextMs`. */
  take(nowMs: number): boolean {
    this.#refill(nowMs);
    if (this.#saved < 1) return false;
    this.#saved--;
    return true;
  }

  /** A message arrived. */
  earn(): void {
    this.#saved = Math.min(SAVED_MAX, this.#saved + 1);
  }

  /** When it is worth while to ask again. */
  nextMs(nowMs: number): number {
    this.#refill(nowMs);
    return nowMs + (Math.max(0, WAKE_FOR - this.#saved) * 1000) / RETRIES_PER_SECOND;
  }

  #refill(nowMs: number): void {
    if (nowMs <= this.#atMs) return;
    this.#saved = Math.min(SAVED_MAX, this.#saved + ((nowMs - this.#atMs) * RETRIES_PER_SECOND) / 1000);
    this.#atMs = nowMs;
  }
}
