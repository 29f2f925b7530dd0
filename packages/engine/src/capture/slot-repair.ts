/**
 * Bridges a gap that no slot can show any more: all published tables, as one snapshot shows them, are compared with what
 * the log has said so far, and the difference, deletes included, is appended as one transaction that ends where the
 * snapshot was taken. Sinks get it in order with everything else, whole or not at all; streaming goes on from there.
 * A crash in the middle leaves an open transaction, which is voided like any other, and the next start tries again.
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import { formatLsn, type Lsn } from '@millrace/core/lsn';
import { PgConnection, quoteLiteral } from '@millrace/postgres/connection';
import { BEGIN, COMMIT } from '@millrace/postgres/pgoutput';
import { withoutTimeouts } from '@millrace/postgres/session-settings';
import { dropSlot, type SlotInfo } from '@millrace/postgres/slot';
import type { ChangeLog } from '../change-log/change-log.ts';
import { LogWriter, type LogWriterEvents } from '../change-log/log-writer.ts';
import type { Loss, ServerFacts } from './slot-admission.ts';
import { makeSlot } from './slot-creation.ts';
import { describeUnsettled, renewCatalogs } from './slot-settling.ts';
import type { SourceConfig } from './source.ts';
import type { SourceNotice } from './source-notice.ts';
import type { SourceState } from './source-state.ts';

/** Attempts within the window, also successful ones: a slot that is lost again and again needs a person. */
export const REPAIR_ATTEMPTS_MAX = 5;
export const REPAIR_WINDOW_MS = 24 * 3_600_000;

const UNBEGUN: ReadonlySet<string> = new Set(['pg_no_free_slots', 'pg_slot_creation_timeout']);

export interface ComparisonSummary {
  readonly tables: number;
  readonly rowsCompared: number;
  readonly inserts: number;
  readonly updates: number;
  readonly deletes: number;
}

/**
 * Compares the published tables with what the log has said up to its end. Messages are pgoutput's own, RELATION before
 * its rows, valid only during the call; `drained` is awaited often enough that a slow disk bounds the memory.
 */
export type CompareWithSource = (task: {
  /** In a REPEATABLE READ transaction on the snapshot to compare with. */
  readonly connection: PgConnection;
  readonly message: (bytes: Buffer, start: number, end: number) => void;
  readonly drained: () => Promise<void>;
  readonly signal: AbortSignal;
}) => Promise<ComparisonSummary>;

export interface RepairContext {
  readonly config: SourceConfig;
  readonly state: SourceState;
  readonly log: ChangeLog;
  readonly server: ServerFacts;
  readonly slot: SlotInfo | null;
  readonly applicationName: string;
  readonly compare: CompareWithSource;
  readonly relation?: LogWriterEvents['relation'] | undefined;
  readonly signal: AbortSignal;
  readonly notify: (notice: SourceNotice) => void;
  /** See OpenOptions. */
  readonly onBreak: () => void;
  readonly now: () => number;
}

export async function repairLoss(loss: Loss, cause: MillraceError, context: RepairContext): Promise<void> {
  const { config, state, notify, now } = context;
  const slot = config.slot.name;
  const before = state.repairs.slot === slot ? state.repairs.attempts : [];
  const recent = before.filter((at) => at > now() - REPAIR_WINDOW_MS);
  if (recent.length >= REPAIR_ATTEMPTS_MAX) throw exhausted(recent[0]!, cause);
  await state.saveRepairs({ slot, attempts: [...recent, now()], appended: state.repairs.appended });
  const nth = `attempt ${recent.length + 1} of ${REPAIR_ATTEMPTS_MAX} in a day`;
  notify({ kind: 'repair_started', text: `repair of slot "${slot}" (${loss}), ${nth}: ${cause.message}` });
  try {
    const { summary, consistentPoint } = await repair(context);
    notify({
      kind: 'repair_finished',
      text:
        `repaired up to ${formatLsn(consistentPoint)}: ${summary.rowsCompared} rows of ${summary.tables} tables compared, ` +
        `${summary.inserts} inserts, ${summary.updates} updates and ${summary.deletes} deletes sent on`,
    });
  } catch (error) {
    // That no slot could be made says nothing about how often it is lost.
    if (isUnbegun(error)) await state.saveRepairs({ slot, attempts: recent, appended: state.repairs.appended });
    notify({ kind: 'repair_failed', text: error instanceof MillraceError ? error.message : 'it met a bug' });
    throw error;
  }
}

function isUnbegun(error: unknown): boolean {
  return error instanceof MillraceError && UNBEGUN.has(error.code);
}

async function repair(context: RepairContext): Promise<{ summary: ComparisonSummary; consistentPoint: Lsn }> {
  const { config, state, log, server, slot, applicationName, signal } = context;
  const lost = slot !== null && (slot.walStatus === 'lost' || slot.invalidationReason !== null);
  // A slot that works is kept: it holds the WAL from its own position on, which is before that of the snapshot.
  const keep = slot !== null && !lost;
  const exporter = await PgConnection.connect({ ...config.connection, applicationName, replication: true }, signal);
  const onAbort = () => void exporter.close();
  signal.addEventListener('abort', onAbort, { once: true });
  let made = false;
  let done = false;
  try {
    if (lost) await dropSlot(exporter, slot.name);
    const { systemId, walEnd: after, inRecovery } = server;
    const facts = { systemId, after, inRecovery };
    if (!keep) {
      const failover = config.slot.failover === true;
      await makeSlot(exporter, { ...facts, name: config.slot.name, failover }, config, state);
      made = true;
    }
    await renewFor(exporter, context);
    // The snapshot is that of a slot of its own, which begins after all this: so does what is read from ours.
    const name = `millrace_repair_${systemId}_${context.now()}`.slice(0, 63);
    const snapshot = { ...facts, name, snapshot: 'export', temporary: true } as const;
    const { consistentPoint, snapshotName } = await makeSlot(exporter, snapshot, config, state);
    // Positions are the order of everything; a server whose WAL lies behind the log cannot continue it.
    if (consistentPoint <= log.endLsn) throw behind(consistentPoint, log.endLsn);
    await state.saveRepairs({ ...state.repairs, appended: consistentPoint - 1n });
    context.onBreak();
    const summary = await appendDifference(context, snapshotName ?? '', consistentPoint);
    done = true;
    await state.save({
      systemId: server.systemId,
      timeline: server.timeline,
      slot: config.slot.name,
      publication: config.publication.name,
      acknowledged: consistentPoint,
      logRecords: log.durableSeq,
      slotConfirmed: 0n,
    });
    await state.forgetIntent();
    return { summary, consistentPoint };
  } catch (error) {
    // Its changes are of no use without the comparison, and it would hold back WAL until the next attempt.
    if (made && !done && !signal.aborted) await dropQuietly(context);
    throw error;
  } finally {
    signal.removeEventListener('abort', onAbort);
    await exporter.close();
  }
}

/** Our slot may have been made while tables were altered, or somebody else's was: see slot-settling.ts. */
async function renewFor(connection: PgConnection, context: RepairContext): Promise<void> {
  const { config, server, signal, notify } = context;
  const writable = server.inRecovery ? config.primary : config.connection;
  const renewed = writable !== undefined && (await renewCatalogs({ connection, writable, signal }));
  if (!renewed) notify({ kind: 'slot_unsettled', text: describeUnsettled(config.slot.name) });
}

async function appendDifference(
  { config, log, compare, relation, server, signal }: RepairContext,
  snapshot: string,
  consistentPoint: Lsn,
): Promise<ComparisonSummary> {
  const durable = Promise.withResolvers<void>();
  let pressed: PromiseWithResolvers<void> | null = null;
  let failure: unknown = null;
  const writer = new LogWriter(log, {
    acknowledge: (lsn) => (lsn >= consistentPoint ? durable.resolve() : undefined),
    pressure(on) {
      if (on) pressed ??= Promise.withResolvers<void>();
      else {
        pressed?.resolve();
        pressed = null;
      }
    },
    failed(error) {
      failure = error;
      pressed?.resolve();
      durable.reject(error);
    },
    ...(relation && { relation }),
  });
  durable.promise.catch(() => {});
  const message = (bytes: Buffer, start: number, end: number) => writer.message(bytes, start, end);
  const sql = await PgConnection.connect(config.connection, signal);
  const onAbort = () => void sql.close();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    await sql.query(withoutTimeouts(sql.serverVersion));
    const { xid, micros } = await stamp(sql, server.inRecovery);
    await sql.query(
      `BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT ${quoteLiteral(snapshot)}`,
    );
    const begin = beginMessage(consistentPoint - 1n, micros, xid);
    message(begin, 0, begin.length);
    const drained = async () => {
      await pressed?.promise;
      if (failure !== null) throw failure;
    };
    const summary = await compare({ connection: sql, message, drained, signal });
    const commit = commitMessage(consistentPoint - 1n, consistentPoint, micros);
    message(commit, 0, commit.length);
    writer.burst();
    await durable.promise;
    return summary;
  } finally {
    signal.removeEventListener('abort', onAbort);
    await sql.close();
    await writer.drained();
  }
}

/**
 * The transaction id of the difference. Assigned after the snapshot: to whoever compares snapshots with transactions
 * (backfills do) it is newer than every snapshot that was taken before this repair, and older than those after.
 */
async function stamp(sql: PgConnection, inRecovery: boolean): Promise<{ xid: number; micros: bigint }> {
  const id = inRecovery
    ? 'pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())'
    : 'pg_catalog.pg_current_xact_id()';
  const { rows } = await sql.query(
    `SELECT ${id}::text, (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint::text`,
  );
  const [xid, micros] = rows[0] ?? [];
  return { xid: Number(BigInt(xid ?? 0) & 0xffff_ffffn), micros: BigInt(micros ?? 0) };
}

/** Microseconds from 1970-01-01 to 2000-01-01, where Postgres counts from. */
const POSTGRES_EPOCH_MICROS = 946_684_800_000_000n;

function beginMessage(commitLsn: Lsn, micros: bigint, xid: number): Buffer {
  const out = new ByteWriter(32);
  out.u8(BEGIN);
  out.u64(commitLsn);
  out.u64(micros - POSTGRES_EPOCH_MICROS);
  out.u32(xid);
  return out.view();
}

function commitMessage(commitLsn: Lsn, endLsn: Lsn, micros: bigint): Buffer {
  const out = new ByteWriter(32);
  out.u8(COMMIT);
  out.u8(0);
  out.u64(commitLsn);
  out.u64(endLsn);
  out.u64(micros - POSTGRES_EPOCH_MICROS);
  return out.view();
}

async function dropQuietly({ config, state }: RepairContext): Promise<void> {
  try {
    const sql = await PgConnection.connect(config.connection);
    try {
      await dropSlot(sql, config.slot.name, { wait: true });
      await state.forgetIntent();
    } finally {
      await sql.close();
    }
  } catch {
    // The next attempt finds it by the intent, and works with it.
  }
}

function exhausted(first: number, cause: MillraceError): MillraceError {
  const again = new Date(first + REPAIR_WINDOW_MS).toISOString();
  return new MillraceError('pg_repair_failed', {
    detail: `${REPAIR_ATTEMPTS_MAX} repairs were tried within a day. ${cause.message}`,
    hint:
      'Mend what makes the slot get lost (max_slot_wal_keep_size, idle_replication_slot_timeout, who drops it). The next ' +
      `attempt is made after ${again}, or at once with another slot.name.`,
    cause,
  });
}

function behind(consistentPoint: Lsn, logEnd: Lsn): MillraceError {
  return new MillraceError('pg_repair_failed', {
    detail:
      `The server is at ${formatLsn(consistentPoint)}, and the change log already holds ${formatLsn(logEnd)}: what it sends ` +
      'from now on would not come after what was sent before.',
    hint:
      'It was restored to an earlier state, or is another server. Point the configuration back to the former one, or ' +
      'give the database and its sinks other names, with initial_backfill: true: they start a new log.',
  });
}
