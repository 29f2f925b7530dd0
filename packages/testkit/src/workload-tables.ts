/**
 * The tables of the workload and its audit. Every row has an `owner` (the writer that may insert, move and delete it;
 * nobody for the few rows that all writers update) and a `version` that each update raises by one, so that a stream
 * shows in itself whether it lost, repeated or reordered a change of a row.
 */
import type { TestDatabase } from './postgres.ts';

export interface TableShape {
  readonly schema: string;
  readonly name: string;
  readonly key: readonly string[];
  /** Raised by one by every update of a row; absent: not such a table. */
  readonly version?: string;
}

export const SHARED_ROWS = 20;
export const NOBODY = -1;

const shape = (name: string, ...key: string[]): TableShape => ({ schema: 'public', name, key, version: 'version' });

/** What a stream of the workload is rebuilt into and compared with. */
export const WORKLOAD_TABLES = {
  accounts: shape('wl_accounts', 'id'),
  lines: shape('wl_lines', 'order_id', 'line'),
  names: shape('wl_names', 'name'),
  full: shape('wl_full', 'id'),
  documents: shape('wl_documents', 'id'),
} as const;

/** One row per committed transaction, written by the transaction itself as its last change. */
export const AUDIT_TABLE: TableShape = { schema: 'public', name: 'wl_audit', key: ['tx'] };

/** Truncated now and then; not compared, since a stream of row changes does not tell of it. */
export const SCRATCH_TABLE: TableShape = { schema: 'public', name: 'wl_scratch', key: ['id'] };

export const WORKLOAD_TABLE_NAMES: readonly string[] = [
  ...Object.values(WORKLOAD_TABLES).map(({ name }) => name),
  AUDIT_TABLE.name,
];

/**
 * A change as the audit lists it and as a message shows it: table, action, key, version after it (null for a delete),
 * key before it where it moved.
 */
export type AuditEntry = readonly [
  table: string,
  action: 'insert' | 'update' | 'delete',
  key: string,
  version: number | null,
  oldKey?: string,
];

export interface AuditRow {
  readonly tx: string;
  readonly writer: number;
  /** Rises within a writer, with gaps where a transaction was rolled back. */
  readonly n: number;
  readonly changes: readonly AuditEntry[];
}

/** A key as text that two sides can compare, whatever types its values have. */
export function keyText(values: readonly unknown[]): string {
  return JSON.stringify(values.map(String));
}

export async function createWorkloadTables(database: TestDatabase): Promise<void> {
  await database.sql(`
    CREATE TABLE wl_accounts (
      id bigint PRIMARY KEY, owner int NOT NULL, version int NOT NULL,
      balance numeric(14, 2) NOT NULL, note text, active boolean NOT NULL DEFAULT true,
      updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE wl_lines (
      order_id int, line int, owner int NOT NULL, version int NOT NULL, sku varchar(40), quantity smallint,
      price double precision, PRIMARY KEY (order_id, line));
    CREATE TABLE wl_names (
      name text PRIMARY KEY, owner int NOT NULL, version int NOT NULL, rank int, tags text[], born date);
    CREATE TABLE wl_full (
      id int PRIMARY KEY, owner int NOT NULL, version int NOT NULL, a text, b int, raw bytea, at timestamp);
    ALTER TABLE wl_full REPLICA IDENTITY FULL;
    CREATE TABLE wl_documents (
      id int PRIMARY KEY, owner int NOT NULL, version int NOT NULL, title text, body text, data jsonb);
    ALTER TABLE wl_documents ALTER body SET STORAGE EXTERNAL, ALTER data SET STORAGE EXTERNAL;
    CREATE TABLE wl_scratch (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, filler text);
    CREATE TABLE wl_audit (
      tx text PRIMARY KEY, writer int NOT NULL, n int NOT NULL, changes jsonb NOT NULL);
    INSERT INTO wl_accounts (id, owner, version, balance)
      SELECT -i, ${NOBODY}, 0, 1000 FROM generate_series(1, ${SHARED_ROWS}) i;
  `);
}

export function readAudit(database: TestDatabase): Promise<AuditRow[]> {
  return database.sql<AuditRow>('SELECT tx, writer, n, changes FROM wl_audit ORDER BY writer, n');
}
