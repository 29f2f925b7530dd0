/**
 * The management API: a Fastify application beside the S2 API on the same port, HTTP/1.1 and HTTP/2 alike.
 *
 * `/health`, `/ready` and `/api/health` are open to everybody who reaches the port. All else below `/api` takes a token
 * that may do everything (the root token, or an access token with that scope); what workers of pull sinks need takes a
 * consume token as well: see management-access.ts.
 *
 * To add routes:
 * 1. Write `management/<what>-routes.ts` with one function of the type ManagementRoutes (route.ts). Paths are below `/api`:
 *
 *      export const widgetRoutes: ManagementRoutes = (api, { databases }) => {
 *        api.get('/widgets', async () => ({ data: [...] }));
 *        api.post('/widgets/:id', async (request) => {
 *          const { size } = bodyOf(request, widgetBody);     // 422 with validation_errors by itself
 *          ...
 *          throw new ManagementError(404, 'There is no such widget.');
 *        });
 *      };
 *
 *    What it returns is the body, as JSON. It may throw a ManagementError or any MillraceError; see management-error.ts.
 *    Names and ids both find a thing: `found('database', databases(), idOrName)`.
 * 2. Put its zod schema into packages/api (`@millrace/api/<what>-requests`), where console and CLI can use it.
 * 3. Add it to ROUTES below, and to the table in docs/management-api.md: a test holds the two together.
 */
import { unforeseen } from '@millrace/core/unforeseen';
import { Authenticator, type AuthMode } from '@millrace/stream-store/http/access';
import type { SecondSurface } from '@millrace/stream-store/http/server';
import Fastify, { type FastifyInstance } from 'fastify';
import { backfillRoutes } from './backfill-routes.ts';
import { configRoutes } from './config-routes.ts';
import { consumeTokenRoutes } from './consume-token-routes.ts';
import { databaseRoutes } from './database-routes.ts';
import { deadLetterRoutes } from './dead-letter-routes.ts';
import { deliveryRoutes } from './delivery-routes.ts';
import { endpointRoutes } from './endpoint-routes.ts';
import { eventRoutes } from './event-routes.ts';
import { functionRoutes } from './function-routes.ts';
import { healthRoutes } from './health-routes.ts';
import { ManagementAccess } from './management-access.ts';
import { answerOf, ManagementError } from './management-error.ts';
import { pullRoutes } from './pull-routes.ts';
import type { ManagementContext, ManagementRoutes } from './route.ts';
import { sinkRoutes } from './sink-routes.ts';
import { statusRoutes } from './status-routes.ts';
import { verificationRoutes } from './verification-routes.ts';

const ROUTES: readonly ManagementRoutes[] = [
  statusRoutes,
  databaseRoutes,
  sinkRoutes,
  deliveryRoutes,
  deadLetterRoutes,
  backfillRoutes,
  verificationRoutes,
  pullRoutes,
  eventRoutes,
  consumeTokenRoutes,
  configRoutes,
  endpointRoutes,
  functionRoutes,
];
/** Below `/` and `/api` both, and without a token. */
const OPEN_ROUTES: readonly ManagementRoutes[] = [healthRoutes];

export interface Management {
  readonly surface: SecondSurface;
  /** `GET /api/status` and so on. */
  readonly routes: readonly string[];
  close(): Promise<void>;
}

/** A body that is larger is refused unread. */
export const MANAGEMENT_BODY_BYTES_MAX = 4 * 1_048_576;

export async function createManagement(served: Omit<ManagementContext, 'access'>, auth: AuthMode): Promise<Management> {
  const access = new ManagementAccess(new Authenticator(served.store, auth), served.databases);
  const context: ManagementContext = { ...served, access };
  const app = Fastify({ logger: false, bodyLimit: MANAGEMENT_BODY_BYTES_MAX, return503OnClosing: false });
  takeEmptyJson(app);
  const routes: string[] = [];
  app.addHook('onRoute', ({ method, url }) => {
    for (const one of [method].flat()) if (one !== 'HEAD') routes.push(`${one} ${url}`);
  });
  app.setErrorHandler((error, request, reply) => {
    const answer = answerOf(error);
    if (answer === null) {
      // The text of a foreign error may quote what it was given.
      const { detail } = unforeseen(error);
      context.log(`${request.method} ${request.routeOptions.url ?? 'unknown'}: ${detail}`);
    }
    const { status, body } = answer ?? { status: 500, body: { summary: 'Internal error.' } };
    return reply.status(status).send(body);
  });
  app.setNotFoundHandler(notFound);
  for (const prefix of ['/', '/api']) {
    await app.register(
      async (api) => {
        for (const add of OPEN_ROUTES) add(api, context);
      },
      { prefix },
    );
  }
  await app.register(
    async (api) => {
      api.addHook('onRequest', async (request) => void access.require(request));
      api.setNotFoundHandler(notFound);
      for (const add of ROUTES) add(api, context);
    },
    { prefix: '/api' },
  );
  await app.ready();
  return {
    routes: routes.sort(),
    surface: {
      owns: (path) => path === '/health' || path === '/ready' || path === '/api' || path.startsWith('/api/'),
      // Fastify takes Node's requests of both protocols; its types name one.
      handle: (request, response) => app.routing(request as never, response as never),
    },
    close: async () => await app.close(),
  };
}

/** Clients of Sequin's API say `application/json` of every request, also where there is no body. */
function takeEmptyJson(app: FastifyInstance): void {
  const parse = app.getDefaultJsonParser('error', 'error');
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body: string, done) => {
    if (body === '') done(null, undefined);
    else parse(request, body, done);
  });
}

async function notFound(): Promise<never> {
  throw new ManagementError(404, 'Not found: No such path, or not with this method.');
}
