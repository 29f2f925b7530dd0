/** What an operator asks of a sink while it runs: pause, resume, disable, rewind; its messages that are not done. */

import type { SinkConfig } from '@millrace/api/config';
import { messagesQuery, rewindBody } from '@millrace/api/delivery-requests';
import { emptyBody } from '@millrace/api/request-body';
import { parseLsn } from '@millrace/core/lsn';
import { formatPosition } from '@millrace/core/position';
import type { Delivery, DeliveryControl } from '@millrace/engine/deliver/delivery';
import type { PendingView, PushControl } from '@millrace/engine/deliver/push-delivery';
import { stableId } from '../stable-id.ts';
import { ManagementError } from './management-error.ts';
import { bodyOf, found, type ManagementContext, type ManagementRoutes, queryOf } from './route.ts';

interface OfSink {
  readonly Params: { readonly sink: string };
  readonly Querystring: Record<string, unknown>;
}
interface OfMessage {
  readonly Params: { readonly sink: string; readonly id: string };
}

export const deliveryRoutes: ManagementRoutes = (api, context) => {
  api.get<OfSink>('/sinks/:sink/delivery', async ({ params }) => deliveryView(running(context, params.sink)));

  for (const verb of ['pause', 'resume'] as const) {
    api.post<OfSink>(`/sinks/:sink/${verb}`, async (request) => {
      bodyOf(request, emptyBody);
      const one = running(context, request.params.sink);
      refuseWhereConfigured(one.config);
      await one.control[verb]();
      return deliveryView(one);
    });
  }

  api.post<OfSink>('/sinks/:sink/disable', async (request) => {
    bodyOf(request, emptyBody);
    const one = running(context, request.params.sink);
    refuseWhereConfigured(one.config);
    await pushOf(one).disable();
    return deliveryView(one);
  });

  api.post<OfSink>('/sinks/:sink/rewind', async (request) => {
    const one = running(context, request.params.sink);
    const { lsn, time } = bodyOf(request, rewindBody);
    const place = lsn != null ? { lsn: parseLsn(lsn)! } : time != null ? { timeMs: Date.parse(time) } : 'beginning';
    const position = await pushOf(one).rewind(place);
    return { ...deliveryView(one), position: formatPosition(position) };
  });

  api.get<OfSink>('/sinks/:sink/messages', async (request) => {
    const { state, limit, show_keys: showKeys } = queryOf(request, messagesQuery);
    const push = pushOf(running(context, request.params.sink));
    return { data: push.list({ state, limit }).map((message) => messageView(message, showKeys)) };
  });

  for (const verb of ['skip', 'redeliver'] as const) {
    api.post<OfMessage>(`/sinks/:sink/messages/:id/${verb}`, async (request) => {
      bodyOf(request, emptyBody);
      const push = pushOf(running(context, request.params.sink));
      const { id } = request.params;
      const result = push[verb](id);
      if (result === 'unknown') throw new ManagementError(404, 'Not found: No such message is pending.');
      if (result === 'busy') {
        const text =
          verb === 'skip' ? 'The message is being sent at this moment.' : 'The message does not wait for a retry.';
        throw new ManagementError(409, text);
      }
      return { success: true, id };
    });
  }
};

interface RunningSink {
  readonly config: SinkConfig;
  readonly delivery: Delivery;
  readonly control: DeliveryControl;
}

/** Throws 404, or 503 while its database does not run. */
export function running(context: ManagementContext, idOrName: string): RunningSink {
  const { config, delivery } = configured(context, idOrName);
  if (config.status === 'disabled') throw disabledByConfiguration();
  const control = delivery?.control ?? null;
  if (delivery === null || control === null) {
    throw new ManagementError(503, 'The database of the sink is not running now; try again in a moment.');
  }
  return { config, delivery, control };
}

export function configured({ databases }: ManagementContext, idOrName: string) {
  const all = databases().flatMap((database) =>
    database.sinks.map((config) => ({
      id: stableId('sink', config.name),
      name: config.name,
      config,
      delivery: database.pipeline?.deliveries.find(({ name }) => name === config.name) ?? null,
    })),
  );
  return found('sink', all, idOrName);
}

export function pushOf({ control, config }: RunningSink): PushControl {
  if (control.push !== null) return control.push;
  const text =
    `A sink into a stream has its messages there, in order, once: this is not for one of type ${config.destination.type}. ` +
    'Where a message holds it up, mend the function that fails on it, or set max_retry_count: it is then a dead letter.';
  throw new ManagementError(422, text);
}

export function disabledByConfiguration(): ManagementError {
  const text = 'The sink is disabled by the configuration. Say status: active there, and apply it.';
  return new ManagementError(422, text);
}

function refuseWhereConfigured({ status }: SinkConfig): void {
  if (status === 'active') return;
  throw new ManagementError(409, `The configuration says status: ${status}; change it there.`);
}

export type DeliveryJson = ReturnType<typeof deliveryView>;

function deliveryView({ config, delivery, control }: RunningSink) {
  const { state } = delivery;
  const figures = control.push?.figures ?? null;
  return {
    sink: config.name,
    type: config.destination.type,
    state: state.kind,
    /** What an operator said; null: as the configuration has it. */
    operator: control.word,
    error: state.kind === 'retrying' ? errorView(state.error) : null,
    position: formatPosition(delivery.savedPosition),
    messages_delivered: delivery.delivered.messages,
    requests: delivery.delivered.batches,
    ...(figures !== null && {
      messages_pending: figures.pending,
      messages_in_flight: figures.inFlight,
      pending_bytes: figures.pendingBytes,
      oldest_pending_ms: figures.oldestPendingMs === null ? null : Math.round(figures.oldestPendingMs),
      blocked_groups: figures.blockedGroups,
      blocked_by: figures.blockedBy === null ? null : errorView(figures.blockedBy),
      failed_tries: figures.failed,
      retried: figures.retried,
      messages_dead_lettered: figures.deadLettered,
      messages_discarded: figures.discarded,
      messages_skipped: figures.skipped,
      messages_truncated: figures.truncated,
    }),
  };
}

export type MessageJson = ReturnType<typeof messageView>;

/** Keys and groups are row values: only for who asks (I11). */
function messageView(message: PendingView, showKeys: boolean) {
  const { id, position, state, action, table, keys, group, tries, error } = message;
  return {
    id,
    position: formatPosition(position),
    state,
    action,
    table,
    ...(showKeys && { keys, group }),
    tries,
    error: error === null ? null : errorView(error),
    first_failed_at: iso(message.firstFailedAt),
    last_failed_at: iso(message.lastFailedAt),
    next_try_ms: message.nextTryMs === null ? null : Math.round(message.nextTryMs),
    age_ms: Math.round(message.ageMs),
    bytes: message.bytes,
  };
}

function errorView({ code, message, hint }: { code: string; message: string; hint?: string | undefined }) {
  return { code, summary: message, hint: hint ?? null };
}

function iso(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}
