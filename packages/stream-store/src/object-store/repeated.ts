import { setTimeout as delay } from 'node:timers/promises';

/** Runs a task again and again, each time some while after it ended the last time, or sooner when woken. */
export class Repeated {
  readonly #task: () => Promise<void>;
  readonly #everyMs: number;
  #stopped = new AbortController();
  #woken = Promise.withResolvers<void>();
  #running: Promise<void> | null = null;

  constructor(everyMs: number, task: () => Promise<void>) {
    this.#everyMs = everyMs;
    this.#task = task;
  }

  /** The first run is at once. */
  start(): void {
    this.#running ??= this.#run();
  }

  wake(): void {
    this.#woken.resolve();
  }

  /** Resolves when the run under way has ended. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#running;
  }

  get stopping(): boolean {
    return this.#stopped.signal.aborted;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopped;
    while (!signal.aborted) {
      this.#woken = Promise.withResolvers<void>();
      await this.#task();
      if (signal.aborted) return;
      const pause = new AbortController();
      const rest = delay(this.#everyMs, undefined, { signal: AbortSignal.any([signal, pause.signal]) });
      await Promise.race([rest.catch(() => {}), this.#woken.promise]);
      pause.abort();
    }
  }
}
