/**
 * Whether the destination is there, told from what becomes of messages. One that fails while others arrive is at fault
 * itself; several that fail, with none that arrives, say that the destination is away. Then one message at a time finds
 * out whether it is back.
 */
import type { MillraceError } from '@millrace/core/error';
import type { DeliveryFailure } from '@millrace/sinks/push-sink';
import type { PendingMessage } from './pending-message.ts';
import { awayDelayMs, type RetryTimes } from './retry.ts';

/** So many messages in a row that could not be delivered, and none that could: the destination is away. */
const AWAY_AFTER_MESSAGES = 3;
/** A retry never comes sooner, whatever is configured. */
export const RETRY_FLOOR_MS = 1;

export interface Away {
  readonly error: MillraceError;
  readonly attempt: number;
  readonly untilMs: number;
  /**
   * For messages that have not failed yet: only what those find out moves it. Ones that fail whatever the destination
   * does would else keep it away, or keep the others waiting for longer and longer.
   */
  readonly untriedUntilMs: number;
}

export interface Suspect {
  /** Before it failed. */
  readonly tries: number;
  /** The destination does not want it sooner. */
  readonly notBeforeMs: number;
}

export interface PresenceParts {
  readonly retry: RetryTimes;
  readonly random: () => number;
  readonly now: () => number;
  /** An outage begins. */
  readonly onOutage: () => void;
}

export class Presence {
  readonly #parts: PresenceParts;
  #away: Away | null = null;
  /** Requests of which something arrived. */
  #arrivals = 0;
  /** Messages that failed since then, and had not before: what a destination that is away did to them is taken back. */
  readonly #suspects = new Map<PendingMessage, Suspect>();

  constructor(parts: PresenceParts) {
    this.#parts = parts;
  }

  get away(): Away | null {
    return this.#away;
  }

  /** Something arrived. */
  back(): void {
    this.#arrivals++;
    this.#away = null;
    this.#suspects.clear();
  }

  /** While it is away: when the next message may ask. `untried`: there are some that have not failed yet. */
  probeAtMs(untried: boolean): number {
    const { untilMs, untriedUntilMs } = this.#away!;
    return untried ? Math.min(untilMs, untriedUntilMs) : untilMs;
  }

  /** A person wants to know. */
  askNow(): void {
    if (this.#away !== null) this.#away = { ...this.#away, untilMs: 0, untriedUntilMs: 0 };
  }

  /** It failed. True: others arrived since it failed before, so it is at fault. */
  failed(message: PendingMessage): boolean {
    const proven = message.failedAt >= 0 && message.failedAt < this.#arrivals;
    message.failedAt = this.#arrivals;
    return proven;
  }

  /** It failed, and the destination may be the reason. `tries`: before that, should it have failed for the first time. */
  suspect(message: PendingMessage, tries: number, notBeforeMs: number): void {
    this.#suspects.set(message, { tries: this.#suspects.get(message)?.tries ?? tries, notBeforeMs });
  }

  forget(message: PendingMessage): void {
    this.#suspects.delete(message);
  }

  /** Enough have failed: it is away, and these are free of suspicion. null: there is no telling yet. */
  judge(failure: DeliveryFailure): ReadonlyMap<PendingMessage, Suspect> | null {
    if (this.#suspects.size < AWAY_AFTER_MESSAGES) return null;
    const pardoned = new Map(this.#suspects);
    this.#suspects.clear();
    let notBeforeMs = 0;
    for (const suspect of pardoned.values()) notBeforeMs = Math.max(notBeforeMs, suspect.notBeforeMs);
    this.#goAway(failure, notBeforeMs, true);
    return pardoned;
  }

  /** The message that was to find out failed. `untried`: it had not failed before. */
  stillAway(failure: DeliveryFailure, untried: boolean): void {
    this.#goAway(failure, 0, untried);
  }

  #goAway({ error, retryAfterMs }: DeliveryFailure, notBeforeMs: number, untried: boolean): void {
    const { retry, random, now, onOutage } = this.#parts;
    const attempt = (this.#away?.attempt ?? 0) + 1;
    const delayMs = Math.max(RETRY_FLOOR_MS, awayDelayMs(attempt, retry, retryAfterMs, random));
    const untilMs = Math.max(now() + delayMs, notBeforeMs);
    this.#away = { error, attempt, untilMs, untriedUntilMs: untried ? untilMs : this.#away!.untriedUntilMs };
    if (attempt === 1) onOutage();
  }
}
