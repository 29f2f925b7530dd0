/** The shape of a table at one position of the log: what decoding its rows needs. Plain JSON, kept for ever. */
import type { TypeDescription } from '@millrace/postgres/value-json';

export interface ColumnSchema {
  readonly name: string;
  readonly type: TypeDescription;
}

export interface TableSchema {
  /** As announced by RELATION: of the partition when changes are published by partition. */
  readonly oid: number;
  /** Topmost partitioned ancestor, or the table itself: the name messages carry. */
  readonly schema: string;
  readonly name: string;
  readonly columns: readonly ColumnSchema[];
  /** Column names in key order; empty without a primary key. */
  readonly primaryKey: readonly string[];
}
