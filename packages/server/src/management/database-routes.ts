/** Databases: what is configured, how they are, and whether they can be reached. */
import { emptyBody } from '@millrace/api/request-body';
import { MillraceError } from '@millrace/core/error';
import { PgConnection } from '@millrace/postgres/connection';
import { readServerFacts } from '@millrace/postgres/source-facts';
import type { DatabaseSupervisor } from '../database-supervisor.ts';
import { sourceOf } from '../source-of.ts';
import { healthView, lagView } from './health-view.ts';
import { bodyOf, found, type ManagementRoutes } from './route.ts';

const TEST_TIMEOUT_MS = 10_000;

interface Named {
  readonly Params: { readonly idOrName: string };
}

export const databaseRoutes: ManagementRoutes = (api, { databases }) => {
  api.get('/postgres_databases', async () => ({ data: databases().map(databaseView) }));
  api.get<Named>('/postgres_databases/:idOrName', async ({ params }) =>
    databaseView(found(databases(), params.idOrName)),
  );
  api.post<Named>('/postgres_databases/:idOrName/test_connection', async (request) => {
    bodyOf(request, emptyBody);
    return await testConnection(found(databases(), request.params.idOrName));
  });
  // Tables are read again every minute; this is for who does not want to wait.
  api.post<Named>('/postgres_databases/:idOrName/refresh_tables', async (request) => {
    bodyOf(request, emptyBody);
    await found(databases(), request.params.idOrName).monitor.refresh();
    return { success: true };
  });
};

/** As in Sequin's API; the password never leaves. */
function databaseView({ id, name, config, monitor, state }: DatabaseSupervisor) {
  const report = monitor.report();
  return {
    id,
    name,
    hostname: config.hostname,
    port: config.port,
    database: config.database,
    username: config.username,
    password: '(redacted)',
    ssl: config.ssl !== 'disable',
    pool_size: config.poolSize,
    annotations: config.annotations,
    replication_slots: [
      { slot_name: config.slot.name, publication_name: config.publication.name, status: 'active' as const },
    ],
    state: state.kind === 'running' ? report.state : state.kind,
    lag: lagView(report.lag),
    health: healthView(report.health),
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
