/** The checks of a database, from what is known of it at one moment. Pure. */
import { codes, type MillraceError } from '@millrace/core/error';
import { quoteLiteral } from '@millrace/postgres/connection';
import type { PublicationFacts, PublishedTable, ServerFacts, SlotFacts } from '@millrace/postgres/source-facts';
import type { Lag } from './commit-history.ts';
import { type Check, type CheckStatus, check, type Finding } from './finding.ts';
import type { HealthTiming } from './health-timing.ts';
import { settingBytes } from './setting-bytes.ts';
import { identityFindings, publicationFindings } from './table-findings.ts';

export interface SourceNames {
  readonly database: string;
  readonly slot: string;
  readonly publication: string;
}

/** What a round of questions to the server brought. */
export interface Probe {
  readonly atMs: number;
  readonly server: ServerFacts;
  readonly slot: SlotFacts | null;
}

export interface TableProbe {
  readonly atMs: number;
  readonly publication: PublicationFacts | null;
  readonly tables: readonly PublishedTable[];
}

/** What capture says of itself. */
export type CaptureView =
  | { readonly kind: 'connecting'; readonly attempt: number; readonly error: MillraceError | null }
  | { readonly kind: 'streaming' }
  | { readonly kind: 'stopped' }
  | { readonly kind: 'failed'; readonly error: unknown };

export interface SourceEvidence {
  readonly nowMs: number;
  /** When it last streamed; before the first time, when it was to begin. */
  readonly streamedAtMs: number;
  readonly names: SourceNames;
  /** Why there is no pipeline; null: there is one, or it starts for the first time. */
  readonly failure: MillraceError | null;
  /** null: there is no pipeline. */
  readonly capture: CaptureView | null;
  readonly probe: Probe | null;
  /** Why the last round of questions failed; null: it did not. */
  readonly probeFailure: MillraceError | null;
  readonly tables: TableProbe | null;
  /** For how long the server's WAL has been ahead while nothing came; null: it is not so. */
  readonly silentMs: number | null;
  /** For how long a standby that gets or replays nothing has stood at the same place; null: it is not so. */
  readonly standbyStillMs: number | null;
  /** For how long the server has sent nothing because it waits for a standby; null: it is not so. */
  readonly standbyAwaitedMs: number | null;
  readonly lag: Lag;
  readonly lagHighBytes: number;
  readonly log: { readonly bytes: number; readonly bytesMax: number; readonly slowestSink: string | null } | null;
  /** For how long nothing of what the log's disk was given has become durable; null: nothing is under way. */
  readonly writingMs: number | null;
  /** Pinned by other stages, of the database itself. */
  readonly notices: readonly Finding[];
}

/** Above this share of its bound the change log is about to forget what a sink has not read. */
const LOG_NEAR_BOUND = 0.8;
/** With less room left than this share of max_slot_wal_keep_size the slot is about to be lost. */
const SAFE_WAL_SHARE = 0.25;

export function sourceChecks(evidence: SourceEvidence, timing: HealthTiming): Check[] {
  return [
    reachable(evidence),
    configuration(evidence, timing),
    connected(evidence),
    messages(evidence, timing),
    ...changeLog(evidence, timing),
    ...(evidence.notices.length > 0 ? [check('notices', 'Notices', evidence.notices)] : []),
  ];
}

function reachable({ probe, probeFailure }: SourceEvidence): Check {
  const findings = probeFailure === null ? [] : [ofError('db_connectivity_checked', probeFailure)];
  return check('reachable', 'Database reachable', findings, probe === null ? 'initializing' : 'healthy');
}

function configuration(evidence: SourceEvidence, timing: HealthTiming): Check {
  const { nowMs, names, probe, tables, failure } = evidence;
  const findings: Finding[] = [];
  if (probe !== null) findings.push(...slotFindings(names, probe));
  if (tables !== null) {
    findings.push(...publicationFindings(names.publication, tables.publication, tables.tables));
    if (tables.publication !== null) findings.push(...identityFindings(tables.publication, tables.tables));
  }
  if (failure !== null && findings.every(({ code }) => code !== failure.code)) {
    findings.push(ofError('replication_slot_checked', failure));
  }
  let status: CheckStatus = 'healthy';
  if (probe === null || tables === null) status = 'initializing';
  else if (nowMs - probe.atMs > timing.slotStaleMs || nowMs - tables.atMs > timing.tablesStaleMs) status = 'stale';
  return check('replication_configuration', 'Replication configuration', findings, status);
}

export function slotFindings({ slot: name }: SourceNames, { server, slot }: Probe): Finding[] {
  const drop = `SELECT pg_drop_replication_slot(${quoteLiteral(name)});`;
  if (slot === null) {
    return [
      {
        slug: 'replication_slot_missing',
        severity: 'error',
        text: `There is no replication slot "${name}". Changes since it went cannot be captured.`,
        fix: 'Go back to the server that has it, or set slot.on_loss: repair, or start anew with initial_backfill: true: see docs/postgres.md, When the slot is lost.',
        code: 'pg_slot_missing',
      },
    ];
  }
  if (slot.walStatus === 'lost' || slot.invalidationReason !== null) {
    return [
      {
        slug: 'replication_slot_lost',
        severity: 'error',
        text: `Replication slot "${name}" was invalidated (${slot.invalidationReason ?? 'wal_removed'}): WAL it needed is gone.`,
        fix: `${drop}\n-- then start anew with initial_backfill: true; or leave it and set slot.on_loss: repair.\n-- See docs/postgres.md, When the slot is lost.`,
        code: 'pg_slot_invalidated',
      },
    ];
  }
  const bound = server.settings.max_slot_wal_keep_size;
  const widen = 'ALTER SYSTEM SET max_slot_wal_keep_size = -1;\nSELECT pg_reload_conf();';
  if (slot.walStatus === 'unreserved') {
    return [
      {
        slug: 'slot_wal_exhausted',
        severity: 'error',
        text: `Replication slot "${name}" is beyond max_slot_wal_keep_size (${bound}): the next checkpoint may invalidate it.`,
        fix: widen,
      },
    ];
  }
  const boundBytes = settingBytes(bound);
  if (slot.safeWalBytes !== null && boundBytes !== null && slot.safeWalBytes < boundBytes * SAFE_WAL_SHARE) {
    return [
      {
        slug: 'slot_wal_exhausted',
        severity: 'warning',
        text: `Replication slot "${name}" may keep ${Math.max(0, Math.round(slot.safeWalBytes / 2 ** 20))} MiB more WAL before it is invalidated (max_slot_wal_keep_size: ${bound}).`,
        fix: widen,
      },
    ];
  }
  return [];
}

function connected({ capture, failure }: SourceEvidence): Check {
  const name = 'Replication connected';
  const slug = 'replication_connected';
  if (failure !== null) return check(slug, name, [ofError(slug, failure)], 'error');
  switch (capture?.kind) {
    case 'streaming':
      return check(slug, name, []);
    case 'connecting':
      if (capture.error !== null) return check(slug, name, [ofError(slug, capture.error)], 'error');
      return check(slug, name, [], 'initializing');
    case 'failed':
      return check(slug, name, [], 'error');
    default:
      return check(slug, name, [], 'initializing');
  }
}

function messages(evidence: SourceEvidence, timing: HealthTiming): Check {
  const { capture, silentMs, standbyAwaitedMs, standbyStillMs, lag, lagHighBytes } = evidence;
  const { nowMs, streamedAtMs, names, probe } = evidence;
  const findings: Finding[] = [];
  if (silentMs !== null && silentMs > timing.captureStallMs) {
    findings.push({
      slug: 'replication_heartbeat_verification',
      severity: 'error',
      text: `The connection stands, the server's WAL moves on, and nothing has come for ${Math.round(silentMs / 1000)} s.`,
      fix:
        `SELECT pid, state, wait_event FROM pg_stat_activity WHERE pid = (SELECT active_pid FROM pg_replication_slots WHERE slot_name = ${quoteLiteral(names.slot)});\n` +
        '-- The network between the two, or the WAL sender, hangs. Millrace reconnects by itself after one and a half times\n' +
        '-- wal_sender_timeout; where that is 0, after a minute, unless the WAL sender is at work.',
    });
  }
  if (standbyAwaitedMs !== null && standbyAwaitedMs > timing.captureStallMs) {
    findings.push({
      slug: 'standby_not_confirmed',
      severity: 'error',
      text: `For ${Math.round(standbyAwaitedMs / 1000)} s the server has sent nothing: it waits for a standby of synchronized_standby_slots.`,
      fix:
        "SELECT slot_name, active, restart_lsn FROM pg_replication_slots WHERE slot_type = 'physical';\n" +
        '-- Start the standby; or, where a failover to it may lose changes, take its slot out:\n' +
        "ALTER SYSTEM SET synchronized_standby_slots = '';\nSELECT pg_reload_conf();",
    });
  }
  if (standbyStillMs !== null && standbyStillMs > timing.captureStallMs) {
    findings.push(standbyFinding(probe?.server.standbyTrouble ?? null, standbyStillMs));
  }
  if (lag.bytes > BigInt(lagHighBytes)) {
    findings.push({
      slug: 'replication_lag_high',
      severity: 'error',
      text: `${mebibytes(lag.bytes)} MiB of WAL are not captured yet (threshold: ${mebibytes(BigInt(lagHighBytes))} MiB).`,
      fix: `SELECT active, wal_status, pg_size_pretty(pg_current_wal_lsn() - confirmed_flush_lsn) FROM pg_replication_slots WHERE slot_name = ${quoteLiteral(names.slot)};\n-- Millrace is catching up, or it does not get enough CPU, network or disk.`,
    });
  }
  let status: CheckStatus = 'healthy';
  if (capture?.kind !== 'streaming' || probe === null) {
    const late = nowMs - streamedAtMs > timing.firstEventMs && capture?.kind !== 'streaming';
    status = late ? 'error' : 'initializing';
  }
  return check('replication_messages', 'Replication messages', findings, status);
}

/** What is not replayed on a standby is not shown by its slot. */
function standbyFinding(trouble: ServerFacts['standbyTrouble'], stillMs: number): Finding {
  const seconds = Math.round(stillMs / 1000);
  if (trouble === 'unreplayed') {
    return {
      slug: 'standby_not_replaying',
      severity: 'error',
      text: `The server is a standby that has not replayed what it received for ${seconds} s: its changes do not come.`,
      fix:
        'SELECT pg_is_wal_replay_paused();\nSELECT pg_wal_replay_resume();\n' +
        '-- Where it is not paused a query there holds it up, for as long as max_standby_streaming_delay lets it.',
    };
  }
  return {
    slug: 'standby_not_fed',
    severity: 'error',
    text: `The server is a standby that has had no connection to its primary for ${seconds} s: what is written there does not come.`,
    fix:
      'SELECT status FROM pg_stat_wal_receiver;\n' +
      '-- Its log says why: primary_conninfo, primary_slot_name, or WAL that the primary no longer has.',
  };
}

function changeLog({ log, writingMs }: SourceEvidence, timing: HealthTiming): Check[] {
  if (log === null && writingMs === null) return [];
  const findings: Finding[] = [];
  if (writingMs !== null && writingMs > timing.captureStallMs) {
    findings.push({
      slug: 'change_log_stalled',
      severity: 'error',
      text: `The disk has not finished a write of the change log for ${Math.round(writingMs / 1000)} s; until it does nothing is delivered or acknowledged.`,
      fix: 'See what the disk under the data directory waits for: dmesg, iostat -x 1, the volume at the provider.',
    });
  }
  if (log !== null && log.bytes > log.bytesMax * LOG_NEAR_BOUND) {
    const sink = log.slowestSink === null ? '' : ` Sink "${log.slowestSink}" is the slowest.`;
    findings.push({
      slug: 'change_log_near_bound',
      severity: 'warning',
      text: `The change log holds ${mebibytes(BigInt(log.bytes))} of at most ${mebibytes(BigInt(log.bytesMax))} MiB; beyond it sinks that have not read its beginning are stopped.${sink}`,
      fix: 'Mend or remove the slow sink, or give it more time: millrace start --change-log-max SIZE',
    });
  }
  return [check('change_log', 'Change log', findings)];
}

/** A coded error as a finding. */
export function ofError(slug: string, error: MillraceError, severity: Finding['severity'] = 'error'): Finding {
  return { slug, severity, text: error.logText, fix: error.logHint ?? hintFor(error), code: error.code };
}

function hintFor(error: MillraceError): string | undefined {
  switch (error.code) {
    case 'pg_unreachable':
    case 'pg_connection_lost':
    case 'pg_timeout':
      return 'See that the server runs and that its port can be reached from here: millrace check --config FILE';
    default:
      return codes[error.code].retry === 'operator' ? `See ${error.code} in docs/errors.md.` : undefined;
  }
}

function mebibytes(bytes: bigint): string {
  return String(bytes / 1_048_576n);
}
