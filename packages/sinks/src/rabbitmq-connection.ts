/**
 * The connection of a RabbitMQ sink: opened when first needed and again after it was lost, with a channel in confirm
 * mode for each exchange, because what is wrong with one exchange closes the channel.
 *
 * A request that took too long does not end the connection: what the broker has not read yet it will still read, so a
 * second try over the same connection comes after the first, and over another it might not.
 */
import type { TcpSocketConnectOpts } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { MillraceError } from '@millrace/core/error';
import type { Channel, Connection } from 'rabbitmq-client';
import { networkGuard } from './http/network-guard.ts';
import { settleWithin } from './settle-within.ts';
import type { SinkContext } from './sink-kind.ts';

/** Of the destination block. */
export interface RabbitmqTarget {
  readonly host: string;
  readonly port: number;
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  readonly virtual_host: string;
  readonly tls: boolean;
  readonly ca?: string | undefined;
}

export interface RabbitmqProperties {
  readonly routingKey: string;
  readonly messageId: string;
  readonly headers: Readonly<Record<string, string | number | boolean>>;
  readonly contentType: string;
  readonly durable: boolean;
  readonly mandatory: boolean;
}

/** null: confirmed. */
export type Publish = (properties: RabbitmqProperties, body: Buffer) => Promise<MillraceError | null>;

export interface RabbitmqLink {
  /**
   * `work` publishes up to `count` messages to the exchange. Rejects with a MillraceError when there is no connection or
   * no such exchange, or when either ends meanwhile.
   */
  use(exchange: string, count: number, signal: AbortSignal, work: (publish: Publish) => Promise<void>): Promise<void>;
  close(): Promise<void>;
}

interface Session {
  readonly connection: Connection;
  /** Rejects when the connection has ended. */
  readonly ended: Promise<never>;
  readonly end: (error: unknown) => void;
  /** By exchange, the one used longest ago first. */
  readonly lanes: Map<string, Promise<Lane>>;
  /** What the broker says it is short of; null: it takes messages. */
  blocked: string | null;
  /** Messages that nobody waits for any more and that are not known to be confirmed. */
  abandoned: number;
}

interface Lane {
  readonly channel: Channel;
  /** How often the broker has sent back a message with this key, and nobody was told yet. */
  readonly returned: Map<string, number>;
  /** Rejects when the channel has ended. */
  readonly ended: Promise<never>;
  requests: number;
}

/** The broker says something at least every half of it. After two of them without a word the connection is dead. */
const HEARTBEAT_S = 20;
/** Channels of a connection: routing functions can name exchanges without end, and the protocol knows 2047 at most. */
const LANES_MAX = 256;
/** Then the connection is given up after all: each of them is memory here and in the broker. */
const ABANDONED_MAX = 10_000;
/** When the sink is closed, so long the broker may take to say goodbye. */
const CLOSE_MS = 1_000;

export function rabbitmqConnection(config: RabbitmqTarget, context: SinkContext): RabbitmqLink {
  let opening: Promise<Session> | null = null;
  let latest: Session | null = null;
  const ending = new AbortController();

  function session(): Promise<Session> {
    if (ending.signal.aborted) {
      return Promise.reject(new MillraceError('sink_unavailable', { detail: 'The sink was closed.' }));
    }
    if (opening === null) {
      const started = open(config, context).then((opened) => {
        latest = opened;
        return ready(opened, config);
      });
      opening = started;
      const forget = () => {
        if (opening === started) opening = null;
      };
      started.then(({ ended }) => ended.catch(forget), forget);
    }
    return opening;
  }

  return {
    async use(exchange, count, signal, work) {
      const either = AbortSignal.any([signal, ending.signal]);
      let opened: Session | null = null;
      let waiting = 0;
      let given = false;
      try {
        await settleWithin(context.timeoutMs, either, async () => {
          opened = await session();
          const active = opened;
          if (active.blocked !== null && count > 0) throw blocked(config, active.blocked);
          const lane = await Promise.race([active.ended, laneOf(active, exchange, config)]);
          lane.requests++;
          try {
            await Promise.race([
              active.ended,
              lane.ended,
              work(async (properties, body) => {
                waiting++;
                const error = await publish(lane, exchange, properties, body, config);
                if (given) active.abandoned--;
                else waiting--;
                return error;
              }),
            ]);
          } finally {
            lane.requests--;
          }
        });
      } catch (error) {
        const known = classify(error, config, exchange);
        const active = opened as Session | null;
        given = true;
        if (active !== null) {
          active.abandoned += waiting;
          if (active.abandoned > ABANDONED_MAX) active.end(known);
          if (active.blocked !== null) throw blocked(config, active.blocked);
        }
        throw known;
      }
    },

    async close() {
      ending.abort();
      opening = null;
      const last = latest;
      latest = null;
      if (last !== null) await goodbye(last);
    },
  };
}

/** Not connected yet: `ready` waits for that. */
async function open(config: RabbitmqTarget, context: SinkContext): Promise<Session> {
  const { Connection } = await import('rabbitmq-client');
  const guard = networkGuard({ policy: context.network });
  const refused = guard.refusal(config.host);
  if (refused !== null) throw refused;
  const { host, port, username = 'guest', password = 'guest', virtual_host, tls, ca } = config;
  const connection = new Connection({
    hostname: host,
    port,
    username,
    password,
    vhost: virtual_host,
    tls: tls ? { ...(ca === undefined ? {} : { ca }) } : false,
    noDelay: true,
    // Name and port are the client's business.
    socket: { lookup: guard.lookup } as TcpSocketConnectOpts,
    connectionName: `millrace ${context.name}`,
    connectionTimeout: context.timeoutMs,
    acquireTimeout: context.timeoutMs,
    heartbeat: HEARTBEAT_S,
  });
  const { promise: ended, reject } = Promise.withResolvers<never>();
  ended.catch(() => {});
  const session: Session = {
    connection,
    ended,
    // The client would connect again by itself; here the next request does.
    end(error) {
      reject(classify(error, config, null));
      connection.unsafeDestroy();
    },
    lanes: new Map(),
    blocked: null,
    abandoned: 0,
  };
  connection.on('error', session.end);
  connection.on('connection.blocked', (reason) => {
    session.blocked = reason;
  });
  connection.on('connection.unblocked', () => {
    session.blocked = null;
  });
  return session;
}

async function ready(session: Session, config: RabbitmqTarget): Promise<Session> {
  const first = laneOf(session, '', config);
  await Promise.race([session.ended, first]);
  return session;
}

/** The channel for an exchange; it is opened, and the exchange looked for, when it is first used. */
function laneOf(session: Session, exchange: string, config: RabbitmqTarget): Promise<Lane> {
  const { lanes } = session;
  const lane = lanes.get(exchange) ?? openLane(session, exchange, config);
  // Behind all others: it is the one used last.
  lanes.delete(exchange);
  lanes.set(exchange, lane);
  lane.catch(() => {
    if (lanes.get(exchange) === lane) lanes.delete(exchange);
  });
  return lane;
}

async function openLane(session: Session, exchange: string, config: RabbitmqTarget): Promise<Lane> {
  await makeRoom(session);
  const channel = await session.connection.acquire({ emitErrorsFromChannel: true });
  const { promise: ended, reject } = Promise.withResolvers<never>();
  ended.catch(() => {});
  const lane: Lane = { channel, returned: new Map(), ended, requests: 0 };
  channel.on('error', (error) => reject(classify(error, config, exchange)));
  channel.on('close', () => {
    session.lanes.delete(exchange);
    // After the reason, where there is one: requests that it is about are told first.
    setImmediate(() =>
      reject(new MillraceError('sink_unavailable', { detail: `${where(config)} closed the channel.` })),
    );
  });
  channel.on('basic.return', ({ routingKey, messageId }) => {
    const key = returnKey(routingKey, messageId ?? '');
    lane.returned.set(key, (lane.returned.get(key) ?? 0) + 1);
  });
  // The default exchange is always there, and may not be asked for.
  if (exchange !== '') await channel.exchangeDeclare({ exchange, passive: true });
  await channel.confirmSelect();
  return lane;
}

/** Closes the channel used longest ago that nobody is using. */
async function makeRoom({ lanes }: Session): Promise<void> {
  if (lanes.size < LANES_MAX) return;
  for (const [exchange, opened] of lanes) {
    const lane = await opened.catch(() => null);
    if (lane === null || lane.requests > 0) continue;
    lanes.delete(exchange);
    await lane.channel.close();
    return;
  }
}

async function publish(
  { channel, returned }: Lane,
  exchange: string,
  properties: RabbitmqProperties,
  body: Buffer,
  config: RabbitmqTarget,
): Promise<MillraceError | null> {
  const key = returnKey(properties.routingKey, properties.messageId);
  try {
    await channel.basicPublish({ exchange, ...properties, headers: { ...properties.headers } }, body);
  } catch (error) {
    return classify(error, config, exchange);
  }
  // A message that is sent back is so before it is confirmed; but the client tells of it a turn later.
  if (properties.mandatory) await turn();
  const times = returned.get(key);
  if (times === undefined) return null;
  if (times === 1) returned.delete(key);
  else returned.set(key, times - 1);
  return unroutable(config, exchange, properties.routingKey);
}

function returnKey(routingKey: string, messageId: string): string {
  return `${routingKey}\n${messageId}`;
}

async function goodbye({ connection, lanes, end }: Session): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, CLOSE_MS);
  const closing = Promise.all([...lanes.values()].map(async (lane) => (await lane).channel.close()));
  await Promise.race([late, closing.then(() => connection.close()).catch(() => {})]);
  clearTimeout(timer);
  end(new MillraceError('sink_unavailable', { detail: 'The sink was closed.' }));
}

function where({ host, port }: RabbitmqTarget): string {
  return `RabbitMQ at ${host}:${port}`;
}

function unroutable(config: RabbitmqTarget, exchange: string, routingKey: string): MillraceError {
  const name = exchange === '' ? 'the default exchange' : `exchange "${exchange}"`;
  const hint =
    exchange === ''
      ? `Make the queue: rabbitmqadmin declare queue name="${routingKey}" durable=true`
      : `Bind one: rabbitmqadmin declare binding source="${exchange}" destination=QUEUE routing_key="${routingKey}"`;
  return new MillraceError('sink_refused', {
    detail: `No queue takes routing key "${routingKey}" of ${name} at ${where(config)}.`,
    hint: `${hint}. To have RabbitMQ drop such messages, set mandatory: false.`,
  });
}

function blocked(config: RabbitmqTarget, reason: string): MillraceError {
  return new MillraceError('sink_unavailable', {
    detail: `${where(config)} blocks publishers: ${reason}.`,
    hint: 'It is short of memory or disk. See: rabbitmq-diagnostics alarms. Consumers may be behind.',
  });
}

/** Errors of the client are told apart by their codes: names of the protocol, and those of sockets. */
function classify(error: unknown, config: RabbitmqTarget, exchange: string | null): MillraceError {
  if (error instanceof MillraceError) return error;
  const said = (error as { code?: unknown }).code;
  const code = typeof said === 'string' ? said : 'closed';
  switch (code) {
    case 'ACCESS_REFUSED':
      return new MillraceError('sink_denied', {
        detail:
          exchange === null
            ? `${where(config)} refused user name or password.`
            : `${where(config)} refused to write to exchange "${exchange}".`,
        hint:
          exchange === null
            ? 'Check username and password. The user guest may connect from the same machine only.'
            : 'Give the user the right: rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ.',
      });
    case 'NOT_ALLOWED':
      return new MillraceError('sink_refused', {
        detail: `${where(config)} has no virtual host "${config.virtual_host}", or the user may not use it.`,
        hint: 'See rabbitmqctl list_vhosts and list_permissions; add_vhost and set_permissions mend it.',
      });
    case 'NOT_FOUND':
      return new MillraceError('sink_refused', {
        detail: `${where(config)} has no exchange "${exchange ?? ''}" in virtual host "${config.virtual_host}".`,
        hint: `Make it: rabbitmqadmin --vhost="${config.virtual_host}" declare exchange name="${exchange ?? ''}" type=topic durable=true`,
      });
    case 'NACK':
      return new MillraceError('sink_unavailable', {
        detail: `${where(config)} could not keep a message.`,
        hint: 'A queue is full and refuses more (overflow: reject-publish), or has lost its leader.',
      });
    case 'PRECONDITION_FAILED':
      return new MillraceError('sink_refused', {
        detail: `${where(config)} refused a message.`,
        hint: 'It may be larger than max_message_size of the broker. The log of the broker says why.',
      });
    default:
      return new MillraceError('sink_unavailable', { detail: `${where(config)}: ${code}.`, hint: hintFor(code) });
  }
}

function hintFor(code: string): string | undefined {
  if (code === 'ECONNREFUSED') return 'Is it running, and are host and port right?';
  if (code === 'ENOTFOUND') return 'There is no host of this name.';
  return /CERT|SIGNATURE|ALTNAME/.test(code)
    ? 'Its certificate could not be verified: set ca to the certificate of its CA, and host to a name in the certificate.'
    : undefined;
}
