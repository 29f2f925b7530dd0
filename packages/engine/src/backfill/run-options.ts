/** What a backfill's run is given, and what it hands rows over to. */

import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { TableSchema } from '../table-schema.ts';
import type { BackfillJob } from './backfill-job.ts';
import type { BackfillMark } from './backfill-mark.ts';
import type { RateLimit } from './read-pacing.ts';
import type { ReaderPool } from './reader-pool.ts';
import type { RowColumns } from './row-chunk.ts';
import type { RowEstimate } from './row-estimate.ts';

/** What `read` messages of one batch share. */
export interface ReadContext {
  /** Everything at or before it was delivered before these rows. */
  readonly at: Position;
  readonly lsn: Lsn;
  readonly readAtMicros: bigint;
  /** Start of the idempotency key; the texts of the `identity` columns follow. */
  readonly prefix: string;
  /** Indexes of the columns that tell the row from others. */
  readonly identity: readonly number[];
}

/** Makes a `read` message of a row; false: the batch is full; null: the sink does not want the row. `index` is the row's place in its chunk. */
export type WriteRead = (
  batch: MessageBatch,
  schema: TableSchema,
  bytes: Buffer,
  columns: RowColumns,
  index: number,
  about: ReadContext,
) => boolean | null;

export interface RunOptions {
  readonly job: BackfillJob;
  readonly mark: BackfillMark | null;
  readonly pool: ReaderPool;
  readonly rate: RateLimit;
  readonly rowsPerSecondMax: number | null;
  readonly publication: string;
  readonly takes: (schema: string, table: string) => boolean;
  /** The sink is told of every update of the table. */
  readonly takesUpdates: (schema: string, table: string) => boolean;
  /** Why nothing may be read now, or null. */
  readonly blocked: () => string | null;
  readonly write: WriteRead;
  /** The transaction the feed is in the middle of. */
  readonly currentXid: () => number | null;
  /** Asks capture to learn now how far Postgres has sent. */
  readonly poke: () => void;
  /** Something may be taken, or has ended. */
  readonly notify: () => void;
  readonly onEstimate: (estimate: RowEstimate) => void;
  readonly onProgress: (rows: number) => void;
  /** Pages of a relation that are to be read, remembered over restarts: what comes later comes through the stream. */
  readonly ends: Map<string, number>;
  /** `since`: see BackfillJob; set when reading begins, and remembered like `ends`. */
  readonly begun: { since: string | null };
  /** Puts `ends`, `begun` and the counts on record: before reading begins, and before the mark that says it is done. */
  readonly remember: () => Promise<void>;
}

/** What a feed lends to the backfills while it runs. */
export interface FeedPort {
  /** Marks of the sink's cursor. */
  readonly marks: ReadonlyMap<string, readonly string[]>;
  readonly write: WriteRead;
  /** The feed began inside the transaction with this commit LSN: its first changes were delivered before. */
  readonly partialLsn: Lsn | null;
  readonly inTransaction: () => boolean;
  /** Every batch with a mark of this backfill is done. Absent: a batch is, when the next one is asked for. */
  readonly isMarked?: ((backfill: string) => boolean) | undefined;
  readonly poke: () => void;
}
