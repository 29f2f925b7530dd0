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
  #waiting: (() => void)[] = [];
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
    this.#waiting = wakeAll(this.#waiting);
    this.moved();
  }

  /** There may be room, though nothing is done. */
  moved(): void {
    this.#waitingForRoom = wakeAll(this.#waitingForRoom);
  }

  /** Resolves when something was done. */
  changed(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Resolves when there may be room. */
  room(): Promise<void> {
    return new Promise((resolve) => this.#waitingForRoom.push(resolve));
  }
}

function wakeAll(waiting: (() => void)[]): (() => void)[] {
  if (waiting.length === 0) return waiting;
  for (const resolve of waiting) resolve();
  return [];
}
