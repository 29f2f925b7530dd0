import { pause } from '@millrace/core/pause';
import { MINUTE_MS, type UsageMeter } from '../metrics/usage-meter.ts';
import type { StreamStore } from '../store.ts';
import { METRICS_STOP_MS, METRICS_TICK_MS } from './limits.ts';

/** Closes the minutes of the metrics, and has the store look at its sizes once in each. */
export class MetricsClock {
  readonly #store: StreamStore;
  readonly #usage: UsageMeter;
  readonly #now: () => number;
  readonly #timer: NodeJS.Timeout;
  #minute: number;

  constructor(store: StreamStore, usage: UsageMeter, now: () => number) {
    this.#store = store;
    this.#usage = usage;
    this.#now = now;
    this.#minute = Math.floor(now() / MINUTE_MS);
    this.#timer = setInterval(() => void this.tick(), METRICS_TICK_MS);
    this.#timer.unref();
  }

  /** Resolves when what was due is done. */
  async tick(): Promise<void> {
    const now = this.#now();
    const minute = Math.floor(now / MINUTE_MS);
    if (minute === this.#minute) return;
    this.#minute = minute;
    await this.#usage.tick();
    await this.#store.sizes.observe(now);
  }

  /** Keeps what was counted since the last minute, unless the store is stuck. It has to be open still. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    const kept = new AbortController();
    const closed = this.#usage.close().finally(() => kept.abort());
    await Promise.race([closed, pause(METRICS_STOP_MS, kept.signal)]);
  }
}
