/** Merges the rows of a sink's backfills into its changes, chunk by chunk, where change-window.ts allows it. */
import { firstOf } from '@millrace/core/first-of';
import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { BackfillManager } from './backfill-manager.ts';

/** The changes themselves, from the log. */
export interface ChangeFeed {
  fill(batch: MessageBatch): Promise<'full' | 'idle'>;
  readonly position: Position;
  /** Every transaction that committed before it went into a batch. */
  readonly progress: Lsn;
}

export class BackfillFeed {
  readonly #changes: ChangeFeed;
  readonly #backfills: BackfillManager;
  readonly #logChanged: (signal: AbortSignal) => Promise<void>;
  readonly #seal: (mark: readonly string[]) => readonly string[];

  /** The backfills are attached, and are detached by `close`. `seal`: what becomes of a mark that leaves here. */
  constructor(
    changes: ChangeFeed,
    backfills: BackfillManager,
    logChanged: (signal: AbortSignal) => Promise<void>,
    seal: (mark: readonly string[]) => readonly string[] = (mark) => mark,
  ) {
    this.#changes = changes;
    this.#backfills = backfills;
    this.#logChanged = logChanged;
    this.#seal = seal;
  }

  get progress(): Lsn {
    return this.#changes.progress;
  }

  async fill(batch: MessageBatch): Promise<'full' | 'idle'> {
    if (this.#fillFromBackfills(batch)) return 'full';
    const result = await this.#changes.fill(batch);
    if (result === 'full' || this.#backfills.idle) return result;
    if (!batch.empty) return 'full'; // What the log has comes first; the rows go into a batch of their own.
    return this.#fillFromBackfills(batch) ? 'full' : 'idle';
  }

  #fillFromBackfills(batch: MessageBatch): boolean {
    const { position, progress } = this.#changes;
    batch.through = position;
    const filled = this.#backfills.fill(batch, position, progress);
    if (filled && batch.mark !== null) batch.mark = { ...batch.mark, key: this.#seal(batch.mark.key) };
    return filled;
  }

  async changed(signal: AbortSignal): Promise<void> {
    await firstOf(signal, (over) => [this.#logChanged(over), this.#backfills.changedNext(over)]);
  }

  async close(): Promise<void> {
    await this.#backfills.detach();
  }
}
