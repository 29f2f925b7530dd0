/**
 * What the row index is told, as bytes: made by row-encoder.ts, taken in by row-store.ts. Numbers are big-endian.
 *
 * ```
 * SHAPE    u8 0, u32 shape, u32 size, JSON (RowShape)     before the first operation that names the shape
 * PUT      u8 1, u32 shape, position, u8 flags, key, hashes, [values]
 * MOVE     u8 2, u32 shape, position, u8 flags, old key, key, hashes, [values]
 * DELETE   u8 3, u32 shape, position, key
 * TRUNCATE u8 4, u32 shape, position
 * FORGET   u8 5, u32 size, JSON (RowShape without a key)    changes of the table pass by that the index is not told of
 *
 * position: u64 commit LSN, u32 ordinal
 * key:      u32 size, bytes as rowKey has them (`<bytes>:<text>` per key column)
 * hashes:   8 bytes per column, of the value's JSON; zeros: the column was not sent (unchanged TOAST)
 * values:   u16 count, then per column u16 index, u8 (1: kept, u32 size and the text; 0: not sent)
 * ```
 *
 * Shape numbers hold for one encoder; the store gives out its own.
 */
export const SHAPE = 0;
export const PUT = 1;
export const MOVE = 2;
export const DELETE = 3;
export const TRUNCATE = 4;
export const FORGET = 5;

/** A row of the first fill: the table as it was read, not a change. */
export const FLAG_READ = 1;
/** Some hashes are unknown. */
export const FLAG_PARTIAL = 2;
/** A list of values follows. */
export const FLAG_VALUES = 4;

export const VALUE_NOT_SENT = 0;
export const VALUE_KEPT = 1;

export interface RowShape {
  /** OID as announced. */
  readonly relation: number;
  /** The same, or 0 where `leaf` is set: of a partition the table it belongs to is known by name only. */
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  /** The relation is a partition that is published by itself. */
  readonly leaf: boolean;
  /** Values are kept for filling in what updates leave out. */
  readonly values: boolean;
  /** Columns of the row's key, in key order. Empty: its rows cannot be told apart, and none is held. */
  readonly key: readonly string[];
  readonly columns: readonly ShapeColumn[];
}

export interface ShapeColumn {
  readonly name: string;
  /** OID, and the type as SQL spells it with its modifier: a retyped column is another column. */
  readonly type: string;
  /** attnum, which stays with a column for life. Absent where only the announcement is known. */
  readonly number?: number;
}

/** An operation the index cannot take: a fault of this program, or bytes that are not what was written. */
export const OPERATION_DAMAGED = 'an operation of the row index is whole';
