import http from 'node:http';
import http2 from 'node:http2';
import net from 'node:net';
import { MillraceError } from '@millrace/core/error';
import {
  CONNECTION_BACKLOG,
  H2_CONCURRENT_STREAMS_MAX,
  H2_CONNECTION_WINDOW_BYTES,
  H2_STREAM_WINDOW_BYTES,
  HEADERS_TIMEOUT_MS,
  IDLE_CONNECTION_MS,
} from './limits.ts';

/**
 * One TCP port for HTTP/1.1 and cleartext HTTP/2 with prior knowledge. The official SDKs use both against the same
 * origin, so the first bytes decide: the HTTP/2 preface, or anything else. (With TLS, ALPN would decide instead, and
 * hand the socket to the same two servers.)
 */
export interface ListenerOptions {
  readonly host: string;
  readonly port: number;
  readonly headersTimeoutMs?: number | undefined;
  readonly onHttp1: (request: http.IncomingMessage, response: http.ServerResponse) => void;
  readonly onHttp2: (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => void;
}

export interface Listener {
  readonly port: number;
  /** No new connections; open ones finish their requests and get no further ones (HTTP/2: GOAWAY). */
  stop(): void;
  /** Cuts what is still open. */
  destroy(): Promise<void>;
}

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');

export async function listen(options: ListenerOptions): Promise<Listener> {
  const headersTimeoutMs = options.headersTimeoutMs ?? HEADERS_TIMEOUT_MS;
  const sockets = new Set<net.Socket>();
  const sessions = new Set<http2.ServerHttp2Session>();

  const http1 = http.createServer({
    headersTimeout: headersTimeoutMs,
    // Off: an append session over HTTP/1.1 is one request that lasts. Unary bodies have their own timeout.
    requestTimeout: 0,
    keepAliveTimeout: IDLE_CONNECTION_MS,
    connectionsCheckingInterval: Math.max(100, Math.min(5_000, headersTimeoutMs / 2)),
    noDelay: true,
    maxHeaderSize: 64 * 1024,
  });
  http1.timeout = 0;
  http1.on('request', options.onHttp1);
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
    });
    session.setTimeout(IDLE_CONNECTION_MS, () => {
      if (open === 0) session.close();
    });
  });
  h2.on('sessionError', () => {});
  h2.on('stream', options.onHttp2);

  const server = net.createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    socket.on('error', () => socket.destroy());
    sortByPreface(socket, headersTimeoutMs, (isHttp2) => (isHttp2 ? h2 : http1).emit('connection', socket));
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
