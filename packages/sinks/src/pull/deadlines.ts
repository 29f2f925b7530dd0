/** Many deadlines on one timer. Adding and removing one costs the logarithm of how many there are. */

export interface Deadline {
  readonly at: number;
  readonly due: () => void;
  /** In the heap; -1: no longer. */
  index: number;
}

/** What a timer of Node takes. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export class Deadlines {
  readonly #now: () => number;
  /** A binary heap, the earliest first. */
  readonly #heap: Deadline[] = [];
  #timer: NodeJS.Timeout | null = null;
  #timerAt = Number.POSITIVE_INFINITY;

  constructor(now: () => number) {
    this.#now = now;
  }

  get size(): number {
    return this.#heap.length;
  }

  add(at: number, due: () => void): Deadline {
    const deadline = { at, due, index: this.#heap.length };
    this.#heap.push(deadline);
    this.#up(deadline);
    this.#arm();
    return deadline;
  }

  /** One that has come, or was removed, stays so. */
  remove(deadline: Deadline): void {
    const { index } = deadline;
    if (index === -1) return;
    deadline.index = -1;
    const last = this.#heap.pop()!;
    if (last === deadline) return;
    this.#place(last, index);
    this.#up(last);
    this.#down(last);
  }

  /** Calls what is due, the earliest first. The timer does; so may whoever holds the clock. */
  run(): void {
    for (let first = this.#heap[0]; first !== undefined && first.at <= this.#now(); first = this.#heap[0]) {
      this.remove(first);
      first.due();
    }
    this.#arm();
  }

  /** None of them comes any more. */
  clear(): void {
    for (const deadline of this.#heap) deadline.index = -1;
    this.#heap.length = 0;
    this.#disarm();
  }

  /** The timer stays when the earliest is gone: it then finds nothing due and is set anew. */
  #arm(): void {
    const first = this.#heap[0];
    if (first === undefined || (this.#timer !== null && this.#timerAt <= first.at)) return;
    this.#disarm();
    this.#timerAt = first.at;
    this.#timer = setTimeout(
      () => {
        this.#timer = null;
        this.run();
      },
      Math.min(Math.max(1, Math.ceil(first.at - this.#now())), TIMER_MS_MAX),
    );
  }

  #disarm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #place(deadline: Deadline, index: number): void {
    this.#heap[index] = deadline;
    deadline.index = index;
  }

  #up(deadline: Deadline): void {
    while (deadline.index > 0) {
      const parent = this.#heap[(deadline.index - 1) >> 1]!;
      if (parent.at <= deadline.at) return;
      this.#swap(parent, deadline);
    }
  }

  #down(deadline: Deadline): void {
    for (;;) {
      const left = this.#heap[2 * deadline.index + 1];
      const right = this.#heap[2 * deadline.index + 2];
      const child = right !== undefined && left !== undefined && right.at < left.at ? right : left;
      if (child === undefined || child.at >= deadline.at) return;
      this.#swap(deadline, child);
    }
  }

  #swap(above: Deadline, below: Deadline): void {
    const { index } = above;
    this.#place(above, below.index);
    this.#place(below, index);
  }
}
