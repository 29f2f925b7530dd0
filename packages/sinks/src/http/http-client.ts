/**
 * HTTP/1.1 requests to a destination, over connections of its own that are kept alive: through the network guard, with
 * one time limit for all of a request, redirects not followed, and of the answer only so much as is asked for.
 */
import { getCACertificates } from 'node:tls';
import { MillraceError } from '@millrace/core/error';
import { Agent, buildConnector, type Dispatcher } from 'undici';
import type { NetworkGuard } from './network-guard.ts';

export interface HttpClientOptions {
  readonly guard: NetworkGuard;
  /** Certificates, PEM, to trust beside those of Node. */
  readonly ca?: string | undefined;
  /** Connections to one host at once. */
  readonly connections: number;
  readonly timeoutMs: number;
}

export interface HttpRequest {
  readonly url: URL;
  readonly method: Dispatcher.HttpMethod;
  /** Lower-case names. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | null;
  /** By the status of the answer, how much of its body matters. 0: none, and it is not waited for. */
  readonly bodyBytesMax: (status: number) => number;
}

export interface HttpAnswer {
  readonly status: number;
  /** Lower-case name; the first one where there are several. */
  header(name: string): string | undefined;
  readonly body: Buffer;
  /** False: there is more of it than was read, or the connection broke before its end. */
  readonly complete: boolean;
}

export interface HttpClient {
  /** Rejects with a coded error; also when the signal ends it, or after the time limit. */
  send(request: HttpRequest, signal: AbortSignal): Promise<HttpAnswer>;
  close(): Promise<void>;
}

/** So long after the answer's head its body may take: the status has said most of it. */
const BODY_MS_MAX = 5_000;
/** A connection is used again when no more than this is left of an answer whose body does not matter. */
const SKIPPED_BYTES_MAX = 64 * 1024;

/** Of one answer, all headers together. */
const ANSWER_HEADER_BYTES_MAX = 64 * 1024;

export function httpClient({ guard, ca, connections, timeoutMs }: HttpClientOptions): HttpClient {
  const connect = buildConnector({
    timeout: timeoutMs,
    lookup: guard.lookup,
    ...(ca !== undefined && { ca: [...getCACertificates(), ca] }),
    allowH2: false,
  } as buildConnector.BuildOptions);
  const agent = new Agent({
    connections,
    pipelining: 1,
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    maxHeaderSize: ANSWER_HEADER_BYTES_MAX,
    allowH2: false,
    connect: (options, callback) => {
      const refusal = guard.refusal(options.hostname);
      if (refusal !== null) callback(refusal, null);
      else connect(options, callback);
    },
  });

  return {
    async send({ url, method, headers, body, bodyBytesMax }, signal) {
      const ending = new AbortController();
      const stop = () => ending.abort();
      const timer = setTimeout(() => ending.abort(TIMED_OUT), timeoutMs);
      signal.addEventListener('abort', stop, { once: true });
      if (signal.aborted) stop();
      try {
        const answer = await agent.request({
          origin: url.origin,
          path: `${url.pathname}${url.search}`,
          method,
          headers,
          body,
          signal: ending.signal,
        });
        const read = await bodyOf(answer, bodyBytesMax(answer.statusCode), ending);
        return {
          status: answer.statusCode,
          header(name) {
            const value = answer.headers[name];
            return Array.isArray(value) ? value[0] : value;
          },
          ...read,
        };
      } catch (error) {
        throw classify(error, url, timeoutMs, ending.signal.reason === TIMED_OUT);
      } finally {
        clearTimeout(timer);
        signal.removeEventListener('abort', stop);
      }
    },
    close: async () => await agent.destroy(),
  };
}

const TIMED_OUT = Symbol('timed out');

async function bodyOf({ body }: Dispatcher.ResponseData, bytesMax: number, ending: AbortController) {
  if (bytesMax === 0) {
    // Ending it early is an error of the stream, which nobody waits for any more.
    body.on('error', () => {});
    body.dump({ limit: SKIPPED_BYTES_MAX, signal: AbortSignal.timeout(BODY_MS_MAX) }).catch(() => {});
    return { body: EMPTY, complete: false };
  }
  const timer = setTimeout(() => ending.abort(TIMED_OUT), BODY_MS_MAX);
  return await readUpTo(body, bytesMax).finally(() => clearTimeout(timer));
}

const EMPTY = Buffer.alloc(0);

/** Never rejects: the status was known before. A body that is not read to its end costs the connection. */
async function readUpTo(
  body: Dispatcher.ResponseData['body'],
  bytesMax: number,
): Promise<{ body: Buffer; complete: boolean }> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk.subarray(0, bytesMax - size));
      size += chunk.length;
      if (size > bytesMax) return { body: Buffer.concat(chunks), complete: false };
    }
    return { body: Buffer.concat(chunks), complete: true };
  } catch {
    return { body: Buffer.concat(chunks), complete: false };
  } finally {
    body.on('error', () => {}).destroy();
  }
}

/** Foreign errors are classified here, once. Only hosts and codes are shown: a path or a query may hold a secret (I11). */
function classify(error: unknown, url: URL, timeoutMs: number, timedOut: boolean): MillraceError {
  if (error instanceof MillraceError) return error;
  const code = codeOf(error);
  const where = url.host;
  if (timedOut || code.endsWith('_TIMEOUT') || code === 'ETIMEDOUT') {
    return new MillraceError('sink_unavailable', {
      detail: `${where} did not answer within ${timeoutMs} ms.`,
      hint: 'If it needs longer, raise ack_wait_ms of the sink.',
      cause: error,
    });
  }
  if (TLS_UNVERIFIED.test(code)) {
    return new MillraceError('sink_unverified', {
      detail: `${where} (${code}).`,
      hint: 'If its certificate comes from an authority of your own, give that as ca of the destination.',
      cause: error,
    });
  }
  if (code.startsWith('UND_ERR_INVALID') || code === 'UND_ERR_NOT_SUPPORTED') {
    return new MillraceError('sink_refused', {
      detail: `The request to ${where} cannot be written (${code}).`,
      hint: 'Look at the headers of the endpoint and of the routing function.',
      cause: error,
    });
  }
  // No cause: it holds what was answered, and that may quote the message (I11).
  if (code.startsWith('HPE_') || code === 'UND_ERR_HEADERS_OVERFLOW') {
    return new MillraceError('sink_unavailable', {
      detail: `${where} does not speak HTTP/1.1 (${code}).`,
      cause: error,
    });
  }
  const hint =
    code === 'ENOTFOUND'
      ? 'Look at the name in the url of the endpoint, and whether this machine can resolve it.'
      : undefined;
  return new MillraceError('sink_unavailable', {
    detail: code === '' ? `${where} cannot be reached.` : `${where} cannot be reached, or broke off (${code}).`,
    hint,
    cause: error,
  });
}

const TLS_UNVERIFIED = /^(ERR_TLS_CERT|CERT_|UNABLE_TO_|DEPTH_ZERO_|SELF_SIGNED_|HOSTNAME_MISMATCH|INVALID_CA)/;

function codeOf(error: unknown): string {
  const { code, errors } = error as { code?: unknown; errors?: readonly unknown[] };
  if (typeof code === 'string') return code;
  // All addresses of a name failed.
  return errors === undefined || errors.length === 0 ? '' : codeOf(errors[0]);
}
