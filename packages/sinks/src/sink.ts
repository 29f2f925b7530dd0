import type { Position } from '@millrace/core/position';
import type { BatchLimits, MessageBatch } from './message-batch.ts';

/** How far a sink has come. Everything at or before `position` is durable in the destination (I4). */
export interface SinkCursor {
  readonly position: Position;
  /** Per backfill id, the key of the last row delivered; per `schema/<oid>`, the version the sink was told of. */
  readonly backfills: ReadonlyMap<string, readonly string[]>;
  /** What the sink needs to find its place again; opaque to the engine, JSON. */
  readonly destination: unknown;
}

/**
 * A destination. The deliverer calls `resume` first, then `write` in commit order, and after any rejection of a write
 * waits for the others to settle and starts over with `resume`.
 */
export interface Sink {
  readonly limits: BatchLimits;
  /** Writes under way at once, at most. They are called in order; each may rely on the ones before it. */
  readonly writesMax: number;

  /**
   * Where to go on: `saved` (null for a new sink), moved forward by what the destination itself proves to hold.
   * Rejects with a coded error when the destination cannot be reached or refuses.
   */
  resume(saved: SinkCursor | null, signal: AbortSignal): Promise<SinkCursor | null>;

  /**
   * Resolves once every message of the batch is durable in the destination, not merely accepted, with what belongs in
   * SinkCursor.destination from then on. Rejects with a MillraceError whose code says how to retry; whether part of
   * the batch arrived is then for `resume` to find out. The batch belongs to the sink until the promise settles.
   */
  write(batch: MessageBatch, signal: AbortSignal): Promise<unknown>;

  /** The cursor is on record: what the sink kept for finding its place before it can go. */
  saved(cursor: SinkCursor): void;

  /** Idempotent. */
  close(): Promise<void>;
}
