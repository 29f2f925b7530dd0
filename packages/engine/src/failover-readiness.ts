/**
 * Whether a standby could be promoted now without losing the slot or changes that were captured: asked of the primary
 * and of each configured standby. Every reason against it comes with what mends it. Postgres 17 and later.
 * Source: "Logical Replication Failover" and "Replication Slot Synchronization" in the Postgres manual.
 */
import { MillraceError } from '@millrace/core/error';
import { formatLsn, type Lsn, maxLsn, parseLsn } from '@millrace/core/lsn';
import { type ConnectionConfig, PgConnection, quoteLiteral } from '@millrace/postgres/connection';
import { readSlot, type SlotInfo } from '@millrace/postgres/slot';

export type FailoverProblemCode =
  | 'version_unsupported'
  | 'source_is_standby'
  | 'slot_missing'
  | 'slot_not_failover'
  | 'standby_slots_unset'
  | 'standby_not_waited_for'
  | 'no_standby_configured'
  | 'primary_unreachable'
  | 'standby_unreachable'
  | 'not_a_standby'
  | 'sync_off'
  | 'feedback_off'
  | 'no_physical_slot'
  | 'copy_missing'
  | 'copy_foreign'
  | 'copy_temporary'
  | 'copy_invalidated'
  | 'wal_behind';

export interface FailoverProblem {
  readonly code: FailoverProblemCode;
  readonly text: string;
  /** To be run where the problem is; or what to change in the configuration. */
  readonly fix: string;
}

export interface StandbyReadiness {
  readonly host: string;
  readonly port: number;
  /** This one could be promoted. */
  readonly safe: boolean;
  readonly problems: readonly FailoverProblem[];
  /** The copy of the slot, as the standby shows it. */
  readonly copy: {
    readonly temporary: boolean;
    readonly confirmedLsn: string | null;
    readonly restartLsn: string | null;
    /** What would be sent, and dropped, a second time after a promotion. */
    readonly behindBytes: number;
  } | null;
  readonly receivedLsn: string | null;
}

export interface FailoverReadiness {
  readonly slot: string;
  /** At least one standby could be promoted now. */
  readonly safe: boolean;
  /** Of the primary and the configuration. */
  readonly problems: readonly FailoverProblem[];
  readonly standbys: readonly StandbyReadiness[];
}

export interface FailoverQuestion {
  readonly connection: ConnectionConfig;
  readonly slot: string;
  readonly standbys: readonly ConnectionConfig[];
  /** Changes up to here were captured: a standby without them must not be promoted. */
  readonly captured: Lsn;
}

/** Of one that takes longer, to be connected to or to answer, nothing is known. */
const PATIENCE_MS = 5_000;
const FAILOVER_VERSION_MIN = 17_00_00;

export async function failoverReadiness(question: FailoverQuestion): Promise<FailoverReadiness> {
  const { connection, slot, standbys, captured } = question;
  const problems: FailoverProblem[] = [];
  const found = await ask(connection, (sql) => askPrimary(sql, slot, problems));
  if (found instanceof MillraceError) {
    problems.push({ code: 'primary_unreachable', text: found.message, fix: found.hint ?? 'Start it.' });
  }
  if (standbys.length === 0) {
    problems.push({
      code: 'no_standby_configured',
      text: 'No standby is named in the configuration, so none can be asked.',
      fix: 'standbys: [{ hostname: ... }] in the database of the configuration',
    });
  }
  const primary = found instanceof MillraceError ? null : found;
  const answers = await Promise.all(standbys.map((standby) => askStandby(standby, slot, primary, captured)));
  // What is wrong with the primary is so for every standby.
  const ready = problems.every(({ code }) => code === 'primary_unreachable') && primary !== null;
  const judged = answers.map((answer) => ({ ...answer, safe: answer.safe && ready }));
  return { slot, safe: judged.some(({ safe }) => safe), problems, standbys: judged };
}

interface Primary {
  readonly slot: SlotInfo;
  /** Physical slots of the standbys that have to have a change before it is sent. */
  readonly waitedFor: readonly string[];
}

async function askPrimary(sql: PgConnection, name: string, problems: FailoverProblem[]): Promise<Primary | null> {
  if (sql.serverVersion < FAILOVER_VERSION_MIN) {
    problems.push({
      code: 'version_unsupported',
      text: `The server is Postgres ${sql.parameters.get('server_version')}; slots are copied to standbys from 17 on.`,
      fix: 'Upgrade, or after a failover let slot.on_loss: repair bring the sinks up to date.',
    });
    return null;
  }
  const { rows } = await sql.query(`
    SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('synchronized_standby_slots'),
           (SELECT pg_catalog.string_agg(slot_name, ',' ORDER BY slot_name)
              FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical')`);
  const [recovery, waited, physical] = rows[0] ?? [];
  if (recovery === 't') {
    problems.push({
      code: 'source_is_standby',
      text: 'The source is a standby itself; its slots are copied nowhere.',
      fix: 'Capture from the primary.',
    });
    return null;
  }
  const slot = await readSlot(sql, name);
  if (slot === null) {
    problems.push({
      code: 'slot_missing',
      text: `Slot "${name}" is not there.`,
      fix: `SELECT pg_create_logical_replication_slot(${quoteLiteral(name)}, 'pgoutput', false, false, true);`,
    });
    return null;
  }
  if (!slot.failover) {
    problems.push({
      code: 'slot_not_failover',
      text: `Slot "${name}" is not marked to be copied to standbys.`,
      fix: 'slot.failover: true in the database of the configuration, and a restart of Millrace',
    });
  }
  const waitedFor = slotNames(waited ?? '');
  if (waitedFor.length === 0) {
    problems.push({
      code: 'standby_slots_unset',
      text: 'synchronized_standby_slots is empty: changes are sent before a standby has them, and would be lost to it.',
      fix: `ALTER SYSTEM SET synchronized_standby_slots = ${quoteLiteral(physical ?? '<physical slot of the standby>')}; SELECT pg_reload_conf();`,
    });
  }
  return { slot, waitedFor };
}

/** Of a setting that is a list of identifiers. */
function slotNames(list: string): string[] {
  const names = list.split(',').map((name) => name.trim().replace(/^"(.*)"$/, '$1'));
  return names.filter((name) => name !== '');
}

async function askStandby(
  config: ConnectionConfig,
  slot: string,
  primary: Primary | null,
  captured: Lsn,
): Promise<StandbyReadiness> {
  const { host, port } = config;
  const problems: FailoverProblem[] = [];
  const seen = await ask(config, (sql) => readStandby(sql, slot, problems));
  if (seen instanceof MillraceError) {
    problems.push({ code: 'standby_unreachable', text: seen.message, fix: seen.hint ?? 'Start it.' });
    return { host, port, safe: false, problems, copy: null, receivedLsn: null };
  }
  const { copy, received, physical } = seen;
  if (primary !== null && physical !== null) checkWaitedFor(primary.waitedFor, physical, problems);
  if (received !== null && received < captured) {
    problems.push({
      code: 'wal_behind',
      text: `It has WAL up to ${formatLsn(received)}, ${captured - received} bytes less than what was captured.`,
      fix: 'Let it catch up: SELECT status, latest_end_lsn FROM pg_stat_wal_receiver;',
    });
  }
  const confirmed = copy?.confirmedFlushLsn ?? 0n;
  const behind = maxLsn(primary?.slot.confirmedFlushLsn ?? 0n, confirmed) - confirmed;
  return {
    host,
    port,
    safe: problems.length === 0,
    problems,
    copy: copy && {
      temporary: copy.temporary,
      confirmedLsn: textOf(copy.confirmedFlushLsn),
      restartLsn: textOf(copy.restartLsn),
      behindBytes: Number(behind),
    },
    receivedLsn: textOf(received),
  };
}

/** Another standby's slot in the list holds nothing back for this one. That nothing is in it is the primary's problem. */
function checkWaitedFor(waitedFor: readonly string[], physical: string, problems: FailoverProblem[]): void {
  if (waitedFor.length === 0 || waitedFor.includes(physical)) return;
  const all = quoteLiteral([...waitedFor, physical].join(', '));
  problems.push({
    code: 'standby_not_waited_for',
    text: `synchronized_standby_slots of the primary does not name "${physical}", the primary_slot_name here: changes are sent before this standby has them, and would be lost to it.`,
    fix: `-- on the primary\nALTER SYSTEM SET synchronized_standby_slots = ${all}; SELECT pg_reload_conf();`,
  });
}

function textOf(lsn: Lsn | null): string | null {
  return lsn === null ? null : formatLsn(lsn);
}

async function readStandby(
  sql: PgConnection,
  name: string,
  problems: FailoverProblem[],
): Promise<{ copy: SlotInfo | null; received: Lsn | null; physical: string | null }> {
  const setting = (of: string) => `pg_catalog.current_setting('${of}', true)`;
  const { rows } = await sql.query(`
    SELECT pg_catalog.pg_is_in_recovery(),
           GREATEST(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()),
           ${setting('sync_replication_slots')}, ${setting('hot_standby_feedback')}, ${setting('primary_slot_name')}`);
  const [recovery, received, sync, feedback, physical] = rows[0] ?? [];
  if (recovery !== 't') {
    problems.push({ code: 'not_a_standby', text: 'It is not a standby.', fix: 'Take it out of standbys.' });
    return { copy: null, received: null, physical: null };
  }
  const wrong = (code: FailoverProblemCode, text: string, fix: string) => problems.push({ code, text, fix });
  const set = (what: string) => `ALTER SYSTEM SET ${what}; SELECT pg_reload_conf();`;
  if (sync !== 'on') wrong('sync_off', 'sync_replication_slots is off.', set('sync_replication_slots = on'));
  if (feedback !== 'on') wrong('feedback_off', 'hot_standby_feedback is off.', set('hot_standby_feedback = on'));
  if (!physical) {
    wrong(
      'no_physical_slot',
      'primary_slot_name is empty.',
      set(`primary_slot_name = '<a physical slot of the primary>'`),
    );
  }
  const copy = await readSlot(sql, name);
  if (copy === null) {
    wrong('copy_missing', `It has no copy of slot "${name}".`, 'SELECT pg_sync_replication_slots();');
  } else if (!copy.synced) {
    wrong(
      'copy_foreign',
      `Its slot "${name}" is its own, not a copy of the primary's.`,
      `SELECT pg_drop_replication_slot(${quoteLiteral(name)});`,
    );
  } else if (copy.walStatus === 'lost' || copy.invalidationReason !== null) {
    wrong(
      'copy_invalidated',
      `Its copy of slot "${name}" is invalidated (${copy.invalidationReason ?? 'wal_removed'}).`,
      `SELECT pg_drop_replication_slot(${quoteLiteral(name)}); it is copied again by itself.`,
    );
  } else if (copy.temporary) {
    wrong(
      'copy_temporary',
      `Its copy of slot "${name}" is not persistent yet: a promotion would drop it.`,
      'Wait until the slot has advanced on the primary and been copied again; a write to a published table helps.',
    );
  }
  return { copy, received: parseLsn(received ?? ''), physical: physical || null };
}

async function ask<T>(
  config: ConnectionConfig,
  question: (sql: PgConnection) => Promise<T>,
): Promise<T | MillraceError> {
  try {
    const sql = await PgConnection.connect({ ...config, connectTimeoutMs: PATIENCE_MS, answerMs: PATIENCE_MS });
    try {
      return await question(sql);
    } finally {
      await sql.close();
    }
  } catch (error) {
    if (error instanceof MillraceError) return error;
    throw error;
  }
}
