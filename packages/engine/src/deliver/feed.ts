import type { Lsn } from '@millrace/core/lsn';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { SinkCursor } from '@millrace/sinks/sink';

/** What a sink is to receive, in order: changes from the log, and rows of a backfill between them. */
export interface Feed {
  /**
   * Adds messages to an empty batch and sets its `through` (and `mark`). `full`: there is more, call again with another
   * batch. `idle`: nothing more for now; wait for `changed`.
   */
  fill(batch: MessageBatch): Promise<'full' | 'idle'>;
  /** Resolves when fill may have something, or on the signal. Rejects when the feed has failed. */
  changed(signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
  /** Every transaction that committed before it was looked at; moves while fill passes over what the sink does not take. */
  readonly progress: Lsn;
}

/** A feed of what comes after `cursor`. */
export type OpenFeed = (cursor: SinkCursor, signal: AbortSignal) => Promise<Feed>;
