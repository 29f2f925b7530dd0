/**
 * What /metrics says of databases, sinks and their health. Labels are names of the configuration, which are the
 * operator's own; no table and no value is ever one (I11). Every name is in docs/operating.md, and stays.
 */

import type { CheckStatus, EntityHealth } from '@millrace/engine/health/finding';
import type { DatabaseReport } from '@millrace/engine/health/health-monitor';
import type { FunctionMeters } from '@millrace/engine/transform/function-meter';
import type { AuditStatus } from '@millrace/engine/verifier';
import type { DatabaseSupervisor } from './database-supervisor.ts';
import { functionMetrics } from './function-metrics.ts';
import { ignoresHealth } from './ignored-health.ts';
import { expose, type Metric } from './metric-text.ts';

/** Sequin's `sequin_entity_health` in numbers one can alert on. */
const LEVELS: Readonly<Record<CheckStatus, number>> = {
  healthy: 0,
  notice: 0,
  paused: 0,
  waiting: 0,
  initializing: 1,
  warning: 1,
  stale: 2,
  error: 2,
};

export function engineMetrics(databases: readonly DatabaseSupervisor[], functions: FunctionMeters): string {
  const all = databases.map(({ name, config, sinks, monitor, pipeline }) => ({
    name,
    ignored: ignoresHealth(config),
    ignoredSinks: new Set(sinks.filter(ignoresHealth).map((sink) => sink.name)),
    report: monitor.report(),
    audit: pipeline?.auditor?.status ?? null,
  }));
  return [...metricsOf(all), ...functionMetrics(functions.read())].map(expose).join('');
}

interface Measured {
  readonly name: string;
  readonly ignored: boolean;
  readonly ignoredSinks: ReadonlySet<string>;
  readonly report: DatabaseReport;
  readonly audit: AuditStatus | null;
}

function metricsOf(all: readonly Measured[]): Metric[] {
  const byAudit = (value: (status: AuditStatus) => number | null) =>
    all.map(({ name, audit }) => [{ database: name }, audit === null ? null : value(audit)] as const);
  const bySource = (value: (report: DatabaseReport) => number | null) =>
    all.map(({ name, report }) => [{ database: name }, value(report)] as const);
  const bySink = (value: (sink: DatabaseReport['sinks'][number]) => number | null) =>
    all.flatMap(({ name, report }) =>
      report.sinks.map((sink) => [{ database: name, sink: sink.name }, value(sink)] as const),
    );
  type Push = NonNullable<DatabaseReport['sinks'][number]['push']>;
  const byPush = (value: (push: Push) => number | null) => bySink(({ push }) => (push === null ? null : value(push)));
  const counter = (name: string, help: string, samples: Metric['samples']): Metric => ({
    name,
    type: 'counter',
    help,
    samples,
  });
  const gauge = (name: string, help: string, samples: Metric['samples']): Metric => ({
    name,
    type: 'gauge',
    help,
    samples,
  });
  return [
    gauge(
      'millrace_source_streaming',
      '1 while changes come from the slot.',
      bySource((r) => Number(r.state === 'streaming')),
    ),
    gauge(
      'millrace_source_lag_bytes',
      'WAL that is not captured yet.',
      bySource((r) => Number(r.lag.bytes)),
    ),
    gauge(
      'millrace_source_lag_seconds',
      'For how long the server has been beyond what is captured.',
      bySource((r) => r.lag.seconds),
    ),
    gauge(
      'millrace_source_change_log_bytes',
      'Bytes that the change log holds.',
      bySource((r) => r.logBytes),
    ),
    gauge(
      'millrace_source_slot_safe_wal_bytes',
      'WAL that may still be written before the slot is lost; missing when that has no bound.',
      bySource((r) => r.slot?.safeWalBytes ?? null),
    ),
    {
      name: 'millrace_source_audit_rows_total',
      type: 'counter',
      help: 'Rows that the auditor compared with the source.',
      samples: byAudit(({ rowsCompared }) => rowsCompared),
    },
    gauge(
      'millrace_source_audit_drift_rows',
      'Rows that differed from the source when their table was compared last.',
      byAudit(({ drift }) => drift),
    ),
    gauge(
      'millrace_source_audit_last_pass_timestamp_seconds',
      'When the auditor last came to the end of all tables, as Unix time.',
      byAudit(({ lastFullPassAt }) => (lastFullPassAt === null ? null : lastFullPassAt / 1000)),
    ),
    gauge(
      'millrace_sink_lag_bytes',
      'WAL between what is captured and what is delivered.',
      bySink((s) => Number(s.lag.bytes)),
    ),
    gauge(
      'millrace_sink_lag_seconds',
      'Age of the oldest transaction that is captured and not delivered.',
      bySink((s) => s.lag.seconds),
    ),
    gauge(
      'millrace_sink_lag_transactions',
      'Transactions captured and not delivered.',
      bySink((s) => s.lag.transactions),
    ),
    {
      name: 'millrace_sink_messages_total',
      type: 'counter',
      help: 'Messages delivered since the pipeline started.',
      samples: bySink(({ messages }) => messages),
    },
    {
      name: 'millrace_sink_batches_total',
      type: 'counter',
      help: 'Batches delivered since the pipeline started.',
      samples: bySink(({ batches }) => batches),
    },
    counter(
      'millrace_sink_failed_tries_total',
      'Tries of single messages that failed.',
      byPush((push) => push.failed),
    ),
    counter(
      'millrace_sink_retries_total',
      'Tries of single messages that were not their first.',
      byPush((push) => push.retried),
    ),
    counter(
      'millrace_sink_dead_letters_total',
      'Messages that were given up.',
      byPush((push) => push.deadLettered),
    ),
    counter(
      'millrace_sink_discarded_total',
      'Messages that load_shedding_policy: discard_on_full took out.',
      byPush((push) => push.discarded),
    ),
    counter(
      'millrace_sink_skipped_total',
      'Messages that an operator skipped.',
      byPush((push) => push.skipped),
    ),
    counter(
      'millrace_sink_truncated_total',
      'Messages that oversize: truncate made smaller.',
      byPush((push) => push.truncated),
    ),
    counter(
      'millrace_sink_delivered_bytes_total',
      'Bytes of delivered messages, as their destination counts them.',
      byPush((push) => push.bytes),
    ),
    gauge(
      'millrace_sink_requests_in_flight',
      'Requests to the destination that are under way.',
      byPush((push) => push.inFlight),
    ),
    gauge(
      'millrace_sink_messages_pending',
      'Messages that were read and are not done.',
      byPush((push) => push.pending),
    ),
    gauge(
      'millrace_sink_pending_bytes',
      'Memory that they take, about.',
      byPush((push) => push.pendingBytes),
    ),
    gauge(
      'millrace_sink_oldest_pending_seconds',
      'For how long the oldest of them has been pending.',
      byPush((push) => (push.oldestPendingMs === null ? 0 : push.oldestPendingMs / 1000)),
    ),
    gauge(
      'millrace_sink_groups_blocked',
      'Message groups that wait for a message that failed.',
      byPush((push) => push.blockedGroups),
    ),
    gauge(
      'millrace_sink_retrying',
      '1 while the destination refuses or is away.',
      bySink((s) => Number(s.state === 'retrying')),
    ),
    gauge(
      'millrace_backfills',
      'Backfills by state.',
      all.flatMap(({ report }) => report.sinks.flatMap(backfillStates)),
    ),
    {
      name: 'millrace_backfill_rows_total',
      type: 'counter',
      help: 'Rows that backfills read.',
      samples: bySink(({ backfills }) => backfills.reduce((sum, { rowsProcessed }) => sum + rowsProcessed, 0)),
    },
    gauge('millrace_entity_health', '0 healthy, 1 warning or not known yet, 2 error.', [
      ...all
        .filter(({ ignored }) => !ignored)
        .map(({ name, report }) => entity('postgres_database', name, level(report.health))),
      ...all.flatMap(({ report, ignoredSinks }) =>
        report.sinks
          .filter(({ name }) => !ignoredSinks.has(name))
          .map(({ name, health }) => entity('sink', name, level(health))),
      ),
    ]),
    gauge(
      'millrace_health_findings',
      'Findings of health, by severity.',
      countFindings(all.map(({ report }) => report)),
    ),
  ];
}

function backfillStates({ name, backfills }: DatabaseReport['sinks'][number]): Metric['samples'][number][] {
  return (['active', 'paused', 'completed', 'cancelled', 'failed'] as const).map((state) => [
    { sink: name, state },
    backfills.filter((one) => one.state === state).length,
  ]);
}

function entity(type: string, name: string, value: number | null) {
  return [{ entity_type: type, entity_name: name }, value] as const;
}

function level({ status }: EntityHealth): number {
  return LEVELS[status];
}

function countFindings(reports: readonly DatabaseReport[]): Metric['samples'] {
  const counts = { notice: 0, warning: 0, error: 0 };
  for (const { health, sinks } of reports) {
    for (const { checks } of [health, ...sinks.map((sink) => sink.health)]) {
      for (const { findings } of checks) for (const { severity } of findings) counts[severity]++;
    }
  }
  return Object.entries(counts).map(([severity, count]) => [{ severity }, count] as const);
}
