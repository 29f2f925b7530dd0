/**
 * Decides, from what is known of server, slot and log, whether streaming from the end of the log on leaves no gap.
 * Pure: nothing is asked or changed here. Each refusal names the gap and says what to do, with the SQL.
 */
import { MillraceError } from '@millrace/core/error';
import { formatLsn, type Lsn, maxLsn } from '@millrace/core/lsn';
import { quoteLiteral } from '@millrace/postgres/connection';
import type { SlotInfo } from '@millrace/postgres/slot';
import type { SourceNotice } from './source-notice.ts';
import type { SlotIntent, SourceIdentity } from './source-state.ts';

export interface ServerFacts {
  readonly systemId: string;
  readonly timeline: number;
  /** End of the WAL it has; on a standby, of what it has received or replayed. */
  readonly walEnd: Lsn;
  readonly inRecovery: boolean;
}

export interface AdmissionFacts {
  readonly slotName: string;
  /** The database of the configuration. */
  readonly database: string;
  readonly server: ServerFacts;
  readonly slot: SlotInfo | null;
  readonly identity: SourceIdentity | null;
  readonly intent: SlotIntent | null;
  readonly logEnd: Lsn;
  /** Where the server left the timeline of `identity`, when it is on another one; null: it never was on it. */
  readonly timelineEnd: Lsn | null;
  /** Whether the slot sent the log's last transaction again, where it was asked to; see resend-check.ts. */
  readonly sentAgain: boolean | null;
}

/**
 * missing: the slot is gone. invalidated: it is there, without its WAL. recreated: it stands beyond what was captured.
 * rewound: the server is older than what was captured. diverged: its history left ours before the end of the log.
 * replaced: another database cluster.
 */
export type Loss = 'missing' | 'invalidated' | 'recreated' | 'rewound' | 'diverged' | 'replaced';

export type Admission =
  /** Streaming from `from` continues the log without a gap. */
  | { readonly kind: 'stream'; readonly from: Lsn; readonly notices: readonly SourceNotice[] }
  /** There never was a slot. */
  | { readonly kind: 'create' }
  /** Not possible as it is; with `loss` a repair can bring the log up to date. */
  | { readonly kind: 'refuse'; readonly error: MillraceError; readonly loss: Loss | null };

export function admit(facts: AdmissionFacts): Admission {
  const { server, slot, identity, logEnd, slotName } = facts;
  const notices: SourceNotice[] = [];
  let held = maxLsn(identity?.acknowledged ?? 0n, logEnd);
  if (identity !== null) {
    if (identity.systemId !== server.systemId) return lost('replaced', replaced(identity, server));
    if (identity.timeline !== server.timeline) {
      const end = facts.timelineEnd;
      // What was acknowledged beyond the log's end held no change of ours; the transactions in the log must be shared.
      if (end === null || logEnd > end) return lost('diverged', diverged(identity, server, logEnd, end));
      // And below the fork nothing may be skipped: the new timeline has its own transactions from there on.
      if (held > end) held = end;
      notices.push({
        kind: 'timeline_followed',
        text: `the server went over to timeline ${server.timeline} at ${formatLsn(end)}, after all that was captured (${formatLsn(logEnd)})`,
      });
    }
    if (server.walEnd < held) {
      if (server.inRecovery) return refused(standbyBehind(server, held));
      return lost('rewound', rewound(server, held));
    }
  }
  if (slot === null) {
    if (identity === null && logEnd === 0n) return { kind: 'create' };
    return lost('missing', missing(slotName, held, server));
  }
  if (slot.plugin !== 'pgoutput' || slot.database !== facts.database || slot.temporary || slot.twoPhase) {
    return refused(foreign(slot));
  }
  if (slot.synced && server.inRecovery) return refused(copied(slot));
  if (slot.walStatus === 'lost' || slot.invalidationReason !== null) {
    return lost('invalidated', invalidated(slot, held, server));
  }
  const confirmed = slot.confirmedFlushLsn ?? 0n;
  if (identity === null && logEnd === 0n) {
    if (facts.intent?.slot === slot.name && facts.intent.systemId === server.systemId) {
      notices.push({ kind: 'slot_adopted', text: `slot "${slot.name}" was made by a start that did not get further` });
    }
    return { kind: 'stream', from: confirmed, notices };
  }
  // Also for a slot of another name: what lies between was captured by neither.
  if (confirmed > held) return lost('recreated', recreated(slot, confirmed, held));
  if (identity !== null && identity.slot === slot.name && confirmed < identity.slotConfirmed) {
    notices.push({
      kind: 'slot_moved_back',
      text:
        `slot "${slot.name}" stands at ${formatLsn(confirmed)}, behind ${formatLsn(identity.slotConfirmed)} where it stood before; ` +
        `nothing is lost: the log holds everything up to ${formatLsn(held)} and goes on from there`,
    });
  }
  if (facts.sentAgain === false) return lost('diverged', rewritten(slot, confirmed, logEnd));
  // Not from what was acknowledged, if that is beyond the log's end: nothing of ours lies between, unless the server
  // is a restored copy, and then something may.
  return { kind: 'stream', from: maxLsn(confirmed, logEnd), notices };
}

function lost(loss: Loss, error: MillraceError): Admission {
  return { kind: 'refuse', loss, error };
}

function refused(error: MillraceError): Admission {
  return { kind: 'refuse', loss: null, error };
}

const START_ANEW =
  'If the gap is acceptable, start with an empty data directory and initial_backfill: true. To have it bridged instead, ' +
  'set slot.on_loss: repair: tables are compared with what was captured. Those without a key, and all of them where it was ' +
  'not set before, are emptied and loaded again instead, and a sink sees them emptied only with truncate among its actions.';

function missing(name: string, held: Lsn, server: ServerFacts): MillraceError {
  const bytes = server.walEnd > held ? server.walEnd - held : 0n;
  return new MillraceError('pg_slot_missing', {
    detail:
      `Slot "${name}" was there before. Captured is everything up to ${formatLsn(held)}; the server is at ` +
      `${formatLsn(server.walEnd)}, and of the ${bytes} bytes of WAL between a new slot would show nothing.`,
    hint:
      `${START_ANEW}\nOtherwise go back to the server or standby that still has the slot. After a failover it is there ` +
      'only if it was a failover slot (slot.failover: true, Postgres 17) whose copy on the standby was persistent.',
  });
}

function invalidated(slot: SlotInfo, held: Lsn, server: ServerFacts): MillraceError {
  const bytes = server.walEnd > held ? server.walEnd - held : 0n;
  return new MillraceError('pg_slot_invalidated', {
    detail:
      `Slot "${slot.name}" (${slot.invalidationReason ?? 'wal_removed'}). Captured is everything up to ${formatLsn(held)}; the ` +
      `server is at ${formatLsn(server.walEnd)}, and the ${bytes} bytes of WAL between can no longer be read.`,
    hint:
      `${START_ANEW} By hand: SELECT pg_drop_replication_slot(${quoteLiteral(slot.name)});\n` +
      'To keep it from happening, raise max_slot_wal_keep_size and idle_replication_slot_timeout.',
  });
}

function recreated(slot: SlotInfo, confirmed: Lsn, held: Lsn): MillraceError {
  return new MillraceError('pg_slot_changed', {
    detail:
      `Slot "${slot.name}" stands at ${formatLsn(confirmed)}, but only changes up to ${formatLsn(held)} were captured. It was ` +
      `recreated or advanced by somebody else; the changes in the ${confirmed - held} bytes between are not in it.`,
    hint: START_ANEW,
  });
}

function foreign(slot: SlotInfo): MillraceError {
  let what = `is for plugin ${slot.plugin} in database ${slot.database}`;
  if (slot.temporary) what = 'is temporary';
  else if (slot.twoPhase)
    what = 'was made with two_phase: it shows transactions before it is known whether they commit';
  return new MillraceError('pg_slot_changed', {
    detail: `Slot "${slot.name}" ${what}.`,
    hint: `Use another slot name, or drop it: SELECT pg_drop_replication_slot(${quoteLiteral(slot.name)});`,
  });
}

function copied(slot: SlotInfo): MillraceError {
  return new MillraceError('pg_slot_changed', {
    detail: `Slot "${slot.name}" is this standby's copy of a slot of its primary, which nobody can read before a promotion.`,
    hint: 'Give the database another slot.name to capture from the standby, or point it to the primary.',
  });
}

const SERVER_CHANGED =
  'The server was replaced, restored or failed over, and may lack changes that were captured, or have others. ' +
  'Point the configuration back to the former server, or start with an empty data directory and initial_backfill: true. ' +
  'To have the difference found and sent on instead, set slot.on_loss: repair.';

function replaced(identity: SourceIdentity, server: ServerFacts): MillraceError {
  return new MillraceError('pg_system_changed', {
    detail: `Its system identifier is ${server.systemId}; the change log comes from ${identity.systemId}.`,
    hint: SERVER_CHANGED,
  });
}

function diverged(identity: SourceIdentity, server: ServerFacts, logEnd: Lsn, end: Lsn | null): MillraceError {
  const gap =
    end === null
      ? `and has no record of timeline ${identity.timeline}`
      : `which left timeline ${identity.timeline} at ${formatLsn(end)}. The log ends at ${formatLsn(logEnd)}: it holds changes ` +
        `from ${logEnd - end} bytes of WAL that this server never had`;
  return new MillraceError('pg_system_changed', {
    detail: `It is on timeline ${server.timeline}, ${gap}; the change log comes from timeline ${identity.timeline}.`,
    hint: SERVER_CHANGED,
  });
}

function rewound(server: ServerFacts, held: Lsn): MillraceError {
  return new MillraceError('pg_system_changed', {
    detail:
      `Its WAL ends at ${formatLsn(server.walEnd)}, ${held - server.walEnd} bytes before ${formatLsn(held)}, up to which changes were ` +
      'captured: it was restored to an earlier state.',
    hint: SERVER_CHANGED,
  });
}

function rewritten(slot: SlotInfo, confirmed: Lsn, logEnd: Lsn): MillraceError {
  return new MillraceError('pg_system_changed', {
    detail:
      `Slot "${slot.name}" stands at ${formatLsn(confirmed)} and does not have the last transaction that was captured, which ` +
      `ended at ${formatLsn(logEnd)}: the server was restored from a copy of its disk and then written to.`,
    hint: SERVER_CHANGED,
  });
}

function standbyBehind(server: ServerFacts, held: Lsn): MillraceError {
  return new MillraceError('pg_standby_behind', {
    detail: `It is at ${formatLsn(server.walEnd)}; everything up to ${formatLsn(held)} was captured.`,
    hint: 'It is waited for. Check that it is connected to its primary: SELECT status FROM pg_stat_wal_receiver;',
  });
}
