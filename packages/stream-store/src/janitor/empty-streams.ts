import { DELETE_ON_EMPTY_CHECKS_MAX, DELETE_ON_EMPTY_DELETIONS_MAX } from '../limits.ts';
import type { StreamConfig } from '../model.ts';
import type { JanitorTask } from './janitor.ts';

/** Beyond min_age: writers that count on the minute get ten of them. */
export const DELETE_ON_EMPTY_SLACK_MS = 600_000;

/**
 * The earliest time at which a stream may be deleted for being empty, if it is empty then; Infinity: it has the feature
 * off, or only a trim can empty it. Nothing else is kept about deadlines: an append moves this on by itself.
 *
 * A trim that left nothing counts from the trim, which was a write. Otherwise records, and a stream that was only
 * created, get the retention age first: what is written last lives that long. `lastArrivalMs` is that of the last
 * write, 0 without one; `armedAt` when a change of the config began the time anew, 0: never. HOT PATH: once per stream
 * and minute.
 */
export function emptyDueAt(
  config: StreamConfig,
  tailSeqNum: number,
  trimPoint: number,
  createdAt: number,
  lastArrivalMs: number,
  armedAt: number,
): number {
  const { deleteOnEmptyMinAgeSecs, retentionSecs } = config;
  if (deleteOnEmptyMinAgeSecs === 0) return Number.POSITIVE_INFINITY;
  const isTrimmedEmpty = tailSeqNum > 0 && trimPoint >= tailSeqNum;
  const retentionMs = retentionSecs === null ? 0 : retentionSecs * 1000;
  let base: number;
  if (isTrimmedEmpty) base = lastArrivalMs;
  else if (tailSeqNum > 0 && retentionSecs === null) return Number.POSITIVE_INFINITY;
  else base = Math.max(createdAt, lastArrivalMs) + retentionMs;
  if (armedAt > 0) base = Math.max(base, armedAt + retentionMs);
  return base + deleteOnEmptyMinAgeSecs * 1000 + DELETE_ON_EMPTY_SLACK_MS;
}

/** What the task needs of the store. */
export interface EmptyStreamsStore {
  /**
   * Ids of the streams that are due by their facts, empty or not; null now and then, when so many were passed over
   * that it is time to let others run. Stays valid while streams come and go.
   */
  dueStreams(): Iterator<number | null, undefined>;
  /** Looks at the stream once more, then marks it as deleted, without an await in between. False: it was not due. */
  deleteIfEmpty(id: number): Promise<boolean>;
}

/**
 * Deletes streams that are empty for long enough. All streams are looked at in turn, by a few numbers each: no timer, no
 * queue and no memory per stream, nothing to rebuild after a crash. A round that has too much to do is continued by the
 * next where it stopped.
 */
export class EmptyStreams implements JanitorTask {
  readonly #store: EmptyStreamsStore;
  #walk: Iterator<number | null, undefined> | null = null;

  constructor(store: EmptyStreamsStore) {
    this.#store = store;
  }

  async run(signal: AbortSignal): Promise<void> {
    this.#walk ??= this.#store.dueStreams();
    let deletions: Promise<boolean>[] = [];
    for (let checks = 0; checks < DELETE_ON_EMPTY_CHECKS_MAX && !signal.aborted; ) {
      const next = this.#walk.next();
      if (next.done === true) {
        this.#walk = null;
        break;
      }
      if (next.value === null) {
        await new Promise<void>((resolve) => setImmediate(resolve));
        continue;
      }
      checks++;
      deletions.push(this.#store.deleteIfEmpty(next.value));
      if (deletions.length < DELETE_ON_EMPTY_DELETIONS_MAX) continue;
      await Promise.all(deletions);
      deletions = [];
    }
    await Promise.all(deletions);
  }
}
