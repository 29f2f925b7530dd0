/** Dead letters of a sink into streams that somebody wants to be sent again, until each of them is over. */
import type { Letter } from './feed.ts';
import type { ReplayOutcome } from './pending-message.ts';

export interface Replaying {
  readonly letter: Letter;
  over(outcome: ReplayOutcome): void;
}

export class StreamReplays {
  readonly #waiting: Replaying[] = [];
  readonly #underWay = new Set<(outcome: ReplayOutcome) => void>();
  #wake: (() => void) | null = null;

  /** Resolves when it is over. Who asks bounds how many there are. */
  add(letter: Letter): Promise<ReplayOutcome> {
    const { promise, resolve } = Promise.withResolvers<ReplayOutcome>();
    this.#underWay.add(resolve);
    this.#waiting.push({
      letter,
      over: (outcome) => {
        this.#underWay.delete(resolve);
        resolve(outcome);
      },
    });
    this.#wake?.();
    return promise;
  }

  next(): Replaying | null {
    return this.#waiting.shift() ?? null;
  }

  /** Resolves when there is one. One at a time waits. */
  waiting(): Promise<void> {
    if (this.#waiting.length > 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  /** The sink does not run any more: whatever is not over is to be asked for again. */
  interrupt(): void {
    this.#waiting.length = 0;
    for (const resolve of this.#underWay) resolve('interrupted');
    this.#underWay.clear();
  }
}
