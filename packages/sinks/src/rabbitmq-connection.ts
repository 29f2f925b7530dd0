/**
 * The connection of a RabbitMQ sink: opened when first needed and again after it was lost, with a channel in confirm
 * mode for each exchange, because what is wrong with one exchange closes the channel.
 *
 * So does what is wrong with one message, and then the broker says nothing of the others that were on the channel, nor
 * which one it was. Where that was its size, the limit is known from then on: what is larger is not sent any more, and
 * the others are sent again. Otherwise each is sent by itself, and the one that closes a channel then is the one.
 *
 * A request that took too long does not end the connection: what the broker has not read yet it will still read, so a
 * second try over the same connection comes after the first, and over another it might not.
 */
import type { TcpSocketConnectOpts } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { beforeEnd } from '@millrace/core/before-end';
import { MillraceError } from '@millrace/core/error';
import type { Channel, Connection } from 'rabbitmq-client';
import { networkGuard } from './http/network-guard.ts';
import { blocked, classify, type RabbitmqPlace, refusedSize, tooLarge, unroutable, where } from './rabbitmq-errors.ts';
import { settleWithin } from './settle-within.ts';
import type { SinkContext } from './sink-kind.ts';

/** Of the destination block. */
export interface RabbitmqTarget extends RabbitmqPlace {
  readonly username?: string | undefined;
  readonly password?: string | undefined;
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

export interface RabbitmqMessage {
  /** Its routing key for the words of an error. */
  readonly keyText: string;
  readonly properties: RabbitmqProperties;
  readonly body: Buffer;
}

export interface RabbitmqLink {
  /**
   * Publishes messages to the exchange: for each of them null, once it is confirmed, or why the broker did not take it.
   * Rejects with a MillraceError when there is no connection or no such exchange, or when the connection ends meanwhile.
   */
  publish(
    exchange: string,
    messages: readonly RabbitmqMessage[],
    signal: AbortSignal,
  ): Promise<readonly (MillraceError | null)[]>;
  /** Rejects when there is no connection or no such exchange. */
  find(exchange: string, signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

interface Session {
  readonly connection: Connection;
  /** Rejects when the connection has ended. */
  readonly ended: Promise<never>;
  readonly beforeEnd: ReturnType<typeof beforeEnd>;
  readonly end: (error: unknown) => void;
  /** By exchange, the one used longest ago first. */
  readonly lanes: Map<string, Promise<Lane>>;
  /** What the broker says it is short of; null: it takes messages. */
  blocked: string | null;
  /** Messages that nobody waits for any more and that are not known to be confirmed. */
  abandoned: number;
  /** The largest body that the broker takes, as far as it has said. */
  bodyBytesMax: number;
  /** Messages that closed a channel, by what tells them apart. They are sent by themselves from then on. */
  readonly culprits: Set<string>;
}

interface Lane {
  readonly channel: Channel;
  /** How often the broker has sent back a message with this key, and nobody was told yet. */
  readonly returned: Map<string, number>;
  /** Resolves when the channel has ended. */
  readonly over: Promise<void>;
  /** Why it has, where that was said. */
  reason: MillraceError | null;
  /** Messages handed over and neither confirmed nor refused; when it has ended, those it took with it. */
  unsettled: number;
  requests: number;
}

/** Of one call. */
interface Request {
  readonly exchange: string;
  /** Messages handed over and not settled. */
  waiting: number;
  /** Nobody waits for it any more, and nothing more of it is sent: the engine may have sent it again. */
  over: boolean;
}

/** The channel ended before the broker said anything of the message. */
const CUT = Symbol('cut');

/** The broker says something at least every half of it. After two of them without a word the connection is dead. */
const HEARTBEAT_S = 20;
/** Channels of a connection: routing functions can name exchanges without end, and the protocol knows 2047 at most. */
const LANES_MAX = 256;
/** Then the connection is given up after all: each of them is memory here and in the broker. */
const ABANDONED_MAX = 10_000;
/** Beyond it the oldest are forgotten. */
const CULPRITS_MAX = 1_000;
/** So many in a row by themselves, and none was let through: it is the exchange that is denied. */
const DENIED_MAX = 3;
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

  /** `messages`: how many it is about to send. */
  async function ask<T>(
    exchange: string,
    messages: number,
    signal: AbortSignal,
    work: (session: Session, request: Request) => Promise<T>,
  ): Promise<T> {
    const either = AbortSignal.any([signal, ending.signal]);
    const request: Request = { exchange, waiting: 0, over: false };
    let opened: Session | null = null;
    try {
      return await settleWithin(context.timeoutMs, either, async () => {
        const active = await session();
        opened = active;
        if (active.blocked !== null && messages > 0) throw blocked(config, active.blocked);
        return await active.beforeEnd(work(active, request));
      });
    } catch (error) {
      const known = classify(error, config, exchange);
      const active = opened as Session | null;
      request.over = true;
      if (active !== null) {
        active.abandoned += request.waiting;
        if (active.abandoned > ABANDONED_MAX) active.end(known);
        if (active.blocked !== null) throw blocked(config, active.blocked);
      }
      throw known;
    }
  }

  return {
    publish: (exchange, messages, signal) =>
      ask(exchange, messages.length, signal, (session, request) => publishAll(session, request, messages, config)),

    async find(exchange, signal) {
      await ask(exchange, 0, signal, (session) => laneOf(session, exchange, config));
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
  const session: Session = {
    connection,
    ended,
    beforeEnd: beforeEnd(ended),
    // The client would connect again by itself; here the next request does.
    end(error) {
      reject(classify(error, config, null));
      connection.unsafeDestroy();
    },
    lanes: new Map(),
    blocked: null,
    abandoned: 0,
    bodyBytesMax: Number.POSITIVE_INFINITY,
    culprits: new Set(),
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
  await session.beforeEnd(laneOf(session, '', config));
  return session;
}

/** The channel for an exchange; it is opened, and the exchange looked for, when it is first used. */
function laneOf(session: Session, exchange: string, config: RabbitmqTarget): Promise<Lane> {
  const { lanes } = session;
  let lane = lanes.get(exchange);
  if (lane === undefined) {
    const forget = () => {
      if (lanes.get(exchange) === lane) lanes.delete(exchange);
    };
    lane = makeRoom(session).then(() => openLane(session, exchange, config, forget));
    lane.catch(forget);
  }
  // Behind all others: it is the one used last.
  lanes.delete(exchange);
  lanes.set(exchange, lane);
  return lane;
}

async function openLane(session: Session, exchange: string, config: RabbitmqTarget, onClose = () => {}): Promise<Lane> {
  const channel = await session.connection.acquire({ emitErrorsFromChannel: true });
  const { promise: over, resolve } = Promise.withResolvers<void>();
  const lane: Lane = { channel, returned: new Map(), over, reason: null, unsettled: 0, requests: 0 };
  channel.on('error', (error) => noteReason(session, lane, error, config, exchange));
  channel.on('close', () => {
    onClose();
    // After the reason, where there is one.
    setImmediate(resolve);
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

/** The client tells one of the messages, or the channel itself, why; all others only that it is closed. */
function noteReason(session: Session, lane: Lane, error: unknown, config: RabbitmqTarget, exchange: string): void {
  const { code } = error as { code?: unknown };
  if (code === 'CH_CLOSE' || code === 'ERR_STREAM_DESTROYED') return;
  const size = refusedSize(error);
  if (size !== null) session.bodyBytesMax = Math.min(session.bodyBytesMax, size.bytesMax);
  lane.reason ??= classify(error, config, exchange);
}

/** Closes the channel used longest ago that nobody is using. */
async function makeRoom({ lanes }: Session): Promise<void> {
  if (lanes.size < LANES_MAX) return;
  for (const [exchange, opened] of [...lanes]) {
    const lane = await opened.catch(() => null);
    if (lane === null || lane.requests > 0) continue;
    lanes.delete(exchange);
    await lane.channel.close();
    return;
  }
}

async function publishAll(
  session: Session,
  request: Request,
  messages: readonly RabbitmqMessage[],
  config: RabbitmqTarget,
): Promise<readonly (MillraceError | null)[]> {
  const outcome = new Array<MillraceError | null>(messages.length).fill(null);
  const all = [...messages.keys()];
  const known = (index: number) => session.culprits.has(keyOf(request, messages[index]!));
  const suspects = session.culprits.size === 0 ? [] : all.filter(known);
  let left = suspects.length === 0 ? all : all.filter((index) => !suspects.includes(index));
  while (left.length > 0) {
    const lane = await laneOf(session, request.exchange, config);
    const { bodyBytesMax } = session;
    const cut: number[] = [];
    lane.requests++;
    const waiting = left.map(async (index) => {
      const said = await send(session, request, lane, messages[index]!, config);
      if (said === CUT) cut.push(index);
      else outcome[index] = said;
    });
    await Promise.all(waiting).finally(() => lane.requests--);
    // With what was learned meanwhile none of them closes a channel for its size.
    if (session.bodyBytesMax < bodyBytesMax) left = cut;
    else {
      suspects.push(...cut);
      break;
    }
  }
  await publishEach(session, request, messages, suspects, outcome, config);
  return outcome;
}

/** One at a time, on a channel of their own. */
async function publishEach(
  session: Session,
  request: Request,
  messages: readonly RabbitmqMessage[],
  suspects: readonly number[],
  outcome: (MillraceError | null)[],
  config: RabbitmqTarget,
): Promise<void> {
  let lane: Lane | null = null;
  let deniedOnly = 0;
  try {
    for (const index of suspects) {
      if (request.over) return;
      const message = messages[index]!;
      const key = keyOf(request, message);
      lane ??= await openLane(session, request.exchange, config);
      const said = await send(session, request, lane, message, config);
      if (said === CUT) throw closed(config);
      outcome[index] = said;
      if (lane.channel.active) {
        session.culprits.delete(key);
        deniedOnly = Number.NEGATIVE_INFINITY;
        continue;
      }
      lane = null;
      if (said?.code !== 'sink_denied') remember(session, key);
      else if (++deniedOnly === DENIED_MAX) throw said;
    }
  } finally {
    await lane?.channel.close();
  }
}

/** null: confirmed. */
async function send(
  session: Session,
  request: Request,
  lane: Lane,
  { properties, body, keyText }: RabbitmqMessage,
  config: RabbitmqTarget,
): Promise<MillraceError | null | typeof CUT> {
  const { exchange } = request;
  const { channel, returned } = lane;
  if (request.over) return CUT;
  if (body.length > session.bodyBytesMax) return tooLarge(config, body.length, session.bodyBytesMax);
  const key = returnKey(properties.routingKey, properties.messageId);
  lane.unsettled++;
  request.waiting++;
  try {
    await channel.basicPublish({ exchange, ...properties, headers: { ...properties.headers } }, body);
    lane.unsettled--;
  } catch (error) {
    if ((error as { code?: unknown }).code === 'NACK') {
      lane.unsettled--;
      return classify(error, config, exchange);
    }
    noteReason(session, lane, error, config, exchange);
    await lane.over;
    // Alone on the channel: it is the one.
    return lane.unsettled === 1 ? (lane.reason ?? closed(config)) : CUT;
  } finally {
    if (request.over) session.abandoned--;
    else request.waiting--;
  }
  // A message that is sent back is so before it is confirmed; but the client tells of it a turn later.
  if (properties.mandatory) await turn();
  const times = returned.get(key);
  if (times === undefined) return null;
  if (times === 1) returned.delete(key);
  else returned.set(key, times - 1);
  return unroutable(config, exchange, keyText);
}

function remember({ culprits }: Session, key: string): void {
  culprits.add(key);
  for (const oldest of culprits) {
    if (culprits.size <= CULPRITS_MAX) break;
    culprits.delete(oldest);
  }
}

function keyOf({ exchange }: Request, { properties }: RabbitmqMessage): string {
  return `${exchange}\n${returnKey(properties.routingKey, properties.messageId)}`;
}

function closed(config: RabbitmqTarget): MillraceError {
  return new MillraceError('sink_unavailable', { detail: `${where(config)} closed the channel.` });
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
