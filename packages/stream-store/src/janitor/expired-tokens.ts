import { EXPIRED_TOKEN_KEPT_MS, TOKENS_LOOKED_AT_MAX } from '../limits.ts';
import type { AccessTokenInfo } from '../model.ts';
import type { JanitorTask } from './janitor.ts';

/** What the task needs of the store. */
export interface ExpiredTokensStore {
  /** All tokens; stays valid while tokens come and go. */
  tokens(): Iterator<AccessTokenInfo, undefined>;
  /** Removes a token if, looked at once more, it ran out before `timeMs`. */
  forgetExpired(id: string, timeMs: number): Promise<void>;
}

/**
 * Forgets access tokens long after they ran out: issuing short-lived ones must not fill the store. Not at once, because
 * a clock that is wrong for a while would take tokens for good that are only refused meanwhile.
 */
export class ExpiredTokens implements JanitorTask {
  readonly #store: ExpiredTokensStore;
  readonly #now: () => number;
  #walk: Iterator<AccessTokenInfo, undefined> | null = null;

  constructor(store: ExpiredTokensStore, now: () => number) {
    this.#store = store;
    this.#now = now;
  }

  async run(): Promise<void> {
    const timeMs = this.#now() - EXPIRED_TOKEN_KEPT_MS;
    const removals: Promise<void>[] = [];
    this.#walk ??= this.#store.tokens();
    for (let looks = 0; looks < TOKENS_LOOKED_AT_MAX; looks++) {
      const next = this.#walk.next();
      if (next.done === true) {
        this.#walk = null;
        break;
      }
      const { id, expiresAt } = next.value;
      if (expiresAt !== null && expiresAt < timeMs) removals.push(this.#store.forgetExpired(id, timeMs));
    }
    await Promise.all(removals);
  }
}
