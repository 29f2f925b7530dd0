import type { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { MessageAction } from '@millrace/sinks/push-sink';
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
  /** What holds up the next message, which is tried again at the next fill. Absent: nothing ever does. */
  readonly blocked?: Blocked | null;
  /**
   * A dead letter, as it would be delivered now, into an empty batch; never while `fill` is under way. `given_up`: it
   * failed again, and a new letter of it is durable. Absent: this feed has none.
   */
  replay?(letter: Letter, batch: MessageBatch): Promise<'made' | 'filtered' | 'given_up'>;
}

/** A message that was given up, as it was before any function. */
export interface Letter {
  readonly position: Position;
  /** Which of the messages that functions made of it; ALL_SUBS: all. */
  readonly sub: number;
  readonly action: MessageAction;
  readonly message: Buffer;
}

export interface Blocked {
  readonly attempt: number;
  readonly error: MillraceError;
}

/** What a feed may ask of the delivery that it feeds. */
export interface FeedProgress {
  /** Every batch so far that carried a mark of this backfill is done. */
  isMarked(backfill: string): boolean;
}

/**
 * A feed of what comes after `cursor`. Without `progress` a batch is done before the next one is asked for where that
 * one's mark matters: see Feed.
 */
export type OpenFeed = (cursor: SinkCursor, signal: AbortSignal, progress?: FeedProgress) => Promise<Feed>;
