/**
 * How far a backfill has come, as its sink keeps it: in the header of the last record of a batch, and in the cursor.
 * It names the last row delivered, and the counts up to there, so that both are exact after a kill at any point.
 *
 * `["2", "<processed>/<ingested>", "<oid of the relation>", "<scope>", ...position]`
 *
 * The position is what the order of reading says: `(page,item)`, the key, or sort column and key. An empty mark means
 * that every row was delivered. An earlier version wrote the key alone: such a mark is the job's `startKey`.
 *
 * Of a backfill by place on disk that has come to its end and reads rows again by key (backfill-run.ts) the position is
 * `late`, then the key.
 */
import type { BackfillOrder } from './backfill-job.ts';

export interface BackfillMark {
  readonly processed: number;
  readonly ingested: number;
  /** The relation that is being read, a partition for instance. */
  readonly oid: number;
  /** Positions hold for this only: its file on disk, or what its key is ordered by (chunk-query.ts). */
  readonly scope: string;
  readonly position: readonly string[];
}

const VERSION = '2';

const LATE = 'late';

/** The position of a row that is read again by key. */
export function latePosition(key: readonly string[]): string[] {
  return [LATE, ...key];
}

/** The key in such a position; null: it is not one. Only a backfill by place on disk has them: a key can be any text. */
export function lateKey(order: BackfillOrder, mark: BackfillMark | null): readonly string[] | null {
  return order === 'physical' && mark?.position[0] === LATE ? mark.position.slice(1) : null;
}

/** A mark that stands for "every row was delivered". */
export const BACKFILL_DONE: readonly string[] = [];

export function isDone(mark: readonly string[] | undefined): boolean {
  return mark !== undefined && mark.length === 0;
}

export function formatMark(mark: BackfillMark): string[] {
  return [VERSION, `${mark.processed}/${mark.ingested}`, String(mark.oid), mark.scope, ...mark.position];
}

/** null: not a mark of this version. */
export function parseMark(mark: readonly string[] | undefined): BackfillMark | null {
  if (mark === undefined || mark[0] !== VERSION || mark.length < 5) return null;
  const [, counts, oid, scope, ...position] = mark;
  const [processed, ingested] = counts!.split('/').map(Number);
  if (!Number.isSafeInteger(processed) || !Number.isSafeInteger(ingested)) return null;
  return { processed: processed!, ingested: ingested!, oid: Number(oid), scope: scope!, position };
}
