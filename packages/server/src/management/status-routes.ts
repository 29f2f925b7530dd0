/** Everything `millrace status` shows, in one answer. */
import { formatLsn } from '@millrace/core/lsn';
import { formatPosition } from '@millrace/core/position';
import { healthView, lagView } from './health-view.ts';
import { readiness } from './readiness.ts';
import type { ManagementContext, ManagementRoutes } from './route.ts';

export const statusRoutes: ManagementRoutes = (api, context) => {
  api.get('/status', async () => statusView(context));
};

export type StatusView = ReturnType<typeof statusView>;

export function statusView({ store, databases, isConfigured }: ManagementContext) {
  return {
    ...readiness(databases(), isConfigured(), store.refusal === null),
    databases: databases().map((database) => {
      const report = database.monitor.report();
      const { slot } = report;
      return {
        id: database.id,
        name: database.name,
        state: database.state.kind === 'running' ? report.state : database.state.kind,
        server_version: report.serverVersion,
        lag: lagView(report.lag),
        captured_lsn: report.capturedLsn === null ? null : formatLsn(report.capturedLsn),
        change_log_bytes: report.logBytes,
        slot: {
          name: database.config.slot.name,
          publication: database.config.publication.name,
          active: slot?.active ?? null,
          wal_status: slot?.walStatus ?? null,
          safe_wal_bytes: slot?.safeWalBytes ?? null,
          confirmed_flush_lsn: slot?.confirmedLsn == null ? null : formatLsn(slot.confirmedLsn),
          restart_lsn: slot?.restartLsn == null ? null : formatLsn(slot.restartLsn),
        },
        health: healthView(report.health, database.config),
        sinks: report.sinks.map((sink) => ({
          name: sink.name,
          state: sink.state,
          lag: lagView(sink.lag),
          position: sink.position === null ? null : formatPosition(sink.position),
          messages_delivered: sink.messages,
          backfills: sink.backfills.map(({ table, state, rowsProcessed, waiting }) => ({
            table: `${table.schema}.${table.name}`,
            state,
            rows_processed_count: rowsProcessed,
            waiting,
          })),
          health: healthView(
            sink.health,
            database.sinks.find(({ name }) => name === sink.name),
          ),
        })),
      };
    }),
  };
}
