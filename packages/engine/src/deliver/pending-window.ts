/** The messages of one session that were read and are not done: how many, how large, and who waits for room (I7). */
import type { PendingMessage } from './pending-message.ts';

export class PendingWindow {
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** In the order of the feed. */
  readonly messages = new Set<PendingMessage>();
  bytes = 0;
  /** When one was done last; at first, when it began. */
  lastDoneMs: number;
  everDone = false;
  readonly #waiting = new Set<() => void>();
  #waitingForRoom: (() => void)[] = [];

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
    this.everDone = true;
    this.wake();
  }

  wake(): void {
    for (const done of this.#waiting) done();
    this.moved();
  }

  /** There may be room, though nothing is done. */
  moved(): void {
    const waiting = this.#waitingForRoom;
    if (waiting.length === 0) return;
    this.#waitingForRoom = [];
    for (const resolve of waiting) resolve();
  }

  /** Resolves when something was done, or on the signal: nothing may be done for as long as a message fails. */
  changed(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        this.#waiting.delete(done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      this.#waiting.add(done);
      signal.addEventListener('abort', done, { once: true });
    });
  }

  /** Resolves when there may be room. One at a time waits. */
  room(): Promise<void> {
    return new Promise((resolve) => this.#waitingForRoom.push(resolve));
  }
}
