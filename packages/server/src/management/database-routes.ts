/** Databases: what is configured, how they are, and whether they can be reached. */

import type { RawBlock } from '@millrace/api/applied/config-source';
import { REDACTED, shownBlock } from '@millrace/api/applied/secrets';
import { blockBody } from '@millrace/api/config-requests';
import { emptyBody } from '@millrace/api/request-body';
import { MillraceError } from '@millrace/core/error';
import { PgConnection } from '@millrace/postgres/connection';
import { readServerFacts } from '@millrace/postgres/source-facts';
import type { DatabaseSupervisor } from '../database-supervisor.ts';
import { sourceOf } from '../source-of.ts';
import { asksForSecrets } from './config-routes.ts';
import { healthView, lagView } from './health-view.ts';
import { ManagementError } from './management-error.ts';
import { createResource, deleteResource, updateResource } from './resource-edits.ts';
import { bodyOf, found, type ManagementRoutes } from './route.ts';

const TEST_TIMEOUT_MS = 10_000;

interface Named {
  readonly Params: { readonly idOrName: string };
  readonly Querystring: Record<string, string | undefined>;
}

export const databaseRoutes: ManagementRoutes = (api, { databases, config }) => {
  const view = (database: DatabaseSupervisor, query: Named['Querystring'] = {}) => {
    const block = config.block('databases', database.name);
    const given = block === null ? {} : shownBlock(config.applied.source, 'databases', block, asksForSecrets(query));
    return { ...given, ...databaseView(database, asksForSecrets(query)) };
  };
  const named = (name: string) => view(found('database', databases(), name));
  api.get<Named>('/postgres_databases', async ({ query }) => ({ data: databases().map((one) => view(one, query)) }));
  api.get<Named>('/postgres_databases/:idOrName', async ({ params, query }) =>
    view(found('database', databases(), params.idOrName), query),
  );
  api.post('/postgres_databases', async (request) =>
    named(await createResource(config, 'databases', asBlock(bodyOf(request, blockBody)))),
  );
  for (const method of ['put', 'patch'] as const) {
    api[method]<Named>('/postgres_databases/:idOrName', async (request) => {
      const { name } = found('database', databases(), request.params.idOrName);
      return named(await updateResource(config, 'databases', name, asBlock(bodyOf(request, blockBody))));
    });
  }
  api.delete<Named>('/postgres_databases/:idOrName', async ({ params }) => {
    const { id, name } = found('database', databases(), params.idOrName);
    await deleteResource(config, 'databases', name);
    return { success: true, id };
  });
  api.post<Named>('/postgres_databases/:idOrName/test_connection', async (request) => {
    bodyOf(request, emptyBody);
    return await testConnection(found('database', databases(), request.params.idOrName));
  });
  // Tables are read again every minute; this is for who does not want to wait.
  api.post<Named>('/postgres_databases/:idOrName/refresh_tables', async (request) => {
    bodyOf(request, emptyBody);
    await found('database', databases(), request.params.idOrName).monitor.refresh();
    return { success: true };
  });
};

/** Sequin's API has a list of slots where its file has a slot and a publication, and settings of a pool of its own. */
function asBlock({ replication_slots: slots, queue_interval: _, queue_target: __, ...block }: RawBlock): RawBlock {
  if (slots === undefined) return block;
  const [slot, ...more] = Array.isArray(slots) ? (slots as RawBlock[]) : [];
  if (slot === undefined || more.length > 0) {
    throw new ManagementError(422, 'Validation failed.', { replication_slots: ['must be exactly one'] });
  }
  return {
    ...block,
    ...(block.slot === undefined && { slot: { name: slot.slot_name } }),
    ...(block.publication === undefined && { publication: { name: slot.publication_name } }),
  };
}

/** As in Sequin's API; the password leaves only when it is asked for. */
function databaseView({ id, name, config, monitor, state }: DatabaseSupervisor, sensitive: boolean) {
  const report = monitor.report();
  return {
    id,
    name,
    hostname: config.hostname,
    port: config.port,
    database: config.database,
    username: config.username,
    password: sensitive ? config.password : REDACTED,
    ssl: config.ssl !== 'disable',
    pool_size: config.poolSize,
    annotations: config.annotations,
    replication_slots: [
      { slot_name: config.slot.name, publication_name: config.publication.name, status: 'active' as const },
    ],
    state: state.kind === 'running' ? report.state : state.kind,
    lag: lagView(report.lag),
    health: healthView(report.health, config),
  };
}

async function testConnection({ config }: DatabaseSupervisor) {
  try {
    const connection = await PgConnection.connect({
      ...sourceOf(config).connection,
      connectTimeoutMs: TEST_TIMEOUT_MS,
    });
    const timer = setTimeout(() => void connection.close(), TEST_TIMEOUT_MS);
    try {
      await readServerFacts(connection);
      return { success: true };
    } finally {
      clearTimeout(timer);
      await connection.close();
    }
  } catch (error) {
    if (!(error instanceof MillraceError)) throw error;
    const { code, message, hint } = error;
    return { success: false, reason: message, code, ...(hint !== undefined && { hint }) };
  }
}
