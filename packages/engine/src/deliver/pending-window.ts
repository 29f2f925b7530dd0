/** The messages of one session that were read and are not done: how many, how large, and who waits for room (I7). */
import type { PendingMessage } from './pending-message.ts';

export class PendingWindow {
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** In the order of the feed. */
  readonly messages = new Set<PendingMessage>();
  bytes = 0;
  /** When one was done last. */
  lastDoneMs: number;
  #waiting: (() => void)[] = [];

  constructor(now: () => number) {
    this.now = now;
    this.lastDoneMs = now();
  }

  get size(): number {
    return this.messages.size;
  }

  hold(message: PendingMessage): void {
    this.messages.add(message);
    this.bytes += message.cost;
  }

  release(message: PendingMessage): void {
    if (this.messages.delete(message)) this.bytes -= message.cost;
  }

  /** Something was done. */
  progressed(): void {
    this.lastDoneMs = this.now();
    this.wake();
  }

  wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }

  /** Resolves when something was done. */
  changed(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}
