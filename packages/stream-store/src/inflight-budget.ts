/**
 * Bytes accepted but not yet durable, over all streams, and who waits for room. Admission and the append it is for are
 * two calls, so what was admitted in this turn of the event loop counts until the next one, by when the append has
 * taken its bytes itself.
 */
export class InflightBudget {
  readonly #bytesMax: number;
  #inflight = 0;
  #granted = 0;
  #clearing = false;
  readonly #waiting = new Set<{ readonly bytes: number; readonly resolve: () => void }>();

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get inflightBytes(): number {
    return this.#inflight;
  }

  take(bytes: number): void {
    this.#inflight += bytes;
  }

  giveBack(bytes: number): void {
    this.#inflight -= bytes;
  }

  /** In the order of calls. Rejects with the signal's reason. */
  admit(bytes: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted === true) return Promise.reject(signal.reason);
    if (this.#waiting.size === 0 && this.#fits(bytes)) {
      this.#grant(bytes);
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        this.#waiting.delete(waiter);
        reject(signal!.reason);
        this.release();
      };
      const waiter = {
        bytes,
        resolve: () => {
          signal?.removeEventListener('abort', onAbort);
          resolve();
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#waiting.add(waiter);
    });
  }

  /** Lets in who fits now. */
  release(): void {
    for (const waiter of this.#waiting) {
      if (!this.#fits(waiter.bytes)) return;
      this.#waiting.delete(waiter);
      this.#grant(waiter.bytes);
      waiter.resolve();
    }
  }

  /** Lets everybody in, whose appends then meet the reason themselves. */
  open(): void {
    for (const waiter of this.#waiting) waiter.resolve();
    this.#waiting.clear();
  }

  /** Something larger than the whole budget passes when nothing else is in flight. */
  #fits(bytes: number): boolean {
    const used = this.#inflight + this.#granted;
    return used === 0 || used + bytes <= this.#bytesMax;
  }

  #grant(bytes: number): void {
    this.#granted += bytes;
    if (this.#clearing) return;
    this.#clearing = true;
    setImmediate(() => {
      this.#clearing = false;
      this.#granted = 0;
      this.release();
    });
  }
}
