import http from 'node:http';
import http2 from 'node:http2';
import net from 'node:net';
import tls from 'node:tls';
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { answerInTurn } from './http1-turns.ts';
import {
  CONNECTION_BACKLOG,
  CONNECTIONS_MAX,
  H2_CONCURRENT_STREAMS_MAX,
  H2_CONNECTION_WINDOW_BYTES,
  H2_STREAM_WINDOW_BYTES,
  HEADER_BYTES_MAX,
  HEADERS_TIMEOUT_MS,
  IDLE_CONNECTION_MS,
  KEEP_ALIVE_PROBE_MS,
} from './limits.ts';

/**
 * One TCP port for HTTP/1.1 and HTTP/2. The official SDKs use both against the same origin. In cleartext the first bytes
 * decide: the HTTP/2 preface (prior knowledge), or anything else. With TLS, ALPN does. Either way the socket goes to the
 * same two servers.
 */
export interface ListenerOptions {
  readonly host: string;
  readonly port: number;
  readonly headersTimeoutMs?: number | undefined;
  readonly idleConnectionMs?: number | undefined;
  /** Serve TLS, and nothing else, with this certificate. */
  readonly tls?: SecureIdentity | undefined;
  readonly onHttp1: (request: http.IncomingMessage, response: http.ServerResponse) => void;
  readonly onHttp2: (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => void;
}

/** PEM. */
export interface SecureIdentity {
  readonly cert: Buffer;
  readonly key: Buffer;
}

export interface Listener {
  readonly port: number;
  /** For connections from now on; those that are open keep theirs. Only with TLS. */
  replaceIdentity(identity: SecureIdentity): void;
  /** No new connections; open ones finish their requests and get no further ones (HTTP/2: GOAWAY). */
  stop(): void;
  /** Cuts what is still open. */
  destroy(): Promise<void>;
}

const SOCKET_OPTIONS = { noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_PROBE_MS };

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');

export async function listen(options: ListenerOptions): Promise<Listener> {
  const { headersTimeoutMs = HEADERS_TIMEOUT_MS, idleConnectionMs = IDLE_CONNECTION_MS } = options;
  const sockets = new Set<net.Socket>();
  const sessions = new Set<http2.ServerHttp2Session>();

  const http1 = http.createServer({
    headersTimeout: headersTimeoutMs,
    // Off: an append session over HTTP/1.1 is one request that lasts. Unary bodies have their own timeout.
    requestTimeout: 0,
    keepAliveTimeout: idleConnectionMs,
    connectionsCheckingInterval: Math.max(100, Math.min(5_000, headersTimeoutMs / 2)),
    noDelay: true,
    maxHeaderSize: HEADER_BYTES_MAX,
  });
  http1.timeout = 0;
  // Their size is bounded; by count Node would leave out the rest without a word.
  http1.maxHeadersCount = 0;
  answerInTurn(http1, options.onHttp1);
  // node:http starts its header timeout on `listening`; this server gets its sockets from us and never listens.
  http1.emit('listening');

  const h2 = http2.createServer({
    settings: {
      initialWindowSize: H2_STREAM_WINDOW_BYTES,
      maxConcurrentStreams: H2_CONCURRENT_STREAMS_MAX,
    },
    // Appends larger than Node's default of 10 MB per session are in flight with 100 busy streams.
    maxSessionMemory: 256,
  });
  h2.on('session', (session) => {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
    session.on('error', () => session.destroy());
    session.setLocalWindowSize(H2_CONNECTION_WINDOW_BYTES);
    let open = 0;
    session.on('stream', (stream: http2.ServerHttp2Stream) => {
      open++;
      stream.once('close', () => open--);
      endWhenReset(stream);
    });
    session.setTimeout(idleConnectionMs, () => {
      if (open === 0) session.close();
    });
  });
  h2.on('sessionError', () => {});
  h2.on('stream', options.onHttp2);

  const secure = options.tls === undefined ? null : secureServer(options.tls, headersTimeoutMs);
  const server = secure ?? net.createServer(SOCKET_OPTIONS);
  server.maxConnections = CONNECTIONS_MAX;
  server.on('connection', (socket: net.Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    socket.on('error', () => socket.destroy());
    if (secure !== null) return;
    sortByPreface(socket, headersTimeoutMs, (isHttp2) => (isHttp2 ? h2 : http1).emit('connection', socket));
  });
  secure?.on('secureConnection', (socket) => {
    socket.on('error', () => socket.destroy());
    if (socket.alpnProtocol === 'h2') h2.emit('connection', socket);
    else http1.emit('connection', socket);
  });

  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      if (cause.code !== 'EADDRINUSE') return reject(cause);
      const hint = 'Choose another port, or stop the process that uses it.';
      reject(new MillraceError('port_in_use', { detail: `Port ${options.port} on ${options.host}.`, hint, cause }));
    });
    server.listen({ port: options.port, host: options.host, backlog: CONNECTION_BACKLOG }, resolve);
  });

  return {
    port: (server.address() as net.AddressInfo).port,
    replaceIdentity({ cert, key }) {
      assert(secure !== null, 'only a listener with TLS has a certificate to replace');
      secure.setSecureContext({ cert, key });
    },
    stop() {
      server.close();
      http1.closeIdleConnections();
      for (const session of sessions) session.close();
    },
    async destroy() {
      const closed = new Promise<void>((resolve) => (server.listening ? server.close(() => resolve()) : resolve()));
      for (const session of sessions) session.destroy();
      for (const socket of sockets) socket.destroy();
      // Stops the interval behind the header timeout. The server never listened, so close() reports that: ignored.
      http1.close(() => {});
      h2.close(() => {});
      await closed;
    },
  };
}

/**
 * A client may reset a stream without an error code (Node's own does, and so the SDKs when a read is cancelled). Node then
 * waits for what is being written to this stream, which nobody completes, and keeps it, and its connection, for ever.
 */
function endWhenReset(stream: http2.ServerHttp2Stream): void {
  const check = (): void => {
    if (!stream.closed || stream.destroyed) return;
    setImmediate(() => {
      // One that we closed is known until the client was told.
      if (stream.state.state === http2.constants.NGHTTP2_STREAM_STATE_IDLE) stream.destroy();
    });
  };
  stream.once('aborted', check);
  stream.once('end', check);
}

/** A client that does not finish its handshake in time is cut, as one is that does not finish its headers. */
function secureServer({ cert, key }: SecureIdentity, handshakeTimeoutMs: number): tls.Server {
  const server = tls.createServer({
    cert,
    key,
    ALPNProtocols: ['h2', 'http/1.1'],
    handshakeTimeout: handshakeTimeoutMs,
    ...SOCKET_OPTIONS,
  });
  server.on('tlsClientError', (_error, socket) => socket.destroy());
  return server;
}

/** Looks at the first bytes without consuming them. A client that is silent or dribbles is cut after `timeoutMs`. */
function sortByPreface(socket: net.Socket, timeoutMs: number, sorted: (isHttp2: boolean) => void): void {
  let seen: Buffer = Buffer.alloc(0);
  const timer = setTimeout(() => socket.destroy(), timeoutMs);
  const onClose = () => clearTimeout(timer);
  socket.once('close', onClose);
  socket.on('data', function onData(chunk: Buffer) {
    seen = seen.length === 0 ? chunk : Buffer.concat([seen, chunk]);
    const compared = Math.min(seen.length, PREFACE.length);
    const isPrefix = seen.compare(PREFACE, 0, compared, 0, compared) === 0;
    if (isPrefix && compared < PREFACE.length) return;
    clearTimeout(timer);
    socket.off('data', onData);
    socket.off('close', onClose);
    socket.pause();
    socket.unshift(seen);
    sorted(isPrefix);
    // node:http listens for data, which does not undo an explicit pause; http2 reads the handle itself.
    if (!isPrefix) socket.resume();
  });
}
