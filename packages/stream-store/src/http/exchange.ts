import type http from 'node:http';
import http2 from 'node:http2';
import type { Readable, Writable } from 'node:stream';
import { S2Error } from '../s2-error.ts';
import { H2_UNTAKEN_ANSWER_BYTES_MAX, LINGER_MS } from './limits.ts';

/**
 * One request and its answer, whichever protocol carries it. Handlers see nothing of HTTP/1.1 and HTTP/2 beyond this.
 * Either `respond` or `start` is called, once.
 */
export interface Exchange {
  readonly method: string;
  /** Path and query as sent. */
  readonly target: string;
  readonly headers: http.IncomingHttpHeaders;
  readonly host: string | undefined;
  readonly body: Readable;
  /** The same for all requests of one connection. */
  readonly connection: object;
  readonly started: boolean;
  /** On the clock of performance.now(): when the server gives up on it. A session has no end. */
  deadlineMs: number;
  /** The server gave up and answered; what the handler still says is not sent. */
  timedOut: boolean;
  /** Of the request body, as held in memory until the exchange is over. */
  bodyBytes: number;
  /** Sent with every answer. */
  extraHeaders: ResponseHeaders | null;
  /** Answers at once. `body` null: truly empty, without a content type. */
  respond(status: number, headers: ResponseHeaders, body: Uint8Array | string | null): void;
  /** Sends the head and leaves the body to the caller, which has to end it. */
  start(status: number, headers: ResponseHeaders): Writable;
  /** Runs once when the exchange is over: answered in full, or cut by the client. At once if it is over already. */
  onClose(listener: () => void): void;
  /**
   * Call before making an answer of about this size: a client that takes no answers gets no further ones made. null:
   * go on. Given back when the exchange is over.
   */
  reserveAnswer(bytes: number): Promise<void> | null;
  /**
   * Instead of `respond` and `start`: another surface answers, by what Node has for a request of this protocol. A time
   * limit of this exchange then cuts it, without an answer.
   */
  handOver(handle: NodeHandler): void;
  destroy(): void;
}

export type NodeHandler = (
  request: http.IncomingMessage | http2.Http2ServerRequest,
  response: http.ServerResponse | http2.Http2ServerResponse,
) => void;

export type ResponseHeaders = Record<string, string>;

const JOINED_BODY_BYTES_MAX = 4096;

export class Http1Exchange implements Exchange {
  readonly method: string;
  readonly target: string;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: http.IncomingMessage;
  readonly connection: object;
  extraHeaders: ResponseHeaders | null = null;
  deadlineMs = Number.POSITIVE_INFINITY;
  timedOut = false;
  bodyBytes = 0;
  readonly #response: http.ServerResponse;
  #over = false;

  constructor(request: http.IncomingMessage, response: http.ServerResponse) {
    this.method = request.method ?? 'GET';
    this.target = request.url ?? '/';
    this.headers = request.headers;
    this.body = request;
    this.connection = request.socket;
    this.#response = response;
    response.once('close', () => (this.#over = true));
  }

  get host(): string | undefined {
    return this.headers.host;
  }

  get started(): boolean {
    return this.#response.headersSent;
  }

  respond(status: number, headers: ResponseHeaders, body: Uint8Array | string | null): void {
    const response = this.#response;
    if (response.destroyed || response.headersSent) return;
    if (this.extraHeaders !== null) Object.assign(headers, this.extraHeaders);
    if (body === null) {
      // 204 must not carry a length; every other status needs it, or the answer would be chunked.
      response.writeHead(status, status === 204 ? headers : { ...headers, 'content-length': '0' });
      response.end();
      return;
    }
    headers['content-length'] = String(typeof body === 'string' ? Buffer.byteLength(body) : body.length);
    // The rest of an unread request would have to be read before the connection could be used again.
    // (A request without a body is not yet `complete` either while it is answered at once.)
    if (!this.body.complete && announcesBody(this.headers)) headers.connection = 'close';
    response.writeHead(status, headers);
    // Node sends a head and a string in one piece, a head and a buffer in two.
    if (typeof body === 'string' || body.length > JOINED_BODY_BYTES_MAX) response.end(body);
    else response.end(Buffer.from(body.buffer, body.byteOffset, body.length).toString('latin1'), 'latin1');
  }

  start(status: number, headers: ResponseHeaders): Writable {
    if (this.#response.headersSent) throw tooLate();
    this.deadlineMs = Number.POSITIVE_INFINITY;
    // A write that meets a connection cut at that moment: the close event says the same.
    this.#response.on('error', ignore);
    this.#response.writeHead(status, { ...headers, ...this.extraHeaders });
    // Without this Node holds the head back until the first body byte.
    this.#response.flushHeaders();
    return this.#response;
  }

  onClose(listener: () => void): void {
    if (this.#over) listener();
    else this.#response.once('close', listener);
  }

  /** The listener starts a request when the answer before it was taken: there is only one. */
  reserveAnswer(_bytes: number): null {
    return null;
  }

  handOver(handle: NodeHandler): void {
    this.timedOut = true;
    for (const [name, value] of Object.entries(this.extraHeaders ?? {})) this.#response.setHeader(name, value);
    handle(this.body, this.#response);
  }

  destroy(): void {
    this.#response.destroy();
  }
}

export class Http2Exchange implements Exchange {
  readonly method: string;
  readonly target: string;
  readonly headers: http2.IncomingHttpHeaders;
  readonly body: http2.ServerHttp2Stream;
  readonly connection: object;
  extraHeaders: ResponseHeaders | null = null;
  deadlineMs = Number.POSITIVE_INFINITY;
  timedOut = false;
  bodyBytes = 0;
  #over = false;

  constructor(stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) {
    this.method = headers[':method'] ?? 'GET';
    this.target = headers[':path'] ?? '/';
    this.headers = headers;
    this.body = stream;
    this.connection = stream.session ?? stream;
    stream.on('error', ignore);
    stream.once('close', () => (this.#over = true));
  }

  get host(): string | undefined {
    return this.headers[':authority'] ?? this.headers.host;
  }

  get started(): boolean {
    return this.body.headersSent;
  }

  respond(status: number, headers: ResponseHeaders, body: Uint8Array | string | null): void {
    const stream = this.body;
    if (stream.destroyed || stream.closed || stream.headersSent) return;
    if (this.extraHeaders !== null) Object.assign(headers, this.extraHeaders);
    if (body === null) {
      stream.respond({ ':status': status, ...headers }, { endStream: true });
    } else {
      headers['content-length'] = String(typeof body === 'string' ? Buffer.byteLength(body) : body.length);
      stream.respond({ ':status': status, ...headers });
      stream.end(body);
    }
    dropRest(stream);
  }

  start(status: number, headers: ResponseHeaders): Writable {
    const stream = this.body;
    if (stream.headersSent) throw tooLate();
    this.deadlineMs = Number.POSITIVE_INFINITY;
    if (!stream.destroyed && !stream.closed) stream.respond({ ':status': status, ...headers, ...this.extraHeaders });
    stream.once('finish', () => dropRest(stream));
    return stream;
  }

  onClose(listener: () => void): void {
    if (this.#over) listener();
    else this.body.once('close', listener);
  }

  reserveAnswer(bytes: number): Promise<void> | null {
    const { session } = this.body;
    if (session === undefined) return null;
    let untaken = untakenOf.get(session);
    if (untaken === undefined) untakenOf.set(session, (untaken = new UntakenAnswers(H2_UNTAKEN_ANSWER_BYTES_MAX)));
    return untaken.reserve(bytes, this);
  }

  handOver(handle: NodeHandler): void {
    this.timedOut = true;
    const response = new http2.Http2ServerResponse(this.body);
    for (const [name, value] of Object.entries(this.extraHeaders ?? {})) response.setHeader(name, value);
    response.once('finish', () => dropRest(this.body));
    handle(new http2.Http2ServerRequest(this.body, this.headers, {}, []), response);
  }

  destroy(): void {
    this.body.close(http2.constants.NGHTTP2_CANCEL);
  }
}

/** Answers of one HTTP/2 connection that were made and not taken yet, and who waits to make one. In turn. */
class UntakenAnswers {
  readonly #bytesMax: number;
  #bytes = 0;
  readonly #waiting = new Set<{ readonly bytes: number; readonly resolve: () => void }>();

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  reserve(bytes: number, exchange: Exchange): Promise<void> | null {
    if (this.#waiting.size === 0 && this.#fits(bytes)) {
      this.#take(bytes, exchange);
      return null;
    }
    return new Promise((resolve) => {
      const waiter = {
        bytes,
        resolve: () => {
          this.#take(bytes, exchange);
          resolve();
        },
      };
      this.#waiting.add(waiter);
      // Whoever gave up waiting goes on to find the exchange closed.
      exchange.onClose(() => {
        if (this.#waiting.delete(waiter)) resolve();
      });
    });
  }

  #fits(bytes: number): boolean {
    return this.#bytes === 0 || this.#bytes + bytes <= this.#bytesMax;
  }

  #take(bytes: number, exchange: Exchange): void {
    this.#bytes += bytes;
    exchange.onClose(() => {
      this.#bytes -= bytes;
      for (const waiter of this.#waiting) {
        if (!this.#fits(waiter.bytes)) return;
        this.#waiting.delete(waiter);
        waiter.resolve();
      }
    });
  }
}

const untakenOf = new WeakMap<object, UntakenAnswers>();

/** The request was answered with a timeout before its handler came to open a session. */
function tooLate(): S2Error {
  return new S2Error('request_timeout', 'The request took too long.');
}

function announcesBody(headers: http.IncomingHttpHeaders): boolean {
  return (headers['content-length'] ?? '0') !== '0' || headers['transfer-encoding'] !== undefined;
}

/** The answer is complete although the client may still be sending: read and drop for a while, then reset the stream. */
function dropRest(stream: http2.ServerHttp2Stream): void {
  if (stream.readableEnded || stream.destroyed) return;
  stream.resume();
  const timer = setTimeout(() => {
    // Before its client took the answer Node would not close it, and not let it be cut any more either.
    if (stream.writableFinished) stream.close(http2.constants.NGHTTP2_NO_ERROR);
    else stream.once('finish', () => stream.close(http2.constants.NGHTTP2_NO_ERROR));
  }, LINGER_MS);
  stream.once('end', () => clearTimeout(timer));
  stream.once('close', () => clearTimeout(timer));
}

function ignore(): void {}
