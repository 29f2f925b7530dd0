/**
 * Concurrency that comes again with its seed: whoever waits for a turn is let go one at a time, in an order drawn from
 * `random`. A party can be held back, as a process that is stopped; its turns wait.
 */
export class Turns {
  readonly #random: () => number;
  readonly #waiting: { readonly party: string; readonly go: () => void }[] = [];
  readonly #held = new Set<string>();
  /** Turns given so far: the clock of a simulation. */
  count = 0;

  constructor(random: () => number) {
    this.#random = random;
  }

  wait(party: string): Promise<void> {
    return new Promise((go) => this.#waiting.push({ party, go }));
  }

  hold(party: string): void {
    this.#held.add(party);
  }

  release(party: string): void {
    this.#held.delete(party);
  }

  /** Gives turns until `done` settles. `between` runs before each. Throws when nobody who may go is left. */
  async run<T>(done: Promise<T>, between: () => void = () => {}): Promise<T> {
    let over = false;
    const settled = done.finally(() => {
      over = true;
    });
    settled.catch(() => {});
    for (;;) {
      // Until nothing moves any more without a turn.
      await new Promise<void>((resolve) => setImmediate(resolve));
      if (over) return await settled;
      between();
      const free = this.#waiting.filter(({ party }) => !this.#held.has(party));
      if (free.length === 0) {
        if (this.#held.size === 0) throw new Error('everybody waits for somebody else');
        this.#held.clear();
        continue;
      }
      const next = free[Math.floor(this.#random() * free.length)]!;
      this.#waiting.splice(this.#waiting.indexOf(next), 1);
      this.count++;
      next.go();
    }
  }
}
