/** Debt below this is carried on: timers are coarse. */
const REST_MS_MIN = 5;

export interface ThrottleOptions {
  readonly bytesPerSec: number;
  readonly busyBytesPerSec: number;
  /** True while appends are under way. */
  readonly busy: () => boolean;
}

/**
 * Holds compaction to a rate, a lower one while appends are under way, and gives the event loop its turn. After
 * `stop`, whoever asks is refused.
 */
export class CompactionThrottle {
  readonly #options: ThrottleOptions | null;
  #debtMs = 0;
  #since = performance.now();
  readonly #stopping = new AbortController();

  /** null: as fast as it goes, with turns. */
  constructor(options: ThrottleOptions | null) {
    this.#options = options;
  }

  get stopped(): boolean {
    return this.#stopping.signal.aborted;
  }

  stop(): void {
    this.#stopping.abort();
  }

  /** Before or after reading or writing `bytes`. Rejects with CompactionStopped. */
  async take(bytes: number): Promise<void> {
    const options = this.#options;
    if (options !== null) {
      const now = performance.now();
      this.#debtMs = Math.max(0, this.#debtMs - (now - this.#since));
      this.#since = now;
      this.#debtMs += (bytes * 1000) / (options.busy() ? options.busyBytesPerSec : options.bytesPerSec);
      if (this.#debtMs >= REST_MS_MIN) await rest(this.#debtMs, this.#stopping.signal);
    }
    await this.turn();
  }

  async turn(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    if (this.stopped) throw new CompactionStopped();
  }
}

/** The store closes. Nothing is wrong, and nothing was changed. */
export class CompactionStopped extends Error {
  override readonly name = 'CompactionStopped';
}

/** As pause of core, but a process that has nothing else to do may end. */
export function rest(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    timer.unref();
    signal.addEventListener('abort', end, { once: true });
    if (signal.aborted) end();
  });
}
