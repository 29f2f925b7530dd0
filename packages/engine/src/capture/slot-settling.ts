/**
 * Makes the beginning of a new slot sound. While a slot is made, the server learns which transactions have changed its
 * catalogs only from the moment on when it has seen every transaction from its beginning. One that changed a table before
 * that moment and committed after it can be missing from what the slot's first reader knows: its rows are then shown in
 * the shape the table had before (seen on Postgres 17.10; docs/decisions/0015). The server's knowledge is whole again
 * with the next commit that changes a catalog, for all that is written after it. So such a commit is made here.
 *
 * * A slot that we have just made is moved to where every transaction that began before it has ended (settleSlot):
 *   nothing was captured yet.
 * * A repair reads its slot from where its comparison was made, and that is later (renewCatalogs).
 * * A slot that somebody else made stays where it stands (found-slot.ts); what comes from now on is right (changeCatalogs).
 */
import { MillraceError } from '@millrace/core/error';
import { formatLsn, type Lsn, parseLsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import { type ConnectionConfig, type PgConnection, quoteLiteral } from '@millrace/postgres/connection';
import { PgServerError } from '@millrace/postgres/server-error';
import { onSideConnection } from './side-connection.ts';

export interface SettleOptions {
  /** Of the slot. */
  readonly connection: PgConnection;
  readonly slot: string;
  /** A server of the same cluster that takes writes. */
  readonly writable: ConnectionConfig;
  readonly signal: AbortSignal;
  readonly timeoutMs?: number;
}

/** A batch job may take that long. The slot is there meanwhile and holds back no more WAL than it would anyway. */
const TIMEOUT_MS = 30_000;
const POLL_MS = 20;
/**
 * Classes of errors that say nothing of what is allowed: the connection, a conflict, resources, a lock, an operator, the
 * server itself. All others are a refusal: the privilege, a transaction that may only read, or an event trigger of the
 * user, which raises what it likes (P0001 where it says nothing else).
 */
const NO_REFUSALS = new Set(['08', '40', '53', '54', '55', '57', '58', 'XX']);
/** Empty, ours alone, and gone with its transaction. */
const CHANGE_A_CATALOG = `BEGIN;
  CREATE TEMPORARY TABLE millrace_slot_made () ON COMMIT DROP;
  SELECT pg_catalog.pg_current_xact_id()::text`;

/**
 * Where the slot begins now; null where no temporary table may be made, and it begins where it was made.
 * Rejects with pg_slot_creation_timeout when a transaction from before does not end; the slot is then of no use.
 */
export async function settleSlot({
  connection,
  slot,
  writable,
  signal,
  timeoutMs = TIMEOUT_MS,
}: SettleOptions): Promise<Lsn | null> {
  return await onSideConnection({ ...writable, replication: false }, signal, async (sql) => {
    const changed = await changeCatalog(sql);
    if (changed === null) return null;
    const deadline = performance.now() + timeoutMs;
    while (!(await hasEnded(sql, changed))) {
      if (signal.aborted || performance.now() > deadline) throw tooLong(slot, timeoutMs);
      await pause(POLL_MS, signal);
    }
    const end = await flushed(sql);
    await replayed(connection, end, deadline, signal);
    await connection.query(
      `SELECT pg_catalog.pg_replication_slot_advance(${quoteLiteral(slot)}, ${quoteLiteral(formatLsn(end))})`,
    );
    return end;
  });
}

/**
 * Returns when the change is in the WAL that `connection` decodes: a slot that is made after this begins where every
 * transaction that began before it has ended. False where no temporary table may be made.
 */
export async function renewCatalogs({
  connection,
  writable,
  signal,
  timeoutMs = TIMEOUT_MS,
}: Omit<SettleOptions, 'slot'>): Promise<boolean> {
  return await onSideConnection({ ...writable, replication: false }, signal, async (sql) => {
    if ((await changeCatalog(sql)) === null) return false;
    await replayed(connection, await flushed(sql), performance.now() + timeoutMs, signal);
    return true;
  });
}

/** False where no temporary table may be made. */
export async function changeCatalogs(writable: ConnectionConfig, signal: AbortSignal): Promise<boolean> {
  const config = { ...writable, replication: false };
  return await onSideConnection(config, signal, async (sql) => (await changeCatalog(sql)) !== null);
}

/** Its transaction id; null where that is not allowed. */
async function changeCatalog(sql: PgConnection): Promise<string | null> {
  try {
    const results = await sql.query(CHANGE_A_CATALOG);
    const xid = results.rows.at(-1)?.[0] ?? '';
    await sql.query('COMMIT');
    return xid;
  } catch (error) {
    if (error instanceof PgServerError && !error.fatal && !NO_REFUSALS.has(error.sqlState.slice(0, 2))) return null;
    throw error;
  }
}

/** Every transaction that began before this one, and this one. */
async function hasEnded(sql: PgConnection, xid: string): Promise<boolean> {
  const { rows } = await sql.query(
    `SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) > ${quoteLiteral(xid)}::pg_catalog.xid8`,
  );
  return rows[0]?.[0] === 't';
}

/** The end of the WAL, with what ended before on disk: a position beyond it would be given to others after a crash. */
async function flushed(sql: PgConnection): Promise<Lsn> {
  await sql.query(`BEGIN; SET LOCAL synchronous_commit = 'local';
    SELECT pg_catalog.pg_logical_emit_message(true, 'millrace.slot', ''); COMMIT`);
  const { rows } = await sql.query('SELECT pg_catalog.pg_current_wal_flush_lsn()');
  const end = parseLsn(rows[0]?.[0] ?? '');
  if (end === null) throw new MillraceError('pg_protocol', { detail: 'The WAL position cannot be read.' });
  return end;
}

/** On a standby a position of the primary has to be replayed before it is one of its own. */
async function replayed(connection: PgConnection, lsn: Lsn, deadline: number, signal: AbortSignal): Promise<void> {
  const sql = `SELECT NOT pg_catalog.pg_is_in_recovery() OR pg_catalog.pg_last_wal_replay_lsn() >= ${quoteLiteral(formatLsn(lsn))}::pg_catalog.pg_lsn`;
  while ((await connection.query(sql)).rows[0]?.[0] !== 't') {
    if (signal.aborted || performance.now() > deadline) {
      throw new MillraceError('pg_standby_behind', {
        detail: `It has not replayed ${formatLsn(lsn)}, behind which the slot is to begin.`,
      });
    }
    await pause(POLL_MS, signal);
  }
}

export function describeUnsettled(slot: string): string {
  return (
    `slot "${slot}" begins where it was made: the role may not make a temporary table (GRANT TEMPORARY ON DATABASE), an ` +
    'event trigger forbids it, or the server is a standby whose primary is not configured. Tables that were altered in that very moment may be shown as ' +
    'they were before, until the next change of any table definition'
  );
}

function tooLong(slot: string, timeoutMs: number): MillraceError {
  return new MillraceError('pg_slot_creation_timeout', {
    detail: `"${slot}": a transaction that was open did not end within ${timeoutMs} ms.`,
    hint: `Look for it, and end it:\n  SELECT pid, xact_start, state, query FROM pg_stat_activity WHERE xact_start IS NOT NULL ORDER BY xact_start;`,
  });
}
