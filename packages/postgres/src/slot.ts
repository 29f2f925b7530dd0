/**
 * Replication slots: read, created, marked for failover, dropped; and which server they are on.
 * Source: "Streaming Replication Protocol" and "pg_replication_slots" in the Postgres manual.
 */
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { type Lsn, parseLsn } from '@millrace/core/lsn';
import { checkWalLevel } from './catalog.ts';
import { type PgConnection, quoteIdentifier, quoteLiteral } from './connection.ts';
import { PgServerError } from './server-error.ts';

export interface SystemIdentity {
  readonly systemId: string;
  readonly timeline: number;
  readonly walFlushLsn: Lsn;
  readonly database: string;
}

export interface SlotInfo {
  readonly name: string;
  readonly plugin: string | null;
  readonly database: string | null;
  readonly temporary: boolean;
  readonly active: boolean;
  readonly activePid: number | null;
  readonly restartLsn: Lsn | null;
  readonly confirmedFlushLsn: Lsn | null;
  /** `reserved`, `extended`, `unreserved` or `lost`. */
  readonly walStatus: string | null;
  /** Postgres 17 and later. */
  readonly invalidationReason: string | null;
  readonly catalogXmin: string | null;
  /** Meant to be copied to standbys. Postgres 17 and later. */
  readonly failover: boolean;
  /** A standby's copy of a slot of its primary. Postgres 17 and later. */
  readonly synced: boolean;
  /** Shows transactions when they are prepared, whatever its reader asks for. */
  readonly twoPhase: boolean;
}

const LOCK_TIMEOUT_MS = 10_000;
/** After the lock timeout, how long until the creation is cancelled from outside. */
const CANCEL_GRACE_MS = 1_000;
const DROP_WAIT_MS = 10_000;
const DROP_POLL_MS = 50;

export async function identifySystem(connection: PgConnection): Promise<SystemIdentity> {
  assert(connection.config.replication === true, 'IDENTIFY_SYSTEM needs a replication connection');
  const [row] = (await connection.query('IDENTIFY_SYSTEM')).rows;
  const [systemId, timeline, lsn, database] = row ?? [];
  const walFlushLsn = parseLsn(lsn ?? '');
  if (!systemId || walFlushLsn === null) {
    throw new MillraceError('pg_protocol', { detail: 'The answer to IDENTIFY_SYSTEM cannot be read.' });
  }
  return { systemId, timeline: Number(timeline), walFlushLsn, database: database ?? connection.config.database };
}

export interface SlotOptions {
  readonly snapshot?: 'export' | 'nothing';
  readonly lockTimeoutMs?: number;
  /** Gone with the connection. */
  readonly temporary?: boolean;
  /** Copied to standbys. Postgres 17 and later. */
  readonly failover?: boolean;
}

/**
 * Creates a logical slot for pgoutput. It waits for the transactions that are open, at most `lockTimeoutMs`, and
 * leaves no slot behind when it fails. An exported snapshot lives until the next command on `connection`.
 */
export async function createSlot(
  connection: PgConnection,
  name: string,
  options: SlotOptions = {},
): Promise<{ consistentPoint: Lsn; snapshotName: string | null }> {
  assert(connection.config.replication === true, 'creating a slot needs a replication connection');
  const lockTimeoutMs = options.lockTimeoutMs ?? LOCK_TIMEOUT_MS;
  await checkWalLevel(connection);
  await connection.query(`SET lock_timeout = ${Math.max(1, Math.ceil(lockTimeoutMs))}`);
  // lock_timeout bounds the wait for one old transaction, this the wait for all of them.
  const cancel = setTimeout(() => {
    connection.cancel().catch(() => {});
  }, lockTimeoutMs + CANCEL_GRACE_MS);
  const giveUp = setTimeout(() => connection.close(), lockTimeoutMs + 10 * CANCEL_GRACE_MS);
  try {
    const result = await connection.query(slotCommand(name, options));
    const consistentPoint = parseLsn(result.rows[0]?.[1] ?? '');
    if (consistentPoint === null) {
      throw new MillraceError('pg_protocol', { detail: 'The answer to CREATE_REPLICATION_SLOT cannot be read.' });
    }
    return { consistentPoint, snapshotName: result.rows[0]?.[2] || null };
  } catch (error) {
    throw creationError(error, name, lockTimeoutMs);
  } finally {
    clearTimeout(cancel);
    clearTimeout(giveUp);
  }
}

function slotCommand(name: string, { snapshot = 'nothing', temporary = false, failover = false }: SlotOptions): string {
  const slot = `${quoteIdentifier(name)} ${temporary ? 'TEMPORARY ' : ''}LOGICAL pgoutput`;
  // The list in parentheses came with Postgres 15.
  const options = failover ? `(SNAPSHOT '${snapshot}', FAILOVER)` : '';
  const word = snapshot === 'export' ? 'EXPORT_SNAPSHOT' : 'NOEXPORT_SNAPSHOT';
  return `CREATE_REPLICATION_SLOT ${slot} ${options === '' ? word : options}`;
}

/** Marks a slot that nobody reads as one to copy to standbys, or not. Postgres 17 and later. */
export async function setSlotFailover(connection: PgConnection, name: string, failover: boolean): Promise<void> {
  assert(connection.config.replication === true, 'altering a slot needs a replication connection');
  await connection.query(`ALTER_REPLICATION_SLOT ${quoteIdentifier(name)} (FAILOVER ${failover})`);
}

export async function readSlot(connection: PgConnection, name: string): Promise<SlotInfo | null> {
  // As JSON, because the columns differ from version to version.
  const { rows } = await connection.query(
    `SELECT pg_catalog.to_jsonb(s) FROM pg_catalog.pg_replication_slots AS s WHERE slot_name = ${quoteLiteral(name)}`,
  );
  const json = rows[0]?.[0];
  if (json === undefined || json === null) return null;
  const slot = JSON.parse(json) as Record<string, unknown>;
  const text = (key: string) => (slot[key] === undefined || slot[key] === null ? null : String(slot[key]));
  return {
    name,
    plugin: text('plugin'),
    database: text('database'),
    temporary: slot.temporary === true,
    active: slot.active === true,
    activePid: typeof slot.active_pid === 'number' ? slot.active_pid : null,
    restartLsn: parseLsn(text('restart_lsn') ?? ''),
    confirmedFlushLsn: parseLsn(text('confirmed_flush_lsn') ?? ''),
    walStatus: text('wal_status'),
    invalidationReason: text('invalidation_reason'),
    catalogXmin: text('catalog_xmin'),
    failover: slot.failover === true,
    synced: slot.synced === true,
    twoPhase: slot.two_phase === true,
  };
}

/** Returns false when there is no such slot. With `wait`, gives an active slot some seconds to become free. */
export async function dropSlot(
  connection: PgConnection,
  name: string,
  { wait = false }: { readonly wait?: boolean } = {},
): Promise<boolean> {
  const deadline = performance.now() + (wait ? DROP_WAIT_MS : 0);
  for (;;) {
    try {
      await connection.query(`SELECT pg_catalog.pg_drop_replication_slot(${quoteLiteral(name)})`);
      return true;
    } catch (error) {
      if (!(error instanceof PgServerError)) throw error;
      if (error.sqlState === '42704') return false;
      if (error.sqlState !== '55006') throw error;
      if (performance.now() >= deadline) throw slotInUse(name, error);
    }
    await new Promise((resolve) => setTimeout(resolve, DROP_POLL_MS));
  }
}

function creationError(error: unknown, name: string, lockTimeoutMs: number): unknown {
  if (!(error instanceof PgServerError)) return error;
  switch (error.sqlState) {
    case '53400':
      return new MillraceError('pg_no_free_slots', {
        hint:
          'Drop slots that nobody needs (they also hold back WAL):\n' +
          '  SELECT slot_name, active, restart_lsn FROM pg_replication_slots;\n' +
          "  SELECT pg_drop_replication_slot('...');\n" +
          'or allow more and restart Postgres:\n  ALTER SYSTEM SET max_replication_slots = 20;',
        cause: error,
      });
    case '55P03':
    case '57014':
      return new MillraceError('pg_slot_creation_timeout', {
        detail: `"${name}" was not ready within ${lockTimeoutMs} ms; no slot was left behind.`,
        hint:
          'A slot can only begin when the transactions open at that time have ended. Find them, end them, try again:\n' +
          '  SELECT pid, state, xact_start FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start;\n' +
          '  SELECT gid, prepared FROM pg_prepared_xacts;\n  SELECT pg_terminate_backend(<pid>);',
        cause: error,
      });
    default:
      return error;
  }
}

export function slotInvalidated(error: PgServerError, slot: string, reason: string | null): MillraceError {
  return new MillraceError('pg_slot_invalidated', {
    detail: `"${slot}"${reason === null ? '' : ` (${reason})`}.`,
    hint:
      `The changes since its last confirmed LSN are gone. Drop it, let a new one be made, and run a backfill:\n` +
      `  SELECT pg_drop_replication_slot(${quoteLiteral(slot)});\n` +
      `To keep it from happening again raise max_slot_wal_keep_size and idle_replication_slot_timeout.`,
    cause: error,
  });
}

export function slotInUse(slot: string, error: PgServerError): MillraceError {
  return new MillraceError('pg_slot_in_use', {
    detail: `"${slot}".`,
    hint: `Who reads it:\n  SELECT a.pid, a.application_name, a.client_addr FROM pg_stat_activity AS a JOIN pg_replication_slots AS s ON s.active_pid = a.pid WHERE s.slot_name = ${quoteLiteral(slot)};`,
    cause: error,
  });
}
