/** The checks of a sink, from what is known of it at one moment. Pure. */
import type { MillraceError } from '@millrace/core/error';
import type { PublishedAction, PublishedTable } from '@millrace/postgres/source-facts';
import type { Lag } from './commit-history.ts';
import { type Check, type CheckStatus, check, type Finding } from './finding.ts';
import type { HealthTiming } from './health-timing.ts';
import { ofError, type TableProbe } from './source-checks.ts';
import { missingTableFindings, type TableId, toastFindings, unpublishedActionFindings } from './table-findings.ts';

/** What a delivery says of itself. */
export type DeliveryView =
  | { readonly kind: 'starting' }
  | { readonly kind: 'running'; readonly caughtUp: boolean }
  | { readonly kind: 'retrying'; readonly attempt: number; readonly error: MillraceError }
  | { readonly kind: 'paused' }
  | { readonly kind: 'disabled' }
  | { readonly kind: 'stopped' };

export interface SinkEvidence {
  readonly nowMs: number;
  readonly name: string;
  readonly disabled: boolean;
  /** null: there is no pipeline, so nothing is delivered. */
  readonly delivery: DeliveryView | null;
  /** Since this process started. */
  readonly messages: number;
  /** It has delivered something at some time. */
  readonly everDelivered: boolean;
  /** What it fails for, and for how long nothing has moved since it did; null: it does not, or something has. */
  readonly trouble: { readonly error: MillraceError; readonly forMs: number } | null;
  /** For how long it has not moved although there is something to do. */
  readonly stillMs: number | null;
  readonly lag: Lag;
  /** Tables that it names one by one. */
  readonly named: readonly TableId[];
  readonly takes: (schema: string, table: string) => boolean;
  readonly actions: readonly PublishedAction[];
  readonly fillsUnchanged: boolean;
  readonly tables: TableProbe | null;
  /** Of a destination that takes messages one by one; absent: it is a stream. */
  readonly push?: PushLook | undefined;
  readonly notices: readonly Finding[];
}

/** What is looked at of a delivery to a destination that takes messages one by one. */
export interface PushLook {
  readonly pending: number;
  readonly blockedGroups: number;
  readonly blockedBy: MillraceError | null;
  readonly oldestPendingMs: number | null;
}

export function sinkChecks(evidence: SinkEvidence, timing: HealthTiming): Check[] {
  const { messages, everDelivered, delivery, notices } = evidence;
  const seen: CheckStatus = messages > 0 || everDelivered ? 'healthy' : 'waiting';
  return [
    configuration(evidence, timing),
    check('messages_filtered', 'Messages filtered', [], seen),
    check('messages_ingested', 'Messages ingested', [], seen),
    pending(evidence, timing),
    delivered(evidence, timing, delivery?.kind === 'paused' || delivery?.kind === 'disabled' ? 'paused' : seen),
    ...(notices.length > 0 ? [check('notices', 'Notices', notices)] : []),
  ];
}

function configuration(evidence: SinkEvidence, timing: HealthTiming): Check {
  const { tables, named, takes, actions, fillsUnchanged, nowMs } = evidence;
  const name = 'Sink configuration';
  if (tables === null) return check('sink_configuration', name, [], 'initializing');
  const findings: Finding[] = [];
  if (tables.publication !== null) {
    findings.push(...missingTableFindings(tables.publication, named, tables.tables));
    findings.push(...unpublishedActionFindings(tables.publication, actions, tables.tables));
  }
  findings.push(...toastFindings(tables.tables.filter(isTaken(takes)), fillsUnchanged));
  const stale = nowMs - tables.atMs > timing.tablesStaleMs;
  return check('sink_configuration', name, findings, stale ? 'stale' : 'healthy');
}

function pending({ name, stillMs, lag, push }: SinkEvidence, timing: HealthTiming): Check {
  const findings: Finding[] = [];
  if (push != null && push.blockedGroups > 0 && push.blockedBy !== null) {
    const { blockedGroups, blockedBy } = push;
    findings.push({
      slug: 'groups_blocked',
      severity: 'warning',
      text: `${blockedGroups} groups wait for a message that failed; the first for this: ${blockedBy.logText}`,
      fix: `millrace sink messages "${name}" --failing`,
      code: blockedBy.code,
    });
  }
  if (stillMs !== null && stillMs > timing.sinkStallMs) {
    findings.push({
      slug: 'messages_pending_delivery',
      severity: 'error',
      text: `There are ${lag.bytes / 1024n} KiB of changes to go through, and the sink has not moved for ${Math.round(stillMs / 1000)} s.`,
      fix: 'See that the destination answers: a write that neither succeeds nor fails holds up those behind it.',
    });
  }
  return check('messages_pending_delivery', 'Messages pending delivery', findings);
}

function delivered({ delivery, trouble }: SinkEvidence, timing: HealthTiming, seen: CheckStatus): Check {
  const name = 'Messages delivered';
  const slug = 'messages_delivered';
  if (delivery === null || (delivery.kind === 'starting' && trouble === null))
    return check(slug, name, [], 'initializing');
  const error = delivery.kind === 'retrying' ? delivery.error : trouble?.error;
  if (error === undefined) return check(slug, name, [], seen);
  if (error.code === 'log_overrun') return check(slug, name, [ofError('sink_overrun', error)]);
  // A destination that restarts is no news; one that refuses, or stays away, is.
  const lasts = error.retry === 'operator' || error.retry === 'never' || (trouble?.forMs ?? 0) > timing.sinkRetryMs;
  return check(slug, name, [ofError(slug, error, lasts ? 'error' : 'warning')]);
}

function isTaken(takes: SinkEvidence['takes']): (table: PublishedTable) => boolean {
  return ({ schema, name, rootSchema, rootName }) => takes(schema, name) || takes(rootSchema, rootName);
}
