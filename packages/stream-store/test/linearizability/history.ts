/*
 * What clients did to one stream and what they were told, in the order in which the recorder saw it happen: every call
 * and every answer takes the next place of one counter, so that "before" needs no clock.
 */

/** What was asked. Records are known by their hashes. */
export type Call =
  | {
      readonly kind: 'append';
      readonly records: readonly number[];
      readonly matchSeqNum?: number | undefined;
      readonly fencingToken?: string | undefined;
      /** The token that the last fence command among the records sets. */
      readonly setsToken?: string | undefined;
    }
  /** Of everything from the beginning to the tail. */
  | { readonly kind: 'read' }
  | { readonly kind: 'check-tail' };

export type Outcome =
  | { readonly kind: 'appended'; readonly startSeqNum: number }
  /** `hash` of all `records`, which are those of 0 up to the tail. */
  | { readonly kind: 'read'; readonly tail: number; readonly hash: number; readonly records: readonly number[] }
  | { readonly kind: 'tail'; readonly tail: number }
  /** A refusal that shows the token in force. */
  | { readonly kind: 'fencing-token-mismatch'; readonly actual: string }
  /** A refusal that shows the next sequence number. */
  | { readonly kind: 'seq-num-mismatch'; readonly next: number }
  /** The answer was lost, or promises nothing: it may have happened, or may happen at any later time, or never. */
  | { readonly kind: 'unknown' };

export interface Operation {
  readonly id: number;
  readonly client: string;
  readonly call: Call;
  readonly calledAt: number;
  /** Infinity when the outcome is unknown. */
  readonly answeredAt: number;
  readonly outcome: Outcome;
}

export interface Pending {
  answered(outcome: Outcome): void;
  /**
   * Nothing to be held to: a read that failed, or an append refused with a promise that it had no effect. Such an append
   * is not among the operations; had it happened all the same, what is read later fits no order.
   */
  forgotten(): void;
}

export class HistoryRecorder {
  readonly #operations: Operation[] = [];
  #now = 0;
  #nextId = 0;
  /** Of all calls, also of those forgotten. */
  get calls(): number {
    return this.#nextId;
  }

  call(client: string, call: Call): Pending {
    const id = this.#nextId++;
    const calledAt = this.#now++;
    let open = true;
    return {
      answered: (outcome) => {
        if (!open) throw new Error('an operation is answered once');
        open = false;
        const isUnknown = outcome.kind === 'unknown';
        // A question that was not answered says nothing.
        if (isUnknown && call.kind !== 'append') return;
        const answeredAt = isUnknown ? Number.POSITIVE_INFINITY : this.#now++;
        this.#operations.push({ id, client, call, calledAt, answeredAt, outcome });
      },
      forgotten: () => {
        open = false;
      },
    };
  }

  /** In the order of the calls. */
  get operations(): readonly Operation[] {
    return this.#operations.toSorted((a, b) => a.calledAt - b.calledAt);
  }
}
