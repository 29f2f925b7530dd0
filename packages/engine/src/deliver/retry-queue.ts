/**
 * Messages by when they are tried again, soonest first. A window full of them (10,000) is looked at whenever anything of
 * the sink is done, so finding those that are due must not look at all: a binary heap.
 */
import type { PendingMessage } from './pending-message.ts';

interface Entry {
  readonly message: PendingMessage;
  readonly atMs: number;
}

/** Entries of messages that were put back before their time stay until they are this many more than the others. */
const STALE_MAX = 64;

export class RetryQueue {
  /** Each not later than its two children, 2i + 1 and 2i + 2. */
  #heap: Entry[] = [];
  readonly #waiting = new Set<PendingMessage>();

  /** In the order in which they failed. */
  get messages(): ReadonlySet<PendingMessage> {
    return this.#waiting;
  }

  /** At its `nextTryMs`. */
  add(message: PendingMessage): void {
    this.#waiting.add(message);
    this.#heap.push({ message, atMs: message.nextTryMs });
    this.#up(this.#heap.length - 1);
  }

  remove(message: PendingMessage): void {
    if (!this.#waiting.delete(message)) return;
    if (this.#heap.length > 2 * this.#waiting.size + STALE_MAX) this.#rebuild();
  }

  /** When the first of them is due; Infinity: there is none. */
  get nextMs(): number {
    return this.first?.nextTryMs ?? Infinity;
  }

  /** The one that is due soonest. */
  get first(): PendingMessage | null {
    this.#dropStale();
    return this.#heap[0]?.message ?? null;
  }

  /** Takes out one that is due; null: there is none. */
  takeDue(nowMs: number): PendingMessage | null {
    this.#dropStale();
    const first = this.#heap[0];
    if (first === undefined || first.atMs > nowMs) return null;
    this.#shift();
    this.#waiting.delete(first.message);
    return first.message;
  }

  #dropStale(): void {
    while (this.#heap.length > 0 && this.#isStale(this.#heap[0]!)) this.#shift();
  }

  /** It was put back before its time, and may have failed again since. */
  #isStale({ message, atMs }: Entry): boolean {
    return !this.#waiting.has(message) || message.nextTryMs !== atMs;
  }

  #shift(): void {
    const last = this.#heap.pop()!;
    if (this.#heap.length === 0) return;
    this.#heap[0] = last;
    this.#down(0);
  }

  #rebuild(): void {
    this.#heap = [...this.#waiting].map((message) => ({ message, atMs: message.nextTryMs }));
    for (let at = (this.#heap.length >> 1) - 1; at >= 0; at--) this.#down(at);
  }

  #up(from: number): void {
    const heap = this.#heap;
    const entry = heap[from]!;
    let at = from;
    while (at > 0) {
      const above = (at - 1) >> 1;
      if (heap[above]!.atMs <= entry.atMs) break;
      heap[at] = heap[above]!;
      at = above;
    }
    heap[at] = entry;
  }

  #down(from: number): void {
    const heap = this.#heap;
    const entry = heap[from]!;
    let at = from;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= heap.length) break;
      if (below + 1 < heap.length && heap[below + 1]!.atMs < heap[below]!.atMs) below++;
      if (heap[below]!.atMs >= entry.atMs) break;
      heap[at] = heap[below]!;
      at = below;
    }
    heap[at] = entry;
  }
}
