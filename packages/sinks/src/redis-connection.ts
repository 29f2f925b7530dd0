/**
 * A connection to one Redis server, for the kinds that write to Redis. It is opened when first needed and again after
 * it was lost; nothing is queued or sent again here, because what becomes of a request is the engine's business.
 *
 * A request is a transaction (MULTI ... EXEC): Redis takes it whole or not at all, so a request may hold several
 * messages of one group. A request whose reply was lost may still lie in the server's buffers, and would then be
 * carried out after newer ones of the next connection: before that connection is used, it has the server drop the old.
 */
import { connect } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { MillraceError } from '@millrace/core/error';
import type { Redis } from 'ioredis';
import { networkGuard } from './http/network-guard.ts';
import { settleWithin } from './settle-within.ts';
import type { SinkContext } from './sink-kind.ts';

export interface RedisServer {
  readonly host: string;
  readonly port: number;
  readonly database: number;
  readonly tls: boolean;
  readonly ca?: string | undefined;
  readonly username?: string | undefined;
  readonly password?: string | undefined;
}

export type RedisCommand = readonly [name: string, ...args: (string | Buffer)[]];

export interface RedisConnection {
  /** Resolves when Redis has carried out all of the commands; rejects when it has carried out none, or may have. */
  transaction(commands: readonly RedisCommand[], signal: AbortSignal): Promise<void>;
  /** The reply to one command that changes nothing. */
  ask(command: RedisCommand, signal: AbortSignal): Promise<unknown>;
  close(): Promise<void>;
}

interface Session {
  readonly client: Redis;
  /** How the server calls this connection, for CLIENT KILL; null: it does not say. */
  readonly identity: Identity | null;
  /** Requests without a reply yet. */
  waiting: number;
}

interface Identity {
  readonly id: string;
  readonly address: string;
}

/** Lost connections of which the server was not told yet: there is one at a time, but for those lost while connecting. */
const LOST_MAX = 8;
/** Unused: `destroy` does not wait for the server. */
const DISCONNECT_MS = 100;

export function redisConnection(server: RedisServer, context: SinkContext): RedisConnection {
  let opening: Promise<Session> | null = null;
  let lost: Identity[] = [];
  const ending = new AbortController();

  function session(): Promise<Session> {
    if (ending.signal.aborted) {
      return Promise.reject(new MillraceError('sink_unavailable', { detail: 'The sink was closed.' }));
    }
    if (opening === null) {
      const started = open(server, context, lost, ending.signal).then((opened) => {
        lost = [];
        opened.client.once('end', () => forget(started, opened));
        if (opened.client.status === 'end') forget(started, opened);
        return opened;
      });
      opening = started;
      started.catch(() => {
        if (opening === started) opening = null;
      });
    }
    return opening;
  }

  /** The next request opens another one. */
  function forget(which: Promise<Session>, { client, identity, waiting }: Session): void {
    if (opening === which) opening = null;
    if (waiting > 0 && identity !== null && !lost.includes(identity)) lost = [...lost, identity].slice(-LOST_MAX);
    destroy(client);
  }

  async function request<T>(send: (client: Redis) => Promise<T>, signal: AbortSignal): Promise<T> {
    let which: Promise<Session> | null = null;
    let opened: Session | null = null;
    try {
      return await settleWithin(context.timeoutMs, signal, async () => {
        which = session();
        opened = await which;
        opened.waiting++;
        const value = await send(opened.client);
        opened.waiting--;
        return value;
      });
    } catch (error) {
      const known = classify(error, server);
      // After an answer of the server the connection is as good as before. Without one nobody knows what it is at.
      const active = opened as Session | null;
      if (active !== null && which !== null) {
        if (isReply(error)) active.waiting--;
        else forget(which, active);
      }
      throw known;
    }
  }

  return {
    transaction(commands, signal) {
      return request(async (client) => {
        const transaction = client.multi();
        for (const [name, ...args] of commands) transaction.call(name, args);
        const replies = await transaction.exec();
        for (const [error] of replies ?? []) if (error !== null) throw error;
      }, signal);
    },

    ask([name, ...args], signal) {
      return request((client) => client.call(name, args), signal);
    },

    async close() {
      ending.abort();
      const last = await opening?.catch(() => null);
      if (last) destroy(last.client);
      opening = null;
    },
  };
}

/** Connects, authenticates, selects, and has the server end the connections that were lost. */
async function open(
  server: RedisServer,
  { network, timeoutMs }: SinkContext,
  lost: readonly Identity[],
  signal: AbortSignal,
): Promise<Session> {
  const { AbstractConnector, Redis } = await import('ioredis');
  const guard = networkGuard({ policy: network });
  const refused = guard.refusal(server.host);
  if (refused !== null) throw refused;
  const { host, port, tls, ca } = server;

  /** As the client's own, but to addresses only that sinks may connect to. */
  class Connector extends AbstractConnector {
    constructor() {
      super(DISCONNECT_MS);
    }

    async connect() {
      this.connecting = true;
      const target = { host, port, lookup: guard.lookup };
      this.stream = tls ? connectTls({ ...target, ...(ca === undefined ? {} : { ca }) }) : connect(target);
      this.stream.once('error', (error) => {
        this.firstError = error;
      });
      return this.stream;
    }
  }

  const client = new Redis({
    host,
    port,
    Connector,
    // Said to the client, so that it waits for the handshake; the connector has made it.
    ...(tls ? { tls: {} } : {}),
    lazyConnect: true,
    connectTimeout: timeoutMs,
    // The protocol that every version and every service with Redis' interface speaks.
    protocol: 2,
    enableReadyCheck: false,
    disableClientInfo: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    retryStrategy: null,
  });
  let failure: Error | null = null;
  client.on('error', (error: Error) => {
    failure ??= error;
  });
  // What ends a connection attempt is only told to those who listen for errors: connect() says "closed".
  const connected = client.connect().catch((error: Error) => Promise.reject(failure ?? error));
  const ready = connected.then(async () => {
    if (server.password !== undefined) {
      await client.call('AUTH', server.username === undefined ? [server.password] : [server.username, server.password]);
    }
    // The answer to the first command of a connection is also where a server says that it wants a password.
    if (server.database === 0) await client.call('PING');
    else await client.call('SELECT', [String(server.database)]);
    const identity = await identify(client);
    for (const { id, address } of lost) {
      // A server without this right or this command: then a late request can come after a newer one.
      await client.call('CLIENT', ['KILL', 'ID', id, 'ADDR', address]).catch(ignoreReply);
    }
    return { client, identity, waiting: 0 };
  });
  // Given up, it fails when nobody listens any more.
  ready.catch(() => {});
  try {
    return await settleWithin(timeoutMs, signal, () => ready);
  } catch (error) {
    destroy(client);
    throw classify(error, server);
  }
}

/** Redis 6.2 and later; of others null. Both parts, because a server that was started again counts from one. */
async function identify(client: Redis): Promise<Identity | null> {
  const info = await client.call('CLIENT', ['INFO']).catch(ignoreReply);
  const id = /(?:^| )id=(\d+)/.exec(String(info))?.[1];
  const address = /(?:^| )addr=(\S+)/.exec(String(info))?.[1];
  return id === undefined || address === undefined ? null : { id, address };
}

function ignoreReply(error: Error): null {
  if (isReply(error)) return null;
  throw error;
}

/** At once: what is not written yet stays unwritten. */
function destroy(client: Redis): void {
  client.disconnect();
  (client as unknown as { readonly stream?: { destroy(): void } }).stream?.destroy();
}

/** An answer of the server, in contrast to a connection that failed. */
function isReply(error: unknown): error is Error {
  return error instanceof Error && (error.name === 'ReplyError' || error.constructor.name === 'ReplyError');
}

const DENIED = new Set(['NOAUTH', 'WRONGPASS', 'NOPERM']);

/** What passes, or what somebody mends without touching the sink: worth trying again. */
const LATER: Readonly<Record<string, string>> = {
  OOM: 'It has reached maxmemory. Trim what is there (maxlen of this sink), or give it more.',
  READONLY: 'It is a replica. Name the primary, or wait for the failover to end.',
  LOADING: 'It is loading its data.',
  MOVED: 'It is a node of a Redis cluster, and the key is at another one. Name an endpoint that serves every key.',
  ASK: 'It is a node of a Redis cluster that is moving the key.',
  TRYAGAIN: 'It is a node of a Redis cluster that is moving the key.',
  CLUSTERDOWN: 'Its cluster is down.',
  MASTERDOWN: 'Its primary is down.',
  MISCONF: 'It cannot save to its disk, and refuses writes until it can.',
  NOREPLICAS: 'It has fewer replicas than min-replicas-to-write wants.',
  BUSY: 'It is running a script.',
};

const REFUSED: Readonly<Record<string, string>> = {
  WRONGTYPE: 'The key holds something else. Delete it, or write to another key.',
  CROSSSLOT: 'It is a node of a Redis cluster, and keys of one request are at different ones.',
};

/** Texts of Redis can quote what was sent (I11): of them only the code goes on. */
export function classify(error: unknown, server: { readonly host: string; readonly port: number }): MillraceError {
  if (error instanceof MillraceError) return error;
  const where = `Redis at ${server.host}:${server.port}`;
  if (!isReply(error)) {
    const code = (error as { code?: unknown }).code;
    const said = typeof code === 'string' ? code : (error as Error).message;
    // Not the error itself as the cause: it holds the command that was lost, and with it the message (I11).
    return new MillraceError('sink_unavailable', { detail: `${where}: ${said}.`, hint: hintFor(code) });
  }
  // Of a transaction that was refused while its commands came in, the reason is among what came before.
  const earlier = (error as { previousErrors?: readonly Error[] }).previousErrors ?? [];
  const said = (earlier[0] ?? error).message;
  const code = /^[A-Z]+/.exec(said)?.[0] ?? 'ERR';
  if (DENIED.has(code) || /^ERR (?:AUTH|Client sent AUTH|invalid password)/.test(said)) {
    return new MillraceError('sink_denied', { detail: `${where} answered ${code}.`, hint: deniedHint(code) });
  }
  const later = LATER[code];
  if (later !== undefined) {
    return new MillraceError('sink_unavailable', { detail: `${where} answered ${code}.`, hint: later });
  }
  return new MillraceError('sink_refused', { detail: `${where} answered ${code}.`, hint: REFUSED[code] ?? odd(said) });
}

function deniedHint(code: string): string {
  if (code === 'NOAUTH') return 'It wants a password: set password, and username for a user that is not "default".';
  if (code === 'NOPERM')
    return 'The user may not do this: grant it the commands and keys that the sink writes (ACL SETUSER).';
  if (code === 'WRONGPASS') return 'User name or password is wrong, or the user is switched off.';
  return 'It has no password of this form set: take username and password out, or set them there.';
}

function hintFor(code: unknown): string | undefined {
  if (code === 'ECONNREFUSED') return 'Is it running, and are host and port right?';
  if (code === 'ENOTFOUND') return 'There is no host of this name.';
  return /CERT|SIGNATURE|ALTNAME/.test(String(code))
    ? 'Its certificate could not be verified: set ca to the certificate of its CA, and host to a name in the certificate.'
    : undefined;
}

function odd(said: string): string | undefined {
  if (said.startsWith('ERR unknown command')) {
    return 'It does not know a command the sink needs (XADD, MULTI): Redis 5 or later has them.';
  }
  if (said.startsWith('ERR DB index') || said.startsWith('ERR invalid DB')) return 'It has no database of this number.';
  return undefined;
}
