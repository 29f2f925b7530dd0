/** What workers of a `sequin_stream` sink ask for: receive, ack, nack, extend. Paths and bodies are Sequin's. */
import { ackBody, extendBody, nackBody, receiveBody } from '@millrace/api/pull-requests';
import { readBody } from '@millrace/api/request-body';
import type { Lease, PullSink } from '@millrace/sinks/pull/pull-sink';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { FOR_CONSUMERS } from './management-access.ts';
import { ManagementError } from './management-error.ts';
import { requirePullSink } from './pull-sink-named.ts';
import { bodyOf, type ManagementContext, type ManagementRoutes } from './route.ts';

type PullRequest = FastifyRequest<{ Params: { idOrName: string } }>;

/** The second one is what Sequin called it before. */
const PREFIXES = ['/sequin_streams', '/http_pull_consumers'];

export const pullRoutes: ManagementRoutes = (api, context) => {
  for (const prefix of PREFIXES) {
    const path = `${prefix}/:idOrName`;
    api.get(`${path}/receive`, FOR_CONSUMERS, (request: PullRequest, reply) => {
      const asked = readBody(receiveBody, request.query);
      if (!asked.ok) throw new ManagementError(422, 'Validation failed.', asked.errors);
      return receive(context, request, reply, asked.value);
    });
    api.post(`${path}/receive`, FOR_CONSUMERS, (request: PullRequest, reply) =>
      receive(context, request, reply, bodyOf(request, receiveBody)),
    );
    api.post(`${path}/ack`, FOR_CONSUMERS, async (request: PullRequest, reply) => {
      const { ack_ids } = bodyOf(request, ackBody);
      return answerOf(await pullSinkOf(context, request, reply).ack(ack_ids));
    });
    api.post(`${path}/nack`, FOR_CONSUMERS, async (request: PullRequest, reply) => {
      const { ack_ids, delay_ms } = bodyOf(request, nackBody);
      return answerOf(pullSinkOf(context, request, reply).nack(ack_ids, delay_ms ?? 0));
    });
    api.post(`${path}/extend`, FOR_CONSUMERS, async (request: PullRequest, reply) => {
      const { ack_ids, ms } = bodyOf(request, extendBody);
      return answerOf(pullSinkOf(context, request, reply).extend(ack_ids, ms ?? null));
    });
  }
};

/** Sequin's answer where all went well. Others hold the rest by now: their time was over. */
function answerOf(notFound: readonly string[]) {
  return notFound.length === 0 ? { success: true } : { success: false, not_found: notFound };
}

function pullSinkOf(context: ManagementContext, { params }: PullRequest, reply: FastifyReply): PullSink {
  const sink = context.pullSinks.get(requirePullSink(context, params.idOrName));
  if (sink !== undefined) return sink;
  void reply.header('retry-after', '1');
  throw new ManagementError(503, 'This sink is not running now: it is paused or disabled, or its database is away.');
}

async function receive(
  context: ManagementContext,
  request: PullRequest,
  reply: FastifyReply,
  { messagesMax, waitMs }: { readonly messagesMax: number; readonly waitMs: number },
) {
  const sink = pullSinkOf(context, request, reply);
  const gone = new AbortController();
  const onClose = () => gone.abort();
  // A worker that went away while it waited, or before it had all of the answer, has nothing of it.
  reply.raw.once('close', onClose);
  const leases = await sink.receive({ messagesMax, waitMs, signal: gone.signal });
  reply.raw.off('close', onClose);
  if (leases === 'busy') {
    void reply.header('retry-after', '1');
    throw new ManagementError(429, 'As many workers wait at this sink as may (max_waiting).');
  }
  if (leases.length > 0) {
    const release = () => sink.release(leases);
    try {
      if (waitMs > 0) context.access.require(request);
    } catch (error) {
      release();
      throw error;
    }
    if (gone.signal.aborted) release();
    else reply.raw.once('close', release).once('finish', () => reply.raw.off('close', release));
  }
  return await reply.header('content-type', 'application/json; charset=utf-8').send(bodyOfLeases(leases));
}

const OPEN = Buffer.from('{"data":[');
const CLOSE = Buffer.from(']}');

/** The messages as they are, copied once. */
function bodyOfLeases(leases: readonly Lease[]): Buffer {
  const parts: Buffer[] = [OPEN];
  for (const [index, { ackId, deliverCount, message }] of leases.entries()) {
    const data = message.json ? message.body : Buffer.from(JSON.stringify(message.body.toString()));
    const head = `${index === 0 ? '' : ','}{"ack_id":"${ackId}","deliver_count":${deliverCount},"data":`;
    parts.push(Buffer.from(head), data, BRACE);
  }
  parts.push(CLOSE);
  return Buffer.concat(parts);
}

const BRACE = Buffer.from('}');
