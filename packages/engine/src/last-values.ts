/**
 * The port to the row index: what a column held before a change. Decoding asks it for values that an update left alone
 * and Postgres therefore did not send (unchanged TOAST), when a sink wants them filled in from our own history.
 */
import type { Position } from '@millrace/core/position';
import { VALUE_TEXT } from '@millrace/postgres/pgoutput';
import type { TableSchema } from './table-schema.ts';

/** Text of a value as pgoutput sent it, at bytes[start, end). Valid until the next call. */
export interface LastValue {
  readonly bytes: Buffer;
  readonly start: number;
  readonly end: number;
}

export interface LastValues {
  /** Whether every change before `position` is taken in, or given up for good. Cheap: asked per row that needs filling. */
  covers(position: Position): boolean;
  /** Resolves when `covers(position)` holds, or on the signal. Never rejects for what the index alone suffers from. */
  caughtUp(position: Position, signal: AbortSignal): Promise<void>;
  /**
   * What `column` of the row with this key (`rowKey`) held just before `before`, whatever was committed after. Asked
   * only where `covers(before)` holds, and while the row's own update is still to be delivered. `table` is that of the
   * update; rows are kept by `table.oid` and key, so that a renamed table keeps its rows.
   * null: not known. A guess would be worse: the sink then leaves the value out and says so.
   */
  value(table: TableSchema, key: string, column: string, before: Position): LastValue | null;
}

/** Indexes of the columns that tell rows apart in the log: those of the replica identity, else the primary key's. */
export function identityColumns(table: TableSchema): number[] {
  const names = table.replicaIdentity === 'i' ? (table.identity ?? table.primaryKey) : table.primaryKey;
  return names.map((name) => table.columns.findIndex((column) => column.name === name));
}

/** The key of a row as one string to compare by, or null when a part of it was not sent (or there is no key). */
export function rowKey(
  bytes: Buffer,
  columns: readonly number[],
  kinds: Int32Array,
  starts: Int32Array,
  ends: Int32Array,
): string | null {
  if (columns.length === 0) return null;
  let text = '';
  for (const column of columns) {
    if (column < 0 || kinds[column] !== VALUE_TEXT) return null;
    text += `${ends[column]! - starts[column]!}:${bytes.toString('latin1', starts[column]!, ends[column]!)}`;
  }
  return text;
}
