/**
 * The connection of a NATS sink: opened when first needed and again after it was lost. The client's own reconnecting
 * is off, because it keeps what it could not send and sends it later, when the engine has tried again long since.
 */
import { isIP } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { assert } from '@millrace/core/assert';
import { beforeEnd } from '@millrace/core/before-end';
import { MillraceError } from '@millrace/core/error';
import type { JetStreamClient, JetStreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { type NetworkGuard, networkGuard } from './http/network-guard.ts';
import { settleWithin } from './settle-within.ts';
import type { SinkContext } from './sink-kind.ts';

export interface NatsPlace {
  readonly host: string;
  readonly port: number;
}

/** Of the destination block. */
export interface NatsTarget extends NatsPlace {
  readonly servers?: readonly string[] | undefined;
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  readonly token?: string | undefined;
  readonly jwt?: string | undefined;
  readonly nkey_seed?: string | undefined;
  readonly tls: boolean;
  readonly ca?: string | undefined;
  readonly subject?: string | undefined;
  readonly jetstream: boolean;
  readonly stream?: string | undefined;
  readonly max_payload: number;
}

export interface NatsUse {
  /** As the server says. */
  readonly maxPayload: number;
  /**
   * null: a stream has it, or, without JetStream, it was handed to the connection. `subjectText`: the subject for the
   * words of an error.
   */
  publish(
    subject: string,
    subjectText: string,
    body: Buffer,
    headers: readonly (readonly [string, string])[],
  ): Promise<MillraceError | null>;
  /** Resolves when the server has seen all that was published. Rejects where it refused some of it. */
  flush(): Promise<void>;
  /** Rejects where there is no stream for the sink. */
  findStreams(): Promise<void>;
}

export interface NatsLink {
  /** Rejects with a MillraceError when there is no connection, or it ends meanwhile. */
  use<T>(signal: AbortSignal, work: (use: NatsUse) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

type Client = typeof import('@nats-io/transport-node');
type JetStream = typeof import('@nats-io/jetstream');

interface Session {
  readonly connection: NatsConnection;
  readonly client: Client;
  readonly jetstream: JetStream;
  readonly publisher: JetStreamClient;
  /** Rejects when the connection has ended. */
  readonly ended: Promise<never>;
  readonly beforeEnd: ReturnType<typeof beforeEnd>;
  /** When the server last said something. */
  heardAt: number;
  /** What the server refused without saying which message it was. */
  refusals: number;
}

/** Two of these without an answer: the connection is dead. */
const PING_INTERVAL_MS = 15_000;
/** Of a server that is named without one. */
const PORT = 4222;

export function natsConnection(config: NatsTarget, context: SinkContext): NatsLink {
  let opening: Promise<Session> | null = null;
  const ending = new AbortController();

  function session(): Promise<Session> {
    if (ending.signal.aborted) {
      return Promise.reject(new MillraceError('sink_unavailable', { detail: 'The sink was closed.' }));
    }
    if (opening === null) {
      const started = open(config, context).catch((error: unknown) => Promise.reject(classify(error, config)));
      opening = started;
      const forget = () => {
        if (opening === started) opening = null;
      };
      started.then(({ ended }) => ended.catch(forget), forget);
    }
    return opening;
  }

  function drop(which: Promise<Session>): void {
    if (opening === which) opening = null;
    // Also one that is still being opened, once it is.
    which.then(({ connection }) => destroy(connection)).catch(() => {});
  }

  return {
    async use(signal, work) {
      const which = session();
      const either = AbortSignal.any([signal, ending.signal]);
      const began = performance.now();
      let heard = false;
      try {
        return await settleWithin(context.timeoutMs, either, async () => {
          const opened = await which;
          const result = await opened.beforeEnd(work(operations(config, context, opened)));
          heard = opened.heardAt >= began;
          return result;
        });
      } catch (error) {
        const known = classify(error, config);
        // A server that answers others meanwhile is well: it is a stream without a leader, say, that does not answer.
        const opened = known.code === 'sink_unavailable' && !heard ? await settledNow(which) : null;
        if (known.code === 'sink_unavailable' && !(opened !== null && opened.heardAt >= began)) drop(which);
        throw known;
      }
    },

    async close() {
      ending.abort();
      const last = opening;
      opening = null;
      if (last === null) return;
      const opened = await settledNow(last);
      if (opened === null) drop(last);
      else await destroy(opened.connection);
    },
  };
}

/** What a promise has come to, or null when it has not. */
function settledNow<T>(promise: Promise<T>): Promise<T | null> {
  return Promise.race([promise, Promise.resolve(null)]).catch(() => null);
}

async function open(config: NatsTarget, context: SinkContext): Promise<Session> {
  const client = await import('@nats-io/transport-node');
  const jetstream = await import('@nats-io/jetstream');
  const { host, port, servers = [], tls, ca } = config;
  const guard = networkGuard({ policy: context.network });
  const named = [`${host.includes(':') ? `[${host}]` : host}:${port}`, ...servers];
  const found = await Promise.all(named.map((server) => check(guard, server)));
  const left = found.filter(({ error }) => error === null);
  if (left.length === 0) throw noneLeft(found.flatMap(({ error }) => error ?? []));
  const connection = await client.connect({
    servers: left.map(({ server }) => server),
    name: `millrace ${context.name}`,
    authenticator: authenticatorOf(client, config),
    // null: no TLS, even where the server offers it with a certificate that could not be verified.
    tls: tls ? { ...(ca === undefined ? {} : { ca }) } : null,
    timeout: context.timeoutMs,
    reconnect: false,
    ignoreClusterUpdates: true,
    pingInterval: PING_INTERVAL_MS,
  });
  const ended = connection.closed().then((error): never => {
    throw error instanceof Error ? classify(error, config) : lost(config);
  });
  const session: Session = {
    connection,
    client,
    jetstream,
    publisher: jetstream.jetstream(connection, { timeout: context.timeoutMs }),
    ended,
    beforeEnd: beforeEnd(ended),
    heardAt: 0,
    refusals: 0,
  };
  void watch(session);
  return session;
}

/** Of `[tls://]host[:port]`. */
function placeOf(server: string): NatsPlace {
  const bare = server.replace(/^\w+:\/\//, '');
  const port = Number(/:(\d+)$/.exec(bare)?.[1] ?? PORT);
  return { host: bare.startsWith('[') ? bare.slice(1, bare.indexOf(']')) : bare.replace(/:\d+$/, ''), port };
}

interface Checked {
  readonly server: string;
  /** null: it may be connected to. */
  readonly error: MillraceError | null;
}

/**
 * Whether its name leads somewhere, and sinks may connect there. Of a cluster, the name of a server that is down may be
 * gone with it. The client resolves names itself, a moment later: against a name that changes in between, this does not
 * protect.
 */
async function check(guard: NetworkGuard, server: string): Promise<Checked> {
  const place = placeOf(server);
  const error = guard.refusal(place.host);
  if (error !== null || isIP(place.host) !== 0) return { server, error };
  return await new Promise<Checked>((resolve) => {
    guard.lookup(place.host, { all: true }, (failed) => {
      resolve({ server, error: failed === null ? null : classify(failed, place) });
    });
  });
}

function noneLeft(errors: readonly MillraceError[]): MillraceError {
  const [first] = errors;
  assert(first !== undefined, 'there is at least one server');
  if (errors.length === 1) return first;
  // Where one of them may come back, the sink goes on by itself.
  const code = errors.every((error) => error.code === first.code) ? first.code : 'sink_unavailable';
  const details = errors.map((error) => (error.code === code ? error.detail : error.message));
  const hints = new Set(errors.flatMap(({ hint }) => hint ?? []));
  return new MillraceError(code, { detail: details.join(' '), hint: [...hints].join(' ') });
}

/** Core NATS refuses a subject without an answer: only the connection hears of it. */
async function watch(session: Session): Promise<void> {
  for await (const { type } of session.connection.status()) if (type === 'error') session.refusals++;
}

function authenticatorOf(client: Client, { username, password, token, jwt, nkey_seed }: NatsTarget) {
  const seed = nkey_seed === undefined ? undefined : new TextEncoder().encode(nkey_seed);
  if (jwt !== undefined) return [client.jwtAuthenticator(jwt, seed)];
  if (seed !== undefined) return [client.nkeyAuthenticator(seed)];
  if (token !== undefined) return [client.tokenAuthenticator(token)];
  return username === undefined ? [] : [client.usernamePasswordAuthenticator(username, password)];
}

function operations(config: NatsTarget, context: SinkContext, session: Session): NatsUse {
  const { connection, client, jetstream, publisher } = session;
  const asked = { timeout: context.timeoutMs };
  return {
    maxPayload: connection.info?.max_payload ?? config.max_payload,

    async publish(subject, subjectText, body, pairs) {
      const headers = client.headers();
      for (const [name, value] of pairs) headers.set(name, value);
      if (!config.jetstream) {
        connection.publish(subject, body, { headers });
        return null;
      }
      try {
        await publisher.publish(subject, body, { ...asked, headers });
      } catch (error) {
        const known = classifyAck(error, jetstream, config, subjectText);
        if (known.code !== 'sink_unavailable') session.heardAt = performance.now();
        return known;
      }
      session.heardAt = performance.now();
      return null;
    },

    async flush() {
      const before = session.refusals;
      await connection.flush();
      // A refusal comes before the answer to the flush, but it is told through an iterator, some promises later.
      await turn();
      session.heardAt = performance.now();
      if (session.refusals === before) return;
      throw new MillraceError('sink_denied', {
        detail: `${where(config)} refused to publish.`,
        hint: 'The user may not publish to the subjects of this sink: allow it.',
      });
    },

    async findStreams() {
      const manager = await jetstream
        .jetstreamManager(connection, asked)
        .catch((error: unknown) => Promise.reject(classifyAck(error, jetstream, config, null)));
      session.heardAt = performance.now();
      const wanted = config.subject;
      const name = await streamOf(manager, config).catch((error: unknown) =>
        Promise.reject(classifyAck(error, jetstream, config, null)),
      );
      if (name === null && wanted !== undefined) throw noStream(config, wanted);
      if (config.stream !== undefined && wanted !== undefined && name !== config.stream) {
        throw new MillraceError('sink_refused', {
          detail: `The stream "${config.stream}" does not take the subject "${wanted}".`,
          hint: `Add it: nats stream edit ${config.stream} --subjects "${wanted}", or leave stream out of the sink.`,
        });
      }
    },
  };
}

/** The stream of the subject or, where that is not known before a message is there, the one named. null: none. */
async function streamOf(manager: JetStreamManager, { subject, stream }: NatsTarget): Promise<string | null> {
  if (subject === undefined) {
    if (stream !== undefined) await manager.streams.info(stream);
    return stream ?? null;
  }
  const names = await manager.streams.names(subject).next();
  return names[0] ?? null;
}

function noStream(config: NatsTarget, subject: string): MillraceError {
  const pattern = subject.startsWith('sequin.') ? 'sequin.>' : subject;
  return new MillraceError('sink_refused', {
    detail: `No stream of ${where(config)} takes the subject "${subject}".`,
    hint: `Make one: nats stream add ${config.stream ?? 'CHANGES'} --subjects "${pattern}" --storage file --defaults. A server without JetStream is started with -js. For core NATS, at most once, set jetstream: false.`,
  });
}

function where({ host, port }: NatsPlace): string {
  return `NATS at ${host}:${port}`;
}

function lost(config: NatsTarget): MillraceError {
  return new MillraceError('sink_unavailable', { detail: `${where(config)} ended the connection.` });
}

const STREAM_NOT_FOUND = 10059;
const MESSAGE_TOO_LARGE = 10054;
const WRONG_STREAM = 10060;

/** Why a stream did not take a message. The texts of JetStream hold no part of it. */
function classifyAck(error: unknown, jetstream: JetStream, config: NatsTarget, subject: string | null): MillraceError {
  if (error instanceof jetstream.JetStreamApiError) {
    const { code, err_code, description } = error.apiError();
    const detail = `${where(config)}: ${description} (${err_code}).`;
    if (err_code === MESSAGE_TOO_LARGE) {
      return new MillraceError('sink_record_too_large', { detail, hint: 'Raise max_msg_size of the stream.' });
    }
    if (err_code === WRONG_STREAM) {
      const hint = `Another stream takes this subject. Leave stream out of the sink, or give the subject to ${config.stream}.`;
      return new MillraceError('sink_refused', { detail, hint });
    }
    if (err_code === STREAM_NOT_FOUND) {
      return new MillraceError('sink_refused', {
        detail: `${where(config)} has no stream "${config.stream}".`,
        hint: `Make it: nats stream add ${config.stream} --subjects "sequin.>" --storage file --defaults, or leave stream out of the sink.`,
      });
    }
    // A stream that is full (discard: new), a server without room, a cluster without a leader.
    if (code >= 500) {
      const hint = 'Is the stream or its storage full, or without a leader? See: nats stream info.';
      return new MillraceError('sink_unavailable', { detail, hint });
    }
    return new MillraceError('sink_refused', { detail });
  }
  if (error instanceof Error && error.name === 'JetStreamNotEnabled') {
    if (subject !== null) return noStream(config, subject);
    return new MillraceError('sink_refused', {
      detail: `${where(config)} has no JetStream.`,
      hint: 'Start it with -js, or enable JetStream for the account. For core NATS, at most once, set jetstream: false.',
    });
  }
  return classify(error, config);
}

/** Errors of the client are told apart by their names: importing it for their classes would load it. */
function classify(error: unknown, place: NatsPlace): MillraceError {
  if (error instanceof MillraceError) return error;
  const chain = causes(error);
  const names = chain.map(({ name }) => name);
  if (names.some((name) => name === 'AuthorizationError' || name === 'UserAuthenticationExpiredError')) {
    return new MillraceError('sink_denied', {
      detail: `${where(place)} refused the credentials.`,
      hint: 'Check username and password, token, or jwt and nkey_seed; a JWT may have expired.',
    });
  }
  if (names.includes('PermissionViolationError')) {
    return new MillraceError('sink_denied', {
      detail: `${where(place)} refused a subject.`,
      hint: 'The user has to be allowed to publish to the subjects of the sink, and to subscribe to _INBOX.>.',
    });
  }
  const code = chain.map((cause) => (cause as { code?: unknown }).code).find((each) => typeof each === 'string');
  const said = typeof code === 'string' ? code : (chain[0]?.message ?? 'no reason given');
  return new MillraceError('sink_unavailable', { detail: `${where(place)}: ${said}.`, hint: hintFor(code, said) });
}

function causes(error: unknown): readonly Error[] {
  const chain: Error[] = [];
  for (let each = error; each instanceof Error && chain.length < 8; each = each.cause) chain.push(each);
  return chain;
}

function hintFor(code: unknown, said: string): string | undefined {
  if (code === 'ECONNREFUSED') return 'Is it running, and are host and port right?';
  if (code === 'ENOTFOUND') return 'There is no host of this name.';
  if (/CERT|SIGNATURE|ALTNAME/.test(String(code))) {
    return 'Its certificate could not be verified: set ca to the certificate of its CA, and host to a name in the certificate.';
  }
  if (said.includes("does not support 'tls'")) return 'It has no TLS: configure it there, or set tls: false.';
  return undefined;
}

/** At once: what is not written yet stays unwritten. */
async function destroy(connection: NatsConnection): Promise<void> {
  const { protocol } = connection as unknown as {
    readonly protocol?: { readonly transport?: { readonly socket?: { destroy(): void } } };
  };
  protocol?.transport?.socket?.destroy();
  await connection.close().catch(() => {});
}
