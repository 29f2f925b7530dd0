import type { KeyedLock } from '../keyed-lock.ts';
import { S2Error } from '../s2-error.ts';
import type { StoreCore } from '../store-core.ts';
import type { StreamState } from '../stream-state.ts';
import { type EmptyStreamsStore, emptyDueAt } from './empty-streams.ts';

/** Streams that are passed over before others get a turn: about a millisecond. */
const ROWS_PER_TURN = 10_000;

/** Deletion on empty in a local store: from the rows of the stream table, without taking a stream out of it. */
export class DeletableStreams implements EmptyStreamsStore {
  readonly #core: StoreCore;
  readonly #names: KeyedLock;
  readonly #markDeleted: (state: StreamState) => Promise<void>;

  /** `names`: the lock that creation and deletion of streams take. `markDeleted` stops appends before it awaits. */
  constructor(core: StoreCore, names: KeyedLock, markDeleted: (state: StreamState) => Promise<void>) {
    this.#core = core;
    this.#names = names;
    this.#markDeleted = markDeleted;
  }

  *dueStreams(): Generator<number | null, undefined> {
    const { streams, emptyArmedAt } = this.#core.state;
    for (let cursor = 0; cursor >= 0; ) {
      const due: number[] = [];
      const now = this.#core.clock.now();
      cursor = streams.scan(cursor, ROWS_PER_TURN, (id, config, tailSeqNum, trimPoint, createdAt, lastArrivalMs) => {
        if (config.deleteOnEmptyMinAgeSecs === 0) return;
        const armedAt = emptyArmedAt.get(id) ?? 0;
        if (emptyDueAt(config, tailSeqNum, trimPoint, createdAt, lastArrivalMs, armedAt) <= now) due.push(id);
      });
      yield* due;
      if (cursor >= 0) yield null;
    }
  }

  async deleteIfEmpty(id: number): Promise<boolean> {
    const found = this.#core.state.streams.get(id);
    if (found === undefined) return false;
    try {
      return await this.#names.run(`${found.basin}\0${found.name}`, async () => {
        // By its id: a stream of this name that was made in the meantime is another one.
        const state = this.#core.state.streams.get(id);
        if (state === undefined || state.deleting || !this.#isEmptyAndDue(state)) return false;
        await this.#markDeleted(state);
        return true;
      });
    } catch (error) {
      // Closing, or the journal is dead: the next start looks again.
      if (error instanceof S2Error) return false;
      throw error;
    }
  }

  #isEmptyAndDue(state: StreamState): boolean {
    const { config, tailSeqNum, trimPoint, createdAt, lastArrivalMs } = state;
    // An append under way is a write of now. That a stream which is due is empty follows from when it is due; it is asked
    // all the same, because what is deleted is gone.
    if (state.assignedSeqNum !== tailSeqNum || this.#core.firstSeqNum(state) < tailSeqNum) return false;
    const armedAt = this.#core.state.emptyArmedAt.get(state.id) ?? 0;
    const dueAt = emptyDueAt(config, tailSeqNum, trimPoint, createdAt, lastArrivalMs, armedAt);
    return dueAt <= this.#core.clock.now();
  }
}
