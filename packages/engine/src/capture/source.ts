/**
 * Opens the source: publication and slot made where that is wanted, the slot free for us, and streaming from the end of
 * the log on known to leave no gap. What leaves one is refused, or repaired where the configuration asks for it.
 */
import { MillraceError } from '@millrace/core/error';
import { type Lsn, maxLsn } from '@millrace/core/lsn';
import { type ConnectionConfig, PgConnection, quoteLiteral } from '@millrace/postgres/connection';
import { PgServerError } from '@millrace/postgres/server-error';
import { dropSlot, identifySystem, readSlot, type SlotInfo, setSlotFailover, slotInUse } from '@millrace/postgres/slot';
import type { ChangeLog } from '../change-log/change-log.ts';
import type { LogWriterEvents } from '../change-log/log-writer.ts';
import { isFound, welcomeFoundSlot } from './found-slot.ts';
import { type CapturedTransaction, lastTransaction, sendsAgain } from './resend-check.ts';
import { type Admission, type AdmissionFacts, admit, type Loss, type ServerFacts } from './slot-admission.ts';
import { describeCreation, ensurePublication, isDuplicate, makeSlot, requireFailover } from './slot-creation.ts';
import { freeSlot } from './slot-holder.ts';
import { type CompareWithSource, repairLoss } from './slot-repair.ts';
import { describeUnsettled, settleSlot } from './slot-settling.ts';
import type { SourceNotice } from './source-notice.ts';
import type { SourceState } from './source-state.ts';
import { readTimelineEnd } from './timeline.ts';

export interface SourceConfig {
  /** The database's name in the configuration. */
  readonly name: string;
  readonly connection: ConnectionConfig;
  readonly slot: {
    readonly name: string;
    readonly createIfNotExists: boolean;
    /** What to do when changes cannot be had from the slot any more. Default refuse. */
    readonly onLoss?: 'refuse' | 'repair' | undefined;
    /** Whether the slot is to be copied to standbys. Absent: as it is. */
    readonly failover?: boolean | undefined;
  };
  readonly publication: {
    readonly name: string;
    readonly createIfNotExists: boolean;
    readonly initSql?: string | undefined;
  };
  /** Where `connection` is with a standby: its primary, for what a standby cannot do itself. */
  readonly primary?: ConnectionConfig | undefined;
  /** Those that may be promoted, to be asked whether they are ready. */
  readonly standbys?: readonly ConnectionConfig[] | undefined;
}

export interface OpenOptions {
  readonly signal: AbortSignal;
  /** Needed for slot.on_loss: repair; without it every loss is refused. */
  readonly compare?: CompareWithSource | undefined;
  /** Told of each RELATION a repair writes; see LogWriterEvents. */
  readonly relation?: LogWriterEvents['relation'] | undefined;
  readonly notify?: ((notice: SourceNotice) => void) | undefined;
  /**
   * What comes does not follow what the server showed before: it is on another timeline, or a repair bridges a gap, up to a
   * moment before this call. Called before any of it is in the log.
   */
  readonly onBreak?: (() => void) | undefined;
  readonly now?: (() => number) | undefined;
}

export interface OpenSource {
  readonly connection: PgConnection;
  readonly startLsn: Lsn;
  /** The server is a standby. */
  readonly inRecovery: boolean;
  /**
   * Writes down whose changes these are. To be called once streaming has begun, so that one who finds the slot taken
   * claims nothing, and before anything is taken from the stream.
   */
  settle(): Promise<void>;
}

/** Making a slot on a standby is the longest that is asked, and takes a minute at most. */
const ANSWER_MS = 120_000;
const STANDBY_VERSION_MIN = 16_00_00;
/** Of a slot: somebody reads it. */
const OBJECT_IN_USE = '55006';

/** The caller owns the connection. Called with no transaction open in the log. */
export async function openSource(
  config: SourceConfig,
  state: SourceState,
  log: ChangeLog,
  { signal, compare, relation, notify = () => {}, onBreak = () => {}, now = Date.now }: OpenOptions,
): Promise<OpenSource> {
  checkLog(state, log);
  const repairs = config.slot.onLoss === 'repair' && compare !== undefined;
  const applicationName = await state.applicationName(config.name);
  const { answerMs = ANSWER_MS } = config.connection;
  const patient = { ...config.connection, answerMs, applicationName, replication: true };
  const connect = () => PgConnection.connect(patient, signal);
  let connection = await connect();
  const onAbort = () => void connection.close();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    let facts = await gather(connection, config, state, log);
    let admission = admit(facts);
    const found = isFound(facts);
    // Nothing is made on a server that is not the one.
    if (admission.kind === 'refuse' && isAnotherServer(admission.loss) && !repairs) throw admission.error;
    await ensurePublication(connection, config, facts.server.inRecovery, signal);
    if (admission.kind === 'create') {
      await create(connection, config, state, facts.server, signal, notify);
      // Made just now: nothing is left over.
      facts = { ...(await gather(connection, config, state, log)), intent: null };
      admission = admit(facts);
    }
    if (facts.slot !== null) facts = { ...facts, slot: await freeSlot(connection, facts.slot, signal, notify) };
    if (isUnsettled(facts)) {
      await settleBeginning(connection, config, state, facts.server.inRecovery, signal, notify);
      facts = await gather(connection, config, state, log);
    }
    // Whoever held the slot may have moved it until he ended.
    admission = admit(facts);
    const last = admission.kind === 'stream' ? await toBeSentAgain(config, state, log, facts.slot!) : null;
    if (last !== null) {
      const { name } = facts.slot!;
      facts = { ...facts, sentAgain: await sendsAgain(connection, name, config.publication.name, last, signal) };
      connection = await connect();
      admission = admit(facts);
    }
    if (admission.kind === 'refuse' && admission.loss !== null && repairs) {
      // The repair has a replication connection of its own, and there may be room for one.
      await connection.close();
      const { server, slot } = facts;
      const context = {
        config,
        state,
        log,
        server,
        slot,
        applicationName,
        compare,
        relation,
        signal,
        notify,
        onBreak,
        now,
      };
      await repairLoss(admission.loss, admission.error, context);
      connection = await connect();
      facts = await gather(connection, config, state, log);
      admission = admit(facts);
    }
    if (admission.kind === 'stream' && found) {
      await welcomeFoundSlot(config, facts, signal, notify);
    }
    if (facts.timelineEnd !== null) onBreak();
    return { connection, ...(await admitted(connection, config, state, log, facts, admission, notify)) };
  } catch (error) {
    await connection.close();
    throw error;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** Made by a start of ours that died before it stood where it may be read from. */
function isUnsettled({ identity, intent, slot, server, logEnd }: AdmissionFacts): boolean {
  if (identity !== null || logEnd !== 0n || intent === null || intent.settled === true) return false;
  return slot?.name === intent.slot && server.systemId === intent.systemId;
}

function isAnotherServer(loss: Loss | null): boolean {
  return loss === 'replaced' || loss === 'diverged' || loss === 'rewound';
}

async function gather(
  connection: PgConnection,
  config: SourceConfig,
  state: SourceState,
  log: ChangeLog,
): Promise<AdmissionFacts> {
  const system = await identifySystem(connection);
  const { identity, intent } = state;
  const { rows } = await connection.query(
    `SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('server_version')`,
  );
  const inRecovery = rows[0]?.[0] === 't';
  if (inRecovery && connection.serverVersion < STANDBY_VERSION_MIN) {
    throw new MillraceError('pg_version_unsupported', {
      detail: `It is a standby of Postgres ${rows[0]?.[1]}, which cannot decode changes.`,
      hint: 'Capture from a standby needs Postgres 16 or later; point the configuration to the primary.',
    });
  }
  const slotName = config.slot.name;
  const moved = identity !== null && identity.systemId === system.systemId && identity.timeline !== system.timeline;
  return {
    slotName,
    database: config.connection.database,
    server: { systemId: system.systemId, timeline: system.timeline, walEnd: system.walFlushLsn, inRecovery },
    slot: await readSlot(connection, slotName),
    identity,
    intent,
    logEnd: log.endLsn,
    sentAgain: null,
    timelineEnd: moved ? await readTimelineEnd(connection, identity.timeline, system.timeline) : null,
  };
}

async function create(
  connection: PgConnection,
  config: SourceConfig,
  state: SourceState,
  server: ServerFacts,
  signal: AbortSignal,
  notify: (notice: SourceNotice) => void,
): Promise<void> {
  const { name, createIfNotExists, failover = false } = config.slot;
  if (!createIfNotExists) {
    throw new MillraceError('pg_slot_missing', {
      detail: `There is no slot "${name}".`,
      hint: `Set slot.create_if_not_exists: true, or run:\n  SELECT pg_create_logical_replication_slot(${quoteLiteral(name)}, 'pgoutput');`,
    });
  }
  if (failover) requireFailover(connection);
  const { systemId, walEnd, inRecovery } = server;
  const slot = { name, systemId, after: walEnd, inRecovery, failover };
  const { consistentPoint } = await makeSlot(connection, slot, config, state).catch(async (error: unknown) => {
    // The server has refused: a slot of this name that is there later was made by somebody else, and is not to be moved.
    if (error instanceof MillraceError && error.retry !== 'reconnect') await state.forgetIntent();
    throw isDuplicate(error) ? madeMeanwhile(name) : error;
  });
  notify({ kind: 'slot_created', text: describeCreation(name, consistentPoint) });
  await settleBeginning(connection, config, state, inRecovery, signal, notify);
}

/** Of two that begin at the same moment one makes it. The other waits, as for any slot that is read. */
function madeMeanwhile(name: string): MillraceError {
  return new MillraceError('pg_slot_in_use', { detail: `"${name}" already exists: somebody else has just made it.` });
}

async function keepSettled(state: SourceState): Promise<void> {
  if (state.intent !== null) await state.saveIntent({ ...state.intent, settled: true });
}

/** Of a slot that nothing was taken from yet. One that cannot be given a sound beginning is not left behind. */
async function settleBeginning(
  connection: PgConnection,
  config: SourceConfig,
  state: SourceState,
  inRecovery: boolean,
  signal: AbortSignal,
  notify: (notice: SourceNotice) => void,
): Promise<void> {
  const slot = config.slot.name;
  const writable = inRecovery ? config.primary : config.connection;
  try {
    const from = writable === undefined ? null : await settleSlot({ connection, slot, writable, signal });
    await keepSettled(state);
    if (from === null) notify({ kind: 'slot_unsettled', text: describeUnsettled(slot) });
  } catch (error) {
    if (error instanceof PgServerError && error.sqlState === OBJECT_IN_USE) {
      // Another engine has found it and reads it: it is his, begins where he began, and is not to be moved any more.
      await state.forgetIntent();
      throw slotInUse(slot, error);
    }
    // One that somebody makes under this name later is not ours.
    if (await dropSlot(connection, slot).catch(() => false)) await state.forgetIntent();
    throw error;
  }
}

async function admitted(
  connection: PgConnection,
  config: SourceConfig,
  state: SourceState,
  log: ChangeLog,
  facts: AdmissionFacts,
  admission: Admission,
  notify: (notice: SourceNotice) => void,
): Promise<Omit<OpenSource, 'connection'>> {
  if (admission.kind === 'refuse') throw admission.error;
  const { slot, server } = facts;
  if (admission.kind === 'create' || slot === null) {
    throw new MillraceError('pg_slot_missing', { detail: `Slot "${facts.slotName}" vanished.` });
  }
  for (const notice of admission.notices) notify(notice);
  await alignFailover(connection, config, slot, server, notify);
  const { from } = admission;
  return {
    startLsn: from,
    inRecovery: server.inRecovery,
    async settle() {
      await state.save({
        systemId: server.systemId,
        timeline: server.timeline,
        slot: slot.name,
        publication: config.publication.name,
        acknowledged: maxLsn(from, followed(facts)),
        logRecords: log.durableSeq,
        slotConfirmed: slot.confirmedFlushLsn ?? 0n,
      });
      await state.forgetIntent();
    },
  };
}

/** What was acknowledged before, as far as it holds on the timeline the server is on now. */
function followed({ identity, server, timelineEnd }: AdmissionFacts): Lsn {
  if (identity === null || identity.systemId !== server.systemId) return 0n;
  if (identity.timeline === server.timeline || timelineEnd === null) return identity.acknowledged;
  return identity.acknowledged < timelineEnd ? identity.acknowledged : timelineEnd;
}

/**
 * The transaction the slot is to send again before it is trusted; see resend-check.ts. Null where it cannot be asked: it
 * stands beyond the last one, or that one came from a repair.
 */
async function toBeSentAgain(
  config: SourceConfig,
  { identity, repairs }: SourceState,
  log: ChangeLog,
  slot: SlotInfo,
): Promise<CapturedTransaction | null> {
  // Another publication may leave out what that transaction changed.
  if (identity?.publication !== config.publication.name || log.committedLsn === repairs.appended) return null;
  return (slot.confirmedFlushLsn ?? 0n) > log.committedLsn ? null : await lastTransaction(log);
}

async function alignFailover(
  connection: PgConnection,
  { slot: { failover } }: SourceConfig,
  slot: SlotInfo,
  { inRecovery }: ServerFacts,
  notify: (notice: SourceNotice) => void,
): Promise<void> {
  // A standby's own slots are not copied anywhere.
  if (failover === undefined || failover === slot.failover || inRecovery) return;
  if (failover) requireFailover(connection);
  await setSlotFailover(connection, slot.name, failover);
  const now = failover ? 'is copied to standbys from now on' : 'is no longer copied to standbys';
  notify({ kind: 'slot_failover', text: `slot "${slot.name}" ${now}` });
}

/** A disk that was lost and a bucket that had not everything, or a data directory put together from two copies. */
function checkLog({ identity }: SourceState, { durableSeq }: ChangeLog): void {
  if (identity === null || durableSeq >= identity.logRecords) return;
  throw new MillraceError('log_lost', {
    detail: `It holds ${durableSeq} records and held ${identity.logRecords}; slot "${identity.slot}" will not send them again.`,
    hint:
      'If the gap is acceptable, give the database, its slot and its sinks other names in the configuration, with ' +
      'initial_backfill: true: they start afresh. Otherwise restore the whole data directory from one copy.',
  });
}
