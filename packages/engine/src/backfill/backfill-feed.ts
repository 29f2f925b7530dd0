/** Merges a backfill's rows into a sink's changes, chunk by chunk, where change-window.ts allows it. */
import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import { BACKFILL_DONE, type Backfill } from './backfill.ts';

/** The changes themselves, from the log. */
export interface ChangeFeed {
  fill(batch: MessageBatch): Promise<'full' | 'idle'>;
  readonly position: Position;
  /** Every transaction that committed before it went into a batch. */
  readonly progress: Lsn;
}

export class BackfillFeed {
  readonly #changes: ChangeFeed;
  readonly #backfill: Backfill;
  readonly #logChanged: (signal: AbortSignal) => Promise<void>;
  readonly #stop: AbortController;

  constructor(
    changes: ChangeFeed,
    backfill: Backfill,
    logChanged: (signal: AbortSignal) => Promise<void>,
    stop: AbortController,
  ) {
    this.#changes = changes;
    this.#backfill = backfill;
    this.#logChanged = logChanged;
    this.#stop = stop;
  }

  async fill(batch: MessageBatch): Promise<'full' | 'idle'> {
    if (this.#fillFromBackfill(batch)) return 'full';
    const result = await this.#changes.fill(batch);
    if (result === 'full' || this.#backfill.done) return result;
    if (!batch.empty) return 'full'; // What the log has comes first; the rows go into a batch of their own.
    return this.#fillFromBackfill(batch) ? 'full' : 'idle';
  }

  #fillFromBackfill(batch: MessageBatch): boolean {
    const { position, progress } = this.#changes;
    batch.through = position;
    const finished = this.#backfill.inChunk ? undefined : this.#backfill.takeFinished();
    if (finished !== undefined) {
      batch.mark = { backfill: finished, key: BACKFILL_DONE };
      return true;
    }
    return this.#backfill.fill(batch, position, progress);
  }

  async changed(signal: AbortSignal): Promise<void> {
    await Promise.race([this.#logChanged(signal), this.#backfill.changedNext()]);
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#backfill.closed();
  }
}
