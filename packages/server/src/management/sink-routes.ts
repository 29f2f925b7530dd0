/** Sinks: what is configured and how they are. */
import { isS2, type SinkConfig } from '@millrace/api/config';
import type { DatabaseSupervisor } from '../database-supervisor.ts';
import { stableId } from '../stable-id.ts';
import { healthView, lagView } from './health-view.ts';
import { found, type ManagementContext, type ManagementRoutes } from './route.ts';

export const sinkRoutes: ManagementRoutes = (api, context) => {
  api.get('/sinks', async () => ({ data: sinkViews(context) }));
  api.get<{ Params: { idOrName: string } }>('/sinks/:idOrName', async ({ params }) =>
    found(sinkViews(context), params.idOrName),
  );
};

function sinkViews({ databases }: ManagementContext) {
  return databases().flatMap((database) => {
    const { sinks } = database.monitor.report();
    return database.sinks.flatMap((config) => {
      const report = sinks.find(({ name }) => name === config.name);
      return report === undefined ? [] : [sinkView(config, database, report)];
    });
  });
}

type SinkReport = ReturnType<DatabaseSupervisor['monitor']['report']>['sinks'][number];

/** As in Sequin's API; the access token never leaves. */
function sinkView(config: SinkConfig, database: DatabaseSupervisor, report: SinkReport) {
  return {
    id: stableId('sink', config.name),
    name: config.name,
    database: database.name,
    status: config.status,
    actions: config.actions,
    annotations: config.annotations,
    destination: destinationView(config.destination),
    state: report.state,
    lag: lagView(report.lag),
    messages_delivered: report.messages,
    health: healthView(report.health),
  };
}

function destinationView(destination: SinkConfig['destination']) {
  if (!isS2(destination)) return { type: destination.type };
  const { type, basin, stream, endpoint, accessToken } = destination;
  return {
    type,
    basin,
    stream,
    ...(endpoint !== undefined && { endpoint }),
    ...(accessToken !== undefined && { access_token: '(redacted)' }),
  };
}
