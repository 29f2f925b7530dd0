/**
 * A slot has one reader. Finds out who it is: a walsender that an earlier connection of this installation left behind
 * is ended, for anybody else the caller waits. The installation is recognised by the application name, which carries an
 * id from the data directory; the data directory admits one process, so such a walsender has no living reader.
 */
import { MillraceError } from '@millrace/core/error';
import { pause } from '@millrace/core/pause';
import { type PgConnection, quoteLiteral } from '@millrace/postgres/connection';
import { PgServerError } from '@millrace/postgres/server-error';
import { readSlot, type SlotInfo } from '@millrace/postgres/slot';
import type { SourceNotice } from './source-notice.ts';

/** How long an ended walsender may take to let go of the slot. */
const RELEASE_MS = 5_000;
const RELEASE_POLL_MS = 20;
const INSUFFICIENT_PRIVILEGE = '42501';

/** Resolves with the slot once nobody reads it. pg_slot_in_use: somebody else does. */
export async function freeSlot(
  connection: PgConnection,
  slot: SlotInfo,
  signal: AbortSignal,
  notify: (notice: SourceNotice) => void,
): Promise<SlotInfo | null> {
  if (!slot.active) return slot;
  const name = quoteLiteral(slot.name);
  // Found and ended in one statement, so that a pid that was given to somebody else meanwhile is not hit.
  const ending = connection.query(`
    SELECT a.pid, pg_catalog.pg_terminate_backend(a.pid)
      FROM pg_catalog.pg_replication_slots AS s JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.active_pid
     WHERE s.slot_name = ${name} AND a.application_name = ${quoteLiteral(connection.config.applicationName ?? '')}
       AND a.pid <> pg_catalog.pg_backend_pid()`);
  const { rows } = await ending.catch((error: unknown) => {
    // It was begun by the role that was configured before, and is waited for.
    if (error instanceof PgServerError && error.sqlState === INSUFFICIENT_PRIVILEGE) return { rows: [] };
    throw error;
  });
  const ended = rows[0]?.[0];
  const deadline = performance.now() + (ended === undefined ? 0 : RELEASE_MS);
  for (;;) {
    const now = await readSlot(connection, slot.name);
    if (now === null || !now.active) {
      if (ended !== undefined) {
        notify({
          kind: 'slot_taken_over',
          text: `slot "${slot.name}" was still held by an earlier connection of ours (PID ${ended}), which was ended`,
        });
      }
      return now;
    }
    if (signal.aborted || performance.now() >= deadline) throw await inUse(connection, now);
    await pause(RELEASE_POLL_MS, signal);
  }
}

async function inUse(connection: PgConnection, slot: SlotInfo): Promise<MillraceError> {
  const { rows } = await connection.query(`
    SELECT usename, application_name, client_addr::text FROM pg_catalog.pg_stat_activity
     WHERE pid = ${Math.trunc(slot.activePid ?? 0)}`);
  const [user, application, address] = rows[0] ?? [];
  const who = [
    `PID ${slot.activePid}`,
    ...(user ? [`user ${user}`] : []),
    ...(application ? [`application "${application}"`] : []),
    ...(address ? [`from ${address}`] : []),
  ].join(', ');
  return new MillraceError('pg_slot_in_use', {
    detail: `"${slot.name}" is read by ${who}.`,
    hint:
      'Capture begins when the other reader ends. Two databases or installations need a slot.name each. To end it:\n' +
      `  SELECT pg_terminate_backend(${slot.activePid});`,
  });
}
