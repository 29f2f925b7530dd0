/**
 * Reads a table chunk by chunk in key order, each chunk in a snapshot of its own, as the text the replication stream
 * would send (I10). Nothing is written to the source.
 */
import { MillraceError } from '@millrace/core/error';
import { type Lsn, parseLsn } from '@millrace/core/lsn';
import { type PgConnection, quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import type { TableSchema } from '../table-schema.ts';
import { parseSnapshot, type Snapshot } from './change-window.ts';

export interface BackfillTable {
  readonly schema: TableSchema;
  /** False for a table with inheritance children, whose rows are published as theirs. */
  readonly withDescendants: boolean;
  /** SQL types of the key columns, in key order: `integer`, `public.mood`. */
  readonly keyTypes: readonly string[];
}

/** Rows as DataRow payloads back to back: int16 columns, then (int32 size or -1, bytes) per column. */
export interface Chunk {
  readonly snapshot: Snapshot;
  readonly rows: readonly Buffer[];
  /** The table has no row after these. */
  readonly last: boolean;
  /** When it was read, microseconds since the epoch. */
  readonly readAtMicros: bigint;
}

export const CHUNK_ROWS_MIN = 100;
export const CHUNK_ROWS_MAX = 10_000;
/** A chunk is kept in memory until it is delivered. */
const CHUNK_BYTES_TARGET = 8 << 20;
const CHUNK_TARGET_MS = 200;

const POSITION = `CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END`;

/** Reads the rows after `afterKey` (null: from the start). */
export async function readChunk(
  connection: PgConnection,
  table: BackfillTable,
  afterKey: readonly string[] | null,
  rowsMax: number,
): Promise<Chunk> {
  await connection.query('BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY');
  try {
    // The position is read after the snapshot is taken, so every transaction it sees lies before.
    const { rows: head } = await connection.query(
      `SELECT pg_catalog.pg_current_snapshot()::text, (${POSITION})::text, (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint::text`,
    );
    const [snapshot, position, micros] = head[0] ?? [];
    const lsn = parseLsn(position ?? '');
    if (!snapshot || lsn === null) throw new MillraceError('pg_protocol', { detail: 'A snapshot cannot be read.' });
    const rows: Buffer[] = [];
    await connection.queryRows(selectAfter(table, afterKey, rowsMax), (bytes, start, end) => {
      rows.push(Buffer.from(bytes.subarray(start, end)));
    });
    await connection.query('COMMIT');
    await flushTo(connection, position!);
    return {
      snapshot: parseSnapshot(snapshot, lsn satisfies Lsn),
      rows,
      last: rows.length < rowsMax,
      readAtMicros: BigInt(micros!),
    };
  } catch (error) {
    await connection.query('ROLLBACK').catch(() => {});
    throw error;
  }
}

/**
 * Postgres streams only what is flushed. A quiet server may leave the end of its WAL unflushed for long (an open
 * transaction's records, say); then a commit of our own, an empty logical message, brings it out.
 */
async function flushTo(connection: PgConnection, position: string): Promise<void> {
  const lsn = quoteLiteral(position);
  const { rows } = await connection.query(
    `SELECT NOT pg_catalog.pg_is_in_recovery() AND pg_catalog.pg_current_wal_flush_lsn() < ${lsn}::pg_lsn`,
  );
  if (rows[0]?.[0] !== 't') return;
  await connection.query(
    `SET synchronous_commit = local; SELECT pg_catalog.pg_logical_emit_message(true, 'millrace.flush', '')`,
  );
}

function selectAfter(
  { schema, keyTypes, withDescendants }: BackfillTable,
  afterKey: readonly string[] | null,
  rows: number,
) {
  const columns = schema.columns.map((column) => quoteIdentifier(column.name)).join(', ');
  const key = schema.primaryKey.map(quoteIdentifier).join(', ');
  const from = `${withDescendants ? '' : 'ONLY '}${quoteIdentifier(schema.schema)}.${quoteIdentifier(schema.name)}`;
  const after = afterKey?.map((text, i) => `${quoteLiteral(text)}::${keyTypes[i]}`).join(', ');
  const where = after === undefined ? '' : ` WHERE (${key}) > (${after})`;
  return `SELECT ${columns} FROM ${from}${where} ORDER BY ${key} LIMIT ${rows}`;
}

/** Rows for the next chunk: towards a fixed reading time, within the memory a chunk may take. */
export function nextChunkRows(rows: number, chunk: Chunk, tookMs: number): number {
  const bytes = chunk.rows.reduce((sum, row) => sum + row.length, 0);
  const byTime = tookMs < CHUNK_TARGET_MS / 2 ? rows * 2 : tookMs > CHUNK_TARGET_MS * 2 ? rows / 2 : rows;
  const byBytes = bytes === 0 ? CHUNK_ROWS_MAX : (CHUNK_BYTES_TARGET * chunk.rows.length) / bytes;
  return Math.round(Math.min(CHUNK_ROWS_MAX, Math.max(1, Math.min(byTime, byBytes))));
}
