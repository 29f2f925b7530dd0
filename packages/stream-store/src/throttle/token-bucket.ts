import { assert } from '@millrace/core/assert';

/** How long a refused caller's reservation waits for it to come back. */
const TICKET_MS = 5_000;

/**
 * A rate with a burst. Pure: time is an argument, in milliseconds of a monotonic clock; a time before an earlier one
 * counts as that one. In any `t` it admits no more than `burst + rate * t`, as long as no single cost is above the
 * burst; where both kinds of callers below meet, a ticket that is held may come on top, but never since the beginning.
 *
 * Two kinds of callers share a bucket and neither starves the other: those who wait (`reserve`) queue behind each other,
 * and those who are refused (`take`) leave a ticket: what the first of them needs is set aside, for whoever of them
 * comes back when it was told to. It grows with what a refused caller needs, so that small ones do not starve a large one.
 */
export class TokenBucket {
  readonly #perMs: number;
  readonly #burst: number;
  /** Below zero while reservations or a ticket are not earned yet. */
  #level: number;
  #atMs: number;
  #ticket = 0;
  #ticketDueMs = 0;

  constructor(perSec: number, burst: number, nowMs: number) {
    assert(perSec > 0 && burst > 0, 'a token bucket has a rate and a burst above 0');
    this.#perMs = perSec / 1000;
    this.#burst = burst;
    this.#level = burst;
    this.#atMs = nowMs;
  }

  /** 0: admitted. Otherwise nothing happened, and the caller may come back after that many milliseconds. */
  take(cost: number, nowMs: number): number {
    const now = this.#refill(nowMs);
    const needed = Math.min(cost, this.#burst);
    if (this.#ticket === 0 && this.#level >= needed) {
      this.#level -= cost;
      return 0;
    }
    if (this.#ticket < needed) {
      this.#level -= needed - this.#ticket;
      this.#ticket = needed;
      this.#ticketDueMs = now + Math.max(0, -this.#level) / this.#perMs;
    }
    if (now < this.#ticketDueMs) return Math.ceil(this.#ticketDueMs - now);
    this.#level += this.#ticket - cost;
    this.#ticket = 0;
    return 0;
  }

  /** Admits in the order of calls: the caller goes on after so many milliseconds (0: at once). */
  reserve(cost: number, nowMs: number): number {
    this.#refill(nowMs);
    this.#level -= cost;
    return this.#level >= 0 ? 0 : Math.ceil(-this.#level / this.#perMs);
  }

  /** How long until everything reserved is earned. */
  debtMs(nowMs: number): number {
    this.#refill(nowMs);
    return this.#level >= 0 ? 0 : Math.ceil(-this.#level / this.#perMs);
  }

  /** What was taken is not used after all. */
  giveBack(cost: number): void {
    this.#level = Math.min(this.#burst, this.#level + cost);
  }

  /** As good as new: nobody notices when it is thrown away and made again. */
  isIdle(nowMs: number): boolean {
    this.#refill(nowMs);
    return this.#ticket === 0 && this.#level >= this.#burst;
  }

  #refill(nowMs: number): number {
    const now = Math.max(nowMs, this.#atMs);
    this.#level = Math.min(this.#burst - this.#ticket, this.#level + (now - this.#atMs) * this.#perMs);
    this.#atMs = now;
    if (this.#ticket > 0 && now > this.#ticketDueMs + TICKET_MS) {
      this.#level = Math.min(this.#burst, this.#level + this.#ticket);
      this.#ticket = 0;
    }
    return now;
  }
}
