/** The shape of a table at one position of the log: what decoding its rows needs. Plain JSON, kept for ever. */
import type { ReplicaIdentity } from '@millrace/postgres/pgoutput';
import type { TypeDescription } from '@millrace/postgres/value-json';

export interface ColumnSchema {
  readonly name: string;
  readonly type: TypeDescription;
  /** As SQL spells it with its modifier, `numeric(10,2)`; absent where only the announcement is known. */
  readonly typeText?: string;
  /** attnum: stays with a column that is renamed. Absent where only the announcement is known. */
  readonly number?: number;
  /** Absent where only the announcement is known. */
  readonly nullable?: boolean;
}

export interface TableSchema {
  /** As announced by RELATION: of the partition when changes are published by partition. */
  readonly oid: number;
  /** From 1; absent in what a backfill reads. See SchemaHistory. */
  readonly version?: number;
  /** Topmost partitioned ancestor, or the table itself: the name messages carry. */
  readonly schema: string;
  readonly name: string;
  readonly columns: readonly ColumnSchema[];
  /** Column names in key order; empty without a primary key. */
  readonly primaryKey: readonly string[];
  /** As announced: default, nothing, full or index. Absent in what a backfill reads. */
  readonly replicaIdentity?: ReplicaIdentity;
  /** Columns announced as part of the replica identity, in table order. */
  readonly identity?: readonly string[];
  /** Columns it has that we keep out of the publication (publication-push-down.ts). Absent: none. */
  readonly withheld?: readonly string[];
  /** Of the partition itself, when changes are published by partition. */
  readonly partition?: { readonly schema: string; readonly name: string };
}
