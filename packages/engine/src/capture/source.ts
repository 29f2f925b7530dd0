/**
 * What the engine knows of its source, and the checks before anything is captured: it is the same server, the same
 * slot, and nobody moved the slot. Each refusal says what to do, with the SQL.
 */
import { MillraceError } from '@millrace/core/error';
import { formatLsn, type Lsn, maxLsn } from '@millrace/core/lsn';
import { createPublication, readPublication } from '@millrace/postgres/catalog';
import { type ConnectionConfig, PgConnection } from '@millrace/postgres/connection';
import {
  createSlot,
  identifySystem,
  publicationMissing,
  readSlot,
  type SlotInfo,
} from '@millrace/postgres/replication';
import type { StateTable } from '@millrace/stream-store/store';

export interface SourceConfig {
  /** The database's name in the configuration. */
  readonly name: string;
  readonly connection: ConnectionConfig;
  readonly slot: { readonly name: string; readonly createIfNotExists: boolean };
  readonly publication: {
    readonly name: string;
    readonly createIfNotExists: boolean;
    readonly initSql?: string | undefined;
  };
}

/** Kept in the state table: which slot of which server the change log comes from, and how far it was acknowledged. */
export interface SourceIdentity {
  readonly systemId: string;
  readonly timeline: number;
  readonly slot: string;
  readonly acknowledged: Lsn;
  /** Records that were durable in the change log when this was written. */
  readonly logRecords: number;
}

/** The change log as far as it is durable. */
export interface LogEnd {
  readonly endLsn: Lsn;
  readonly durableSeq: number;
}

export class SourceState {
  readonly #state: StateTable;
  readonly #key: string;
  #identity: SourceIdentity | null;

  constructor(state: StateTable, key: string) {
    this.#state = state;
    this.#key = key;
    const stored = state.get(key);
    this.#identity = stored === undefined ? null : parseIdentity(stored);
  }

  get identity(): SourceIdentity | null {
    return this.#identity;
  }

  async save(identity: SourceIdentity): Promise<void> {
    this.#identity = identity;
    const json = { ...identity, acknowledged: String(identity.acknowledged) };
    await this.#state.put(this.#key, Buffer.from(JSON.stringify(json)));
  }
}

function parseIdentity(bytes: Uint8Array): SourceIdentity {
  const json = JSON.parse(Buffer.from(bytes).toString()) as Omit<SourceIdentity, 'acknowledged' | 'logRecords'> & {
    acknowledged: string;
    /** Absent in what an earlier version wrote. */
    logRecords?: number;
  };
  return { ...json, acknowledged: BigInt(json.acknowledged), logRecords: json.logRecords ?? 0 };
}

/**
 * Opens the replication connection, creates publication and slot where that is wanted, and checks that streaming from
 * the end of the log on leaves no gap. The caller owns the connection.
 */
export async function openSource(
  config: SourceConfig,
  state: SourceState,
  log: LogEnd,
  signal: AbortSignal,
): Promise<{ connection: PgConnection; startLsn: Lsn }> {
  checkLog(state, log);
  const connection = await PgConnection.connect({ ...config.connection, replication: true }, signal);
  try {
    await ensurePublication(config);
    const system = await identifySystem(connection);
    const slot = await ensureSlot(connection, config, state, log.endLsn);
    const startLsn = await admit(config, state, { ...system, slot }, log);
    return { connection, startLsn };
  } catch (error) {
    await connection.close();
    throw error;
  }
}

/** A disk that was lost and a bucket that had not everything, or a data directory put together from two copies. */
function checkLog({ identity }: SourceState, { durableSeq }: LogEnd): void {
  if (identity === null || durableSeq >= identity.logRecords) return;
  throw new MillraceError('log_lost', {
    detail: `It holds ${durableSeq} records and held ${identity.logRecords}; slot "${identity.slot}" will not send them again.`,
    hint:
      'If the gap is acceptable, give the database, its slot and its sinks other names in the configuration, with ' +
      'initial_backfill: true: they start afresh. Otherwise restore the whole data directory from one copy.',
  });
}

async function ensurePublication({ connection, publication }: SourceConfig): Promise<void> {
  const sql = await PgConnection.connect(connection);
  try {
    if ((await readPublication(sql, publication.name)) !== null) return;
    if (!publication.createIfNotExists) throw publicationMissing(undefined, publication.name);
    if (publication.initSql !== undefined) await sql.query(publication.initSql);
    else await createPublication(sql, publication.name, null);
  } finally {
    await sql.close();
  }
}

async function ensureSlot(
  connection: PgConnection,
  { slot: { name, createIfNotExists } }: SourceConfig,
  state: SourceState,
  logEnd: Lsn,
): Promise<SlotInfo> {
  const found = await readSlot(connection, name);
  if (found !== null) return found;
  // Creating it anew would start at "now" and lose what happened since.
  if (state.identity !== null || logEnd > 0n) {
    throw new MillraceError('pg_slot_missing', {
      detail: `Slot "${name}" was there before; changes since ${formatLsn(logEnd)} cannot be captured from a new one.`,
      hint:
        'If the gap is acceptable, start with an empty data directory and initial_backfill: true. ' +
        'Otherwise restore the server or standby that still has the slot.',
    });
  }
  if (!createIfNotExists) {
    throw new MillraceError('pg_slot_missing', {
      detail: `There is no slot "${name}".`,
      hint: `Set slot.create_if_not_exists: true, or run:\n  SELECT pg_create_logical_replication_slot('${name}', 'pgoutput');`,
    });
  }
  await createSlot(connection, name);
  const created = await readSlot(connection, name);
  if (created === null) throw new MillraceError('pg_slot_missing', { detail: `Slot "${name}" vanished.` });
  return created;
}

interface Seen {
  readonly systemId: string;
  readonly timeline: number;
  readonly slot: SlotInfo;
}

/** Returns the LSN to stream from, once the identity is on record. */
async function admit(config: SourceConfig, state: SourceState, seen: Seen, log: LogEnd): Promise<Lsn> {
  const logEnd = log.endLsn;
  const { slot } = seen;
  if (slot.plugin !== 'pgoutput' || slot.database !== config.connection.database) {
    throw new MillraceError('pg_slot_changed', {
      detail: `Slot "${slot.name}" is for plugin ${slot.plugin} in database ${slot.database}.`,
      hint: `Use another slot name, or drop it: SELECT pg_drop_replication_slot('${slot.name}');`,
    });
  }
  if (slot.walStatus === 'lost') {
    throw new MillraceError('pg_slot_invalidated', {
      detail: `Slot "${slot.name}" (${slot.invalidationReason ?? 'wal_removed'}).`,
      hint:
        `Drop it (SELECT pg_drop_replication_slot('${slot.name}');), start with an empty data directory and ` +
        'initial_backfill: true. To keep it from happening, raise max_slot_wal_keep_size.',
    });
  }
  const before = state.identity;
  const confirmed = slot.confirmedFlushLsn ?? 0n;
  if (before !== null) {
    if (before.systemId !== seen.systemId) throw systemChanged('system identifier', before.systemId, seen.systemId);
    if (before.timeline !== seen.timeline) throw systemChanged('timeline', before.timeline, seen.timeline);
    const held = maxLsn(before.acknowledged, logEnd);
    // Also for a slot of another name: what lies between was captured by neither.
    if (confirmed > held) {
      throw new MillraceError('pg_slot_changed', {
        detail:
          `Slot "${slot.name}" stands at ${formatLsn(confirmed)}, but only changes up to ${formatLsn(held)} were captured. ` +
          'It was recreated or advanced by somebody else; the changes in between are not in it.',
        hint: 'If the gap is acceptable, start with an empty data directory and initial_backfill: true.',
      });
    }
  }
  const acknowledged = maxLsn(before?.acknowledged ?? confirmed, logEnd);
  const { systemId, timeline } = seen;
  await state.save({ systemId, timeline, slot: slot.name, acknowledged, logRecords: log.durableSeq });
  return acknowledged;
}

function systemChanged(what: string, before: string | number, now: string | number): MillraceError {
  return new MillraceError('pg_system_changed', {
    detail: `Its ${what} is ${now}; the change log comes from ${before}.`,
    hint:
      'The server was replaced, restored or failed over, and may lack changes that were captured, or have others. ' +
      'Point the configuration back to the former server, or start with an empty data directory and initial_backfill: true.',
  });
}
