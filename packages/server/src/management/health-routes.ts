/** For whoever restarts and routes: `/health` is liveness and says nothing of what flows, `/ready` says only that. */

import { readiness } from './readiness.ts';
import type { ManagementRoutes } from './route.ts';

export const healthRoutes: ManagementRoutes = (api, { store, databases, isConfigured }) => {
  // A process that took a signal, or whose disk failed, is on its way out.
  api.get('/health', async (_request, reply) =>
    store.refusal === null ? { ok: true } : reply.status(500).send({ ok: false, error: 'The store takes no writes.' }),
  );
  api.get('/ready', async (_request, reply) => {
    const answer = readiness(databases(), isConfigured(), store.refusal === null);
    return reply.status(answer.ready ? 200 : 503).send(answer);
  });
};
