/**
 * The messages of a `sequin_stream` sink as server-sent events: read along, by any number of clients, each of which goes on
 * where it was with the `Last-Event-ID` that its client sends by itself. Nothing is acknowledged and nothing taken away.
 */
import { MillraceError } from '@millrace/core/error';
import type { ChangeTail } from '@millrace/engine/change-tail';
import type { FastifyRequest } from 'fastify';
import { type EventPlace, parseEventId } from './event-id.ts';
import { sendEvents } from './event-stream.ts';
import { FOR_CONSUMERS } from './management-access.ts';
import { ManagementError } from './management-error.ts';
import { requirePullSink } from './pull-sink-named.ts';
import type { ManagementContext, ManagementRoutes } from './route.ts';

type EventsRequest = FastifyRequest<{
  Params: { idOrName: string };
  Querystring: { after?: string };
}>;

/** At once, of all sinks: each reads the log and holds a batch. */
const CLIENTS_MAX = 200;

export const eventRoutes: ManagementRoutes = (api, context) => {
  let clients = 0;
  api.get('/sequin_streams/:idOrName/sse', FOR_CONSUMERS, async (request: EventsRequest, reply) => {
    const after = placeOf(request);
    if (clients >= CLIENTS_MAX) {
      void reply.header('retry-after', '5');
      throw new ManagementError(429, `${CLIENTS_MAX} clients read events already.`);
    }
    clients++;
    const gone = new AbortController();
    reply.raw.once('close', () => {
      clients--;
      gone.abort();
    });
    const tail = await openTail(context, request, after, gone.signal);
    reply.hijack();
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    await sendEvents({
      tail,
      from: typeof after === 'string' ? null : after,
      to: reply.raw,
      gone,
      mayRead: () => void context.access.require(request),
      log: context.log,
    });
  });
};

async function openTail(
  context: ManagementContext,
  { params }: EventsRequest,
  from: EventPlace | 'now' | 'oldest',
  signal: AbortSignal,
): Promise<ChangeTail> {
  const name = requirePullSink(context, params.idOrName);
  const owner = context.databases().find(({ sinks }) => sinks.some((sink) => sink.name === name));
  const after = typeof from === 'string' ? from : from.after;
  const opening = owner?.pipeline?.tail(name, after, signal) ?? null;
  if (opening === null)
    throw new ManagementError(503, 'This sink is not running now: it is disabled, or its database is away.');
  return await opening.catch((error: unknown) => {
    if (error instanceof MillraceError && error.code === 'log_overrun') {
      throw new ManagementError(
        410,
        'The change log no longer has what follows. Begin anew, with after=oldest or after=now.',
      );
    }
    throw error;
  });
}

/** Where a client goes on. A client that lost its connection says it by itself; else it is the query, or from now on. */
function placeOf({ headers, query }: EventsRequest): EventPlace | 'now' | 'oldest' {
  const text = headers['last-event-id'] ?? query.after ?? 'now';
  if (text === 'now' || text === 'oldest') return text;
  const place = typeof text === 'string' ? parseEventId(text) : null;
  if (place === null) throw new ManagementError(400, 'after, or Last-Event-ID, is now, oldest, or the id of an event.');
  return place;
}
