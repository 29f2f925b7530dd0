/**
 * Makes the slot and the publication. A slot becomes ours before it is there: the intent is on disk first, so that a
 * process or connection that dies in between leaves no slot that nobody knows. On a standby both need the primary's help.
 */
import { MillraceError } from '@millrace/core/error';
import { formatLsn, type Lsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import { createPublication, readPublication } from '@millrace/postgres/catalog';
import type { PgConnection } from '@millrace/postgres/connection';
import { publicationMissing } from '@millrace/postgres/replication';
import { PgServerError } from '@millrace/postgres/server-error';
import { createSlot, type SlotOptions } from '@millrace/postgres/slot';
import { onSideConnection } from './side-connection.ts';
import type { SourceConfig } from './source.ts';
import type { SourceState } from './source-state.ts';

const DUPLICATE_OBJECT = '42710';
/** Instead of it, when both were made at once. */
const UNIQUE_VIOLATION = '23505';

/** A standby waits for a record that a quiet primary writes every 15 seconds at most. */
const STANDBY_CREATION_MS = 60_000;
/** How often the primary is asked for that record; building a snapshot may take several. */
const STANDBY_NUDGE_MS = 500;
/** How long a publication made on the primary may take to be replayed. */
const PUBLICATION_REPLAY_MS = 30_000;
const PUBLICATION_POLL_MS = 50;

const FAILOVER_VERSION_MIN = 17_00_00;

export interface NewSlot extends SlotOptions {
  readonly name: string;
  readonly systemId: string;
  /** End of the WAL, or what is known of it, before. */
  readonly after: Lsn;
  readonly inRecovery: boolean;
}

export async function makeSlot(
  connection: PgConnection,
  slot: NewSlot,
  config: SourceConfig,
  state: SourceState,
): Promise<{ consistentPoint: Lsn; snapshotName: string | null }> {
  const { name, systemId, after, inRecovery, ...options } = slot;
  if (!slot.temporary) await state.saveIntent({ systemId, slot: name, after });
  if (!inRecovery) return await createSlot(connection, name, options);
  const nudging = new AbortController();
  const nudges = config.primary === undefined ? Promise.resolve(null) : nudge(config.primary, nudging.signal);
  try {
    return await createSlot(connection, name, { ...options, failover: false, lockTimeoutMs: STANDBY_CREATION_MS });
  } catch (error) {
    if (!(error instanceof MillraceError) || error.code !== 'pg_slot_creation_timeout') throw error;
    nudging.abort();
    const failure = await nudges;
    throw new MillraceError('pg_slot_creation_timeout', {
      detail: `"${name}" on a standby${failure === null ? '' : `: ${failure.message}`}`,
      hint:
        'The standby waits for its primary to log the transactions that are running. On the primary:\n' +
        '  SELECT pg_log_standby_snapshot();\n' +
        `To have it done from here, configure primary with a user that may:\n` +
        `  GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO <user>;`,
      cause: error,
    });
  } finally {
    nudging.abort();
    await nudges;
  }
}

/** Has the primary log its running transactions until the signal. Returns what kept it from that. */
async function nudge(primary: SourceConfig['connection'], signal: AbortSignal): Promise<MillraceError | null> {
  try {
    await onSideConnection(primary, signal, async (sql) => {
      while (!signal.aborted) {
        await sql.query('SELECT pg_catalog.pg_log_standby_snapshot()');
        await pause(STANDBY_NUDGE_MS, signal);
      }
    });
    return null;
  } catch (error) {
    return error instanceof MillraceError && !signal.aborted ? error : null;
  }
}

/** Throws pg_version_unsupported when the server has no failover slots. */
export function requireFailover(connection: PgConnection): void {
  if (connection.serverVersion >= FAILOVER_VERSION_MIN) return;
  throw new MillraceError('pg_version_unsupported', {
    detail: `slot.failover needs Postgres 17; the server is ${connection.parameters.get('server_version')}.`,
    hint: 'Take slot.failover out of the configuration, or upgrade the server.',
  });
}

/** `connection` is with the server that is captured from. */
export async function ensurePublication(
  connection: PgConnection,
  { connection: server, publication, primary }: SourceConfig,
  inRecovery: boolean,
  signal: AbortSignal,
): Promise<void> {
  const { name, createIfNotExists, initSql } = publication;
  if ((await readPublication(connection, name)) !== null) return;
  if (!createIfNotExists) throw publicationMissing(undefined, name);
  if (inRecovery && primary === undefined) {
    throw publicationMissing('A standby cannot make it, and the configuration names no primary.', name);
  }
  await onSideConnection(inRecovery ? primary! : server, signal, async (sql) => {
    if ((await readPublication(sql, name)) !== null) return;
    const making = initSql !== undefined ? sql.query(initSql) : createPublication(sql, name, null);
    await making.catch(async (error: unknown) => {
      // Of two that begin at the same moment one makes it.
      if (!isDuplicate(error) || (await readPublication(sql, name)) === null) throw error;
    });
  });
  const deadline = performance.now() + PUBLICATION_REPLAY_MS;
  while (inRecovery && (await readPublication(connection, name)) === null) {
    if (signal.aborted || performance.now() >= deadline) {
      throw new MillraceError('pg_standby_behind', {
        detail: `Publication "${name}" is on the primary and not yet on the standby.`,
        hint: 'Check that the standby is connected: SELECT status FROM pg_stat_wal_receiver;',
      });
    }
    await pause(PUBLICATION_POLL_MS, signal);
  }
}

/** What was to be made is there. */
export function isDuplicate(error: unknown): boolean {
  return error instanceof PgServerError && (error.sqlState === DUPLICATE_OBJECT || error.sqlState === UNIQUE_VIOLATION);
}

export function describeCreation(name: string, consistentPoint: Lsn): string {
  return `slot "${name}" was made; it begins at ${formatLsn(consistentPoint)}`;
}
