/**
 * How fast and how many at once requests go to one HTTP endpoint, whichever sinks they are of. Who waits here is bounded
 * by the `concurrency` of the sinks (I7).
 */

/** Absent: as many as come. */
export interface RequestLimits {
  readonly requestsPerSecond?: number | undefined;
  readonly concurrency?: number | undefined;
}

/** After a pause requests may come this much closer together, so that a coarse timer does not lower the rate. */
const BURST_MS = 100;

export class RequestGate {
  readonly #intervalMs: number;
  readonly #concurrency: number;
  readonly #now: () => number;
  readonly #waiting = new Set<() => void>();
  #underWay = 0;
  /** When the next request may start, were it not for BURST_MS. */
  #nextAt = Number.NEGATIVE_INFINITY;
  #heldUntil = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | null = null;

  /** `now`: milliseconds that never go back. */
  constructor(
    { requestsPerSecond, concurrency = Number.POSITIVE_INFINITY }: RequestLimits = {},
    now: () => number = () => performance.now(),
  ) {
    this.#intervalMs = requestsPerSecond === undefined ? 0 : 1000 / requestsPerSecond;
    this.#concurrency = concurrency;
    this.#now = now;
  }

  /** Resolves, first come first served, when a request may start; or at once on the signal. Call `leave` after it. */
  enter(signal: AbortSignal): Promise<void> {
    if (signal.aborted || (this.#waiting.size === 0 && this.#delay() === 0)) {
      if (!signal.aborted) this.#pace();
      this.#underWay++;
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      const admit = () => {
        signal.removeEventListener('abort', giveUp);
        this.#waiting.delete(admit);
        this.#underWay++;
        resolve();
      };
      const giveUp = () => {
        admit();
        this.#admit();
      };
      this.#waiting.add(admit);
      signal.addEventListener('abort', giveUp, { once: true });
      this.#admit();
    });
  }

  leave(): void {
    this.#underWay--;
    this.#admit();
  }

  /** The endpoint asked for a rest: nothing starts before it is over. */
  holdFor(ms: number): void {
    this.#heldUntil = Math.max(this.#heldUntil, this.#now() + ms);
    this.#admit();
  }

  #pace(): void {
    this.#nextAt = Math.max(this.#nextAt, this.#now() - BURST_MS) + this.#intervalMs;
  }

  /** Infinite: until a request is over. */
  #delay(): number {
    if (this.#underWay >= this.#concurrency) return Number.POSITIVE_INFINITY;
    const now = this.#now();
    const paced = this.#intervalMs === 0 ? 0 : this.#nextAt - now;
    return Math.max(0, paced, this.#heldUntil - now);
  }

  #admit(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    for (const admit of this.#waiting) {
      const delay = this.#delay();
      if (delay > 0) {
        if (delay !== Number.POSITIVE_INFINITY) this.#timer = setTimeout(() => this.#admit(), Math.ceil(delay));
        return;
      }
      this.#pace();
      admit();
    }
  }
}
