/**
 * The messages of a `sequin_stream` sink as server-sent events: read along, by any number of clients, each of which goes on
 * where it was with the `Last-Event-ID` that its client sends by itself. Nothing is acknowledged and nothing taken away.
 */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { MillraceError } from '@millrace/core/error';
import { formatPosition, type Position, parsePosition } from '@millrace/core/position';
import type { ChangeTail, TailMessage } from '@millrace/engine/change-tail';
import type { FastifyRequest } from 'fastify';
import { ManagementError } from './management-error.ts';
import { sequinStreamOf } from './pull-routes.ts';
import type { ManagementContext, ManagementRoutes } from './route.ts';

type EventsRequest = FastifyRequest<{
  Params: { idOrName: string };
  Querystring: { after?: string };
}>;

/** At once, of all sinks: each reads the log and holds a batch. */
const CLIENTS_MAX = 200;
const HEARTBEAT_MS = 15_000;

export const eventRoutes: ManagementRoutes = (api, context) => {
  let clients = 0;
  api.get('/sequin_streams/:idOrName/sse', async (request: EventsRequest, reply) => {
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
    await send(tail, reply.raw, gone.signal, context.log);
  });
};

async function openTail(
  { databases }: ManagementContext,
  { params }: EventsRequest,
  after: Position | 'now' | 'oldest',
  signal: AbortSignal,
): Promise<ChangeTail> {
  const name = sequinStreamOf(databases(), params.idOrName);
  const owner = databases().find(({ sinks }) => sinks.some((sink) => sink.name === name));
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
function placeOf({ headers, query }: EventsRequest): Position | 'now' | 'oldest' {
  const text = headers['last-event-id'] ?? query.after ?? 'now';
  if (text === 'now' || text === 'oldest') return text;
  const position = typeof text === 'string' ? parsePosition(text) : null;
  if (position === null)
    throw new ManagementError(400, 'after, or Last-Event-ID, is now, oldest, or the id of an event.');
  return position;
}

async function send(
  tail: ChangeTail,
  to: ServerResponse,
  signal: AbortSignal,
  log: (line: string) => void,
): Promise<void> {
  // Proxies end what is silent for long.
  const heartbeat = setInterval(() => to.write(':\n\n'), HEARTBEAT_MS);
  try {
    to.write(':\n\n');
    for await (const { messages, through } of tail) {
      // An id without data is no event, but the client goes on after it.
      const text = messages.map(eventOf).join('') || `id: ${formatPosition(through)}\n\n`;
      if (!to.write(text)) await Promise.race([once(to, 'drain', { signal }), once(to, 'close', { signal })]);
    }
  } catch (error) {
    if (signal.aborted) return;
    // The client comes again by itself, with the id of the last event.
    const code = error instanceof MillraceError ? error.code : 'internal';
    if (code === 'internal') log(`events: ${error instanceof Error ? error.name : 'unknown'}`);
    to.write(`event: error\ndata: ${JSON.stringify({ code })}\n\n`);
  } finally {
    clearInterval(heartbeat);
    to.end();
  }
}

/** A line break would end the data: JSON has none, and a text gets a `data:` for each of its lines. */
function eventOf({ position, last, body, json, error }: TailMessage): string {
  const id = last ? `id: ${formatPosition(position)}\n` : '';
  if (error !== null) return `event: error\n${id}data: ${JSON.stringify({ code: error.code })}\n\n`;
  const text = body.toString();
  const data = json && !text.includes('\n') ? text : text.split(/\r\n|\r|\n/).join('\ndata: ');
  return `${id}data: ${data}\n\n`;
}
