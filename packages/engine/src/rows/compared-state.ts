/** What a verification compares the source with: the row index, or what a sink's stream adds up to. A port. */
import type { Lsn } from '@millrace/core/lsn';
import type { PublishedTable } from './published-tables.ts';

export interface ComparedRow {
  /** For marking, unique in the table. */
  readonly id: number;
  readonly hashes: Uint8Array;
  /** Commit LSN of its last change. */
  readonly lsn: Lsn;
  /** Where in `hashes` column `index` of the published table is; -1: it cannot be compared. */
  place(index: number): number;
}

export interface ComparedTable {
  /** False: only the keys it knows are compared, because it does not tell of all rows. */
  readonly whole: boolean;
  /** `key` as rowKey has it, as bytes. */
  find(table: PublishedTable, key: Uint8Array): ComparedRow | null;
  /** Rows with larger ids, in their order. */
  after(id: number, rowsMax: number): readonly { readonly id: number; readonly key: Uint8Array }[];
}

export interface ComparedState {
  /** Resolves when everything that committed before `lsn` is in. Rejects on the signal, or when that will not come. */
  reach(lsn: Lsn, signal: AbortSignal): Promise<void>;
  /** null: it cannot be compared; `why` is for people. Asked anew after each `reach`. */
  table(group: readonly PublishedTable[]): ComparedTable | { readonly why: string };
}
