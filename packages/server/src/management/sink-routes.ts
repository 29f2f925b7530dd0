/** Sinks: what is configured and how they are. */

import { shownBlock } from '@millrace/api/applied/secrets';
import { isS2, type SinkConfig } from '@millrace/api/config';
import { blockBody } from '@millrace/api/config-requests';
import { emptyBody } from '@millrace/api/request-body';
import { MillraceError } from '@millrace/core/error';
import type { DatabaseSupervisor } from '../database-supervisor.ts';
import { stableId } from '../stable-id.ts';
import { testDestination } from '../test-destination.ts';
import { asksForSecrets } from './config-routes.ts';
import { healthView, lagView } from './health-view.ts';
import { createResource, deleteResource, updateResource } from './resource-edits.ts';
import { bodyOf, found, type ManagementContext, type ManagementRoutes } from './route.ts';

interface Named {
  readonly Params: { readonly idOrName: string };
  readonly Querystring: Record<string, string | undefined>;
}

export const sinkRoutes: ManagementRoutes = (api, context) => {
  const { config } = context;
  const views = (query: Named['Querystring'] = {}) => sinkViews(context, asksForSecrets(query));
  const named = (idOrName: string) => found('sink', views(), idOrName);
  api.get<Named>('/sinks', async ({ query }) => ({ data: views(query) }));
  api.get<Named>('/sinks/:idOrName', async ({ params, query }) => found('sink', views(query), params.idOrName));
  api.post('/sinks', async (request) => named(await createResource(config, 'sinks', bodyOf(request, blockBody))));
  for (const method of ['put', 'patch'] as const) {
    api[method]<Named>('/sinks/:idOrName', async (request) => {
      const { name } = named(request.params.idOrName);
      return named(await updateResource(config, 'sinks', name, bodyOf(request, blockBody)));
    });
  }
  api.delete<Named>('/sinks/:idOrName', async ({ params }) => {
    const { id, name } = named(params.idOrName);
    await deleteResource(config, 'sinks', name);
    return { id, deleted: true };
  });
  // Of a sink there is, and of one that somebody is about to make.
  api.post<Named>('/sinks/:idOrName/test_connection', async (request) => {
    bodyOf(request, emptyBody);
    const { name } = named(request.params.idOrName);
    return await tested(config.applied.config.sinks.find((sink) => sink.name === name)!, context);
  });
  api.post('/sinks/test_connection', async (request) => tested(config.draftSink(bodyOf(request, blockBody)), context));
};

async function tested(sink: SinkConfig, { store, sinkContext }: ManagementContext) {
  try {
    await testDestination(sink, store, sinkContext);
    return { success: true };
  } catch (error) {
    if (!(error instanceof MillraceError)) throw error;
    const { code, message, hint } = error;
    return { success: false, reason: message, code, ...(hint !== undefined && { hint }) };
  }
}

function sinkViews({ databases, config }: ManagementContext, sensitive: boolean) {
  return databases().flatMap((database) => {
    const { sinks } = database.monitor.report();
    return database.sinks.flatMap((sink) => {
      const report = sinks.find(({ name }) => name === sink.name);
      if (report === undefined) return [];
      const block = config.block('sinks', sink.name);
      const { source } = config.applied;
      const given = block === null ? {} : shownBlock(source, 'sinks', block, sensitive);
      return [{ ...sinkView(sink, database, report), ...given, id: stableId('sink', sink.name), name: sink.name }];
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
    health: healthView(report.health, config),
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
