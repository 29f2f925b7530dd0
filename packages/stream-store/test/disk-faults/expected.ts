import type { Random } from '@millrace/testkit/random';
import type { LocalStore } from '../../src/local-store.ts';

/**
 * One thing that operations change one after another: what it is for certain, and what it may have become by operations
 * that were not answered. These take effect in order, so after a crash some first part of them did.
 */
export class Expected<S> {
  /** What is certain, then the state after each operation in flight. */
  #states: { readonly value: S; readonly by: string }[];

  constructor(certain: S) {
    this.#states = [{ value: certain, by: '' }];
  }

  /** Once all in flight have taken effect. */
  get assumed(): S {
    return this.#states.at(-1)!.value;
  }

  get certain(): S {
    return this.#states[0]!.value;
  }

  /** What is on its way. */
  get inFlight(): readonly string[] {
    return this.#states.slice(1).map(({ by }) => by);
  }

  /** An operation is on its way; it would lead to `next`. Call what is returned when it is acknowledged. */
  begin(by: string, next: S): () => void {
    const state = { value: next, by };
    this.#states.push(state);
    return () => {
      const at = this.#states.indexOf(state);
      if (at > 0) this.#states = this.#states.slice(at);
    };
  }

  /** What was found after a crash has to be one of the states it may be in; from here on it is that for certain. */
  settle(matches: (state: S) => boolean): boolean {
    const found = this.#states.find(({ value }) => matches(value));
    if (found === undefined) return false;
    this.#states = [found];
    return true;
  }

  clone(): Expected<S> {
    const copy = new Expected(this.certain);
    copy.#states = [...this.#states];
    return copy;
  }

  /** For the message of a failure. */
  get possible(): readonly S[] {
    return this.#states.map(({ value }) => value);
  }
}

/** What the parts of a world work on; the store is another one in each life. */
export interface Ground {
  readonly store: LocalStore;
  readonly random: Random;
  /** Another one each time. */
  number(): number;
}
