/**
 * Reads one chunk: rows, the snapshot they were seen in, and the WAL position at that time. Nothing is written to the
 * source. HOT PATH (the row callback).
 */
import { MillraceError } from '@millrace/core/error';
import { parseLsn } from '@millrace/core/lsn';
import { type PgConnection, quoteLiteral } from '@millrace/postgres/connection';
import type { ChunkQuery, RowRange } from './chunk-query.ts';
import type { RowChunk } from './row-chunk.ts';
import { parseSnapshot } from './snapshot.ts';
import { fingerprintOf, type TablePlan } from './table-plan.ts';

/** A chunk is in memory until it is delivered. One row is always taken, whatever its size. */
export const CHUNK_BYTES_MAX = 32 << 20;

/**
 * For every session that reads, beside `withoutTimeouts`. With `row_security` off a policy that would hide rows is an error instead. The planner
 * is kept to reading ranges of pages, or an index, in order: a chunk that scanned and sorted the table would not end. What
 * is sorted is a chunk, in memory.
 */
export const READER_SETTINGS = `SET row_security = off; SET lock_timeout = '30s'; SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off;
  SET max_parallel_workers_per_gather = 0; SET synchronize_seqscans = off; SET cursor_tuple_fraction = 1;
  SET enable_tidscan = on; SET enable_indexscan = on; SET enable_sort = on; SET work_mem = '32MB'`;

/** The table is not as it was planned: it was altered, renamed, emptied or written anew. */
export class TableChanged extends Error {
  override readonly name = 'TableChanged';
}

const HEAD_COLUMNS = 8;

/**
 * Fills `chunk` with at most `rowsMax` rows of the range, in one round trip. Throws TableChanged. Resolves with false
 * when the session must not be used again: a request to cancel is on its way to it.
 *
 * The lock comes before the snapshot: a rewrite (ALTER TABLE, VACUUM FULL) or TRUNCATE between the two would show an
 * older snapshot an empty table. The position is read after the snapshot is taken, so what it sees lies before.
 */
export async function readChunk(
  connection: PgConnection,
  plan: TablePlan,
  query: ChunkQuery,
  range: RowRange,
  rowsMax: number,
  chunk: RowChunk,
): Promise<boolean> {
  const { unit } = query;
  const standby = await replayed(connection);
  const relation = `${quoteLiteral(unit.relation)}::pg_catalog.regclass`;
  const sql = `BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = ${plan.searchPath};
    ${query.settings}LOCK TABLE ${query.from} IN ACCESS SHARE MODE;
    SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text,
      CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END,
      CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_flush_lsn() END,
      (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint, ${relation}::pg_catalog.oid,
      COALESCE(pg_catalog.pg_relation_filenode(${relation})::pg_catalog.text, ''), ${fingerprintOf(relation)},
      pg_catalog.current_setting('transaction_isolation');
    ${query.chunk(range, rowsMax)}; COMMIT`;
  chunk.clear();
  let head: (string | null)[] | null = null;
  let full = false;
  try {
    await connection.queryRows(sql, (bytes, start, end) => {
      if (head === null) {
        head = headOf(bytes, start, end);
        return;
      }
      if (full) return;
      if (chunk.count > 0 && chunk.length + (end - start) > CHUNK_BYTES_MAX) {
        full = true;
        // What is left of the answer would only be thrown away; when the request comes late, it is.
        connection.cancel().catch(() => {});
        return;
      }
      chunk.add(bytes, start, end);
    });
  } catch (error) {
    await connection.query('ROLLBACK').catch(() => {});
    if (!full) throw error;
  }
  const [snapshot, position, flushed, micros, oid, file, fingerprint] = head ?? [];
  const lsn = parseLsn(position ?? '');
  if (!snapshot || lsn === null) throw new MillraceError('pg_protocol', { detail: 'A snapshot cannot be read.' });
  if (Number(oid) !== unit.oid || fingerprint !== unit.fingerprint || file !== unit.file) throw new TableChanged();
  chunk.snapshot = parseSnapshot(snapshot, lsn, standby);
  chunk.readAtMicros = BigInt(micros!);
  chunk.cut = full || chunk.count === rowsMax;
  if (!full && flushed !== null && parseLsn(flushed!)! < lsn) await flushTo(connection, position!);
  return !full;
}

/** On a standby: what was replayed before the snapshot, asked before it is taken. */
async function replayed(connection: PgConnection): Promise<bigint | null> {
  if (!connection.parameters.has('in_hot_standby')) {
    // Before Postgres 14 the server does not say so by itself; slots on a standby came with 16.
    return null;
  }
  if (connection.parameters.get('in_hot_standby') !== 'on') return null;
  const { rows } = await connection.query('SELECT pg_catalog.pg_last_wal_replay_lsn()');
  return parseLsn(rows[0]?.[0] ?? '');
}

/**
 * Postgres streams only what is flushed. A quiet server may leave the end of its WAL unflushed for long (an open
 * transaction's records, say); then a commit of our own, an empty logical message, brings it out.
 */
async function flushTo(connection: PgConnection, position: string): Promise<void> {
  const lsn = quoteLiteral(position);
  const { rows } = await connection.query(`SELECT pg_catalog.pg_current_wal_flush_lsn() < ${lsn}::pg_lsn`);
  if (rows[0]?.[0] !== 't') return;
  await connection.query(
    `SET synchronous_commit = local; SELECT pg_catalog.pg_logical_emit_message(true, 'millrace.flush', '')`,
  );
}

function headOf(bytes: Buffer, start: number, end: number): (string | null)[] {
  const head: (string | null)[] = [];
  let at = start + 2;
  for (let i = 0; i < HEAD_COLUMNS && at + 4 <= end; i++) {
    const size = bytes.readInt32BE(at);
    at += 4;
    head.push(size < 0 ? null : bytes.toString('utf8', at, at + size));
    at += Math.max(0, size);
  }
  return head;
}
