import { ByteWriter } from '@millrace/core/byte-writer';
import { type Clock, systemClock } from '@millrace/core/clock';
import { WAIT_SECS_MAX } from '../limits.ts';
import { MetricSets } from '../metrics/metric-sets.ts';
import { UsageMeter } from '../metrics/usage-meter.ts';
import { openApiDocument } from '../openapi/document.ts';
import { S2Error } from '../s2-error.ts';
import type { StreamStore } from '../store.ts';
import { type LimitsConfig, NO_LIMITS } from '../throttle/limits-config.ts';
import { Throttle, ThrottleCounts } from '../throttle/throttle.ts';
import { Authenticator, type AuthMode } from './access.ts';
import { BodyReader } from './body.ts';
import type { DrainableSession, ServerContext } from './context.ts';
import { errorBody, toS2Error } from './error-body.ts';
import { type Exchange, Http1Exchange, Http2Exchange, type NodeHandler, type ResponseHeaders } from './exchange.ts';
import {
  ANSWER_TIMEOUT_MS,
  BODIES_BYTES_MAX,
  BODY_TIMEOUT_MS,
  HEARTBEAT_MAX_MS,
  HEARTBEAT_MIN_MS,
  REQUEST_TIMEOUT_MS,
  TLS_FILES_CHECK_MS,
} from './limits.ts';
import { listen } from './listener.ts';
import { MetricsClock } from './metrics-clock.ts';
import { HttpMetrics } from './prometheus.ts';
import { ReadMemory } from './read-memory.ts';
import { NoSuchRoute, route } from './router.ts';
import { FrameBufferPool } from './s2s-frame.ts';
import { SharedEncodings } from './shared-encodings.ts';
import { exposeStore } from './store-metrics.ts';
import { loadTlsIdentity, type TlsSource } from './tls-identity.ts';
import { reloadTls } from './tls-reload.ts';

export interface HttpServerOptions {
  readonly store: StreamStore;
  readonly host?: string | undefined;
  /** 0: any free one. */
  readonly port: number;
  /** `off`: whoever reaches the port may do everything. */
  readonly auth?: AuthMode | undefined;
  /** Serve https instead of http. */
  readonly tls?: TlsSource | undefined;
  readonly tlsFilesCheckMs?: number | undefined;
  /** Let pages of any origin use the API. By default only when tokens are checked. */
  readonly cors?: boolean | undefined;
  /** Gets what a client is not told: failures behind a 500. */
  readonly log?: ((line: string) => void) | undefined;
  readonly heartbeat?: { readonly minMs: number; readonly maxMs: number } | undefined;
  readonly headersTimeoutMs?: number | undefined;
  readonly bodyTimeoutMs?: number | undefined;
  /** The defaults of these are constants of the same name. */
  readonly requestTimeoutMs?: number | undefined;
  readonly answerTimeoutMs?: number | undefined;
  readonly idleConnectionMs?: number | undefined;
  readonly waitSecsMax?: number | undefined;
  readonly bodiesBytesMax?: number | undefined;
  /** Held for read sessions, beyond which everybody gets little at a time. */
  readonly readMemoryBytesMax?: number | undefined;
  readonly random?: (() => number) | undefined;
  /** Its rates are enforced here; its quotas are the store's. */
  readonly limits?: LimitsConfig | undefined;
  readonly clock?: Clock | undefined;
  /** Served beside the S2 API on the same port. */
  readonly beside?: SecondSurface | undefined;
  /** What /metrics says besides, in the Prometheus text format. */
  readonly moreMetrics?: (() => string) | undefined;
}

/** Whatever else a process has to say over HTTP. Nothing below /v1/ is its own. */
export interface SecondSurface {
  owns(path: string): boolean;
  readonly handle: NodeHandler;
}

export interface HttpServer {
  readonly port: number;
  readonly url: string;
  /** SHA-256 of the certificate at the start; null without TLS. */
  readonly tlsFingerprint: string | null;
  /** Puts the certificate that the files now hold into service; one that cannot be used is logged. */
  reloadTls(): Promise<void>;
  /**
   * Drains: no new connections, 503 server_draining for new requests, sessions acknowledge what they took and end.
   * What is still open after `graceMs` is cut. The store stays open.
   */
  close(options?: { readonly graceMs?: number }): Promise<void>;
}

const GRACE_MS = 10_000;
const API = '/v1/';

/** Serves the S2 API of a store. Throws port_in_use. */
export async function startHttpServer(options: HttpServerOptions): Promise<HttpServer> {
  const { store, host = '127.0.0.1', auth = 'required', log = () => {}, random = Math.random } = options;
  const cors = options.cors ?? auth === 'required';
  const { minMs, maxMs } = options.heartbeat ?? { minMs: HEARTBEAT_MIN_MS, maxMs: HEARTBEAT_MAX_MS };
  const authenticator = new Authenticator(store, auth);
  const { requestTimeoutMs = REQUEST_TIMEOUT_MS, answerTimeoutMs = ANSWER_TIMEOUT_MS } = options;
  const sessions = new Set<DrainableSession>();
  const open = new Set<Exchange>();
  let isDraining = false;
  let onIdle: (() => void) | null = null;
  let description: string | null = null;

  const { clock: time = systemClock, limits = NO_LIMITS } = options;
  const now = () => time.now();
  const usage = new UsageMeter(store, time);
  const throttleCounts = new ThrottleCounts();
  const context: ServerContext = {
    store,
    now,
    metrics: new HttpMetrics(),
    usage,
    metricSets: new MetricSets(store, usage, now),
    throttle: Throttle.of(limits, throttleCounts),
    pool: new FrameBufferPool(),
    shared: { frames: new SharedEncodings(), raw: new SharedEncodings(), base64: new SharedEncodings() },
    readMemory: new ReadMemory(options.readMemoryBytesMax),
    bodies: new BodyReader(options.bodyTimeoutMs ?? BODY_TIMEOUT_MS, options.bodiesBytesMax ?? BODIES_BYTES_MAX),
    scratch: new ByteWriter(),
    heartbeatMs: () => Math.floor(minMs + random() * (maxMs - minMs)),
    waitSecsMax: options.waitSecsMax ?? WAIT_SECS_MAX,
    sessions,
    logFailure: (what, error) => log(`${what}: ${describe(error)}`),
  };

  function handle(exchange: Exchange): void {
    open.add(exchange);
    exchange.deadlineMs = performance.now() + requestTimeoutMs;
    exchange.onClose(() => {
      open.delete(exchange);
      context.bodies.release(exchange);
      if (open.size === 0) onIdle?.();
    });
    try {
      const outcome = dispatch(exchange);
      if (outcome !== undefined) outcome.catch((error: unknown) => answerError(exchange, error));
    } catch (error) {
      answerError(exchange, error);
    }
  }

  function dispatch(exchange: Exchange): Promise<void> | void {
    const { target } = exchange;
    const mark = target.indexOf('?');
    const path = mark < 0 ? target : target.slice(0, mark);
    if (cors && exchange.headers.origin !== undefined) {
      exchange.extraHeaders = corsHeaders(exchange);
      if (exchange.method === 'OPTIONS') return exchange.respond(204, {}, null);
    }
    if (!path.startsWith(API)) {
      if (options.beside?.owns(path) !== true) return dispatchOutside(exchange, path);
      if (isDraining) throw new S2Error('server_draining', 'The server is shutting down.');
      return exchange.handOver(options.beside.handle);
    }
    if (isDraining) throw new S2Error('server_draining', 'The server is shutting down.');
    const access = authenticator.authenticate(exchange.headers.authorization);
    if (context.throttle !== null) context.throttle.request(access.info.id);
    return route({ context, exchange, access, query: mark < 0 ? '' : target.slice(mark + 1) }, path.slice(API.length));
  }

  function dispatchOutside(exchange: Exchange, path: string): void {
    if (exchange.method !== 'GET' && exchange.method !== 'HEAD') throw new NoSuchRoute(404);
    switch (path) {
      case '/health':
      case '/ping':
        if (isDraining) exchange.respond(503, TEXT(), 'draining');
        else if (store.refusal !== null) exchange.respond(503, TEXT(), 'storage failed');
        else exchange.respond(200, TEXT(), 'OK');
        break;
      case '/metrics':
        exchange.respond(
          200,
          { 'content-type': 'text/plain; version=0.0.4' },
          context.metrics.expose() +
            exposeStore({
              store,
              usage,
              throttle: throttleCounts,
              sessions: sessions.size,
              openRequests: open.size,
              readMemoryBytes: context.readMemory.bytes,
            }) +
            (options.moreMetrics?.() ?? ''),
        );
        break;
      case '/openapi.json':
        exchange.respond(200, JSON_TYPE(), (description ??= JSON.stringify(openApiDocument())));
        break;
      default:
        throw new NoSuchRoute(404);
    }
  }

  function answerError(exchange: Exchange, error: unknown): void {
    if (error instanceof NoSuchRoute) {
      const code = error.status === 404 ? 'not_found' : 'method_not_allowed';
      exchange.respond(error.status, JSON_TYPE(), JSON.stringify({ code, message: error.message }));
      return;
    }
    const failure = toS2Error(error);
    if (failure !== error) context.logFailure(`${exchange.method} ${routeName(exchange.target)}`, error);
    if (exchange.timedOut) return;
    if (exchange.started) {
      // Too late for a status: only breaking off tells the client that this is not the whole answer.
      exchange.destroy();
      return;
    }
    const headers = JSON_TYPE();
    if (failure.retryAfterMs !== undefined) headers['retry-after-ms'] = String(failure.retryAfterMs);
    exchange.respond(failure.status, headers, errorBody(failure));
  }

  /** One clock for all: answers those that take too long, cuts those whose answer nobody takes. */
  function expire(): void {
    const now = performance.now();
    for (const exchange of open) {
      if (exchange.deadlineMs > now) continue;
      if (exchange.timedOut) {
        exchange.destroy();
        continue;
      }
      exchange.timedOut = true;
      exchange.deadlineMs = now + answerTimeoutMs;
      if (!exchange.started) {
        const failure = new S2Error('request_timeout', 'The request took too long; it may still have its effect.');
        exchange.respond(failure.status, JSON_TYPE(), errorBody(failure));
      }
    }
  }
  const clock = setInterval(expire, Math.min(1000, Math.ceil(Math.min(requestTimeoutMs, answerTimeoutMs) / 4)));
  clock.unref();

  const identity = options.tls === undefined ? null : await loadTlsIdentity(options.tls);
  if (identity?.warning != null) log(identity.warning);
  const listener = await listen({
    host,
    port: options.port,
    tls: identity ?? undefined,
    headersTimeoutMs: options.headersTimeoutMs,
    idleConnectionMs: options.idleConnectionMs,
    onHttp1: (request, response) => handle(new Http1Exchange(request, response)),
    onHttp2: (stream, headers) => handle(new Http2Exchange(stream, headers)),
  });

  const reload =
    options.tls === undefined || identity === null
      ? null
      : reloadTls({
          source: options.tls,
          fingerprint: identity.fingerprint,
          replace: (next) => listener.replaceIdentity(next),
          log,
          checkMs: options.tlsFilesCheckMs ?? TLS_FILES_CHECK_MS,
        });

  const metricsClock = new MetricsClock(store, usage, now);
  let closing: Promise<void> | null = null;
  async function close(graceMs: number): Promise<void> {
    isDraining = true;
    reload?.stop();
    listener.stop();
    const idle = new Promise<void>((resolve) => {
      onIdle = resolve;
    });
    for (const session of sessions) session.drain();
    if (open.size > 0) {
      let timer: NodeJS.Timeout | undefined;
      const timeout = new Promise<void>((resolve) => (timer = setTimeout(resolve, graceMs)));
      await Promise.race([idle, timeout]);
      clearTimeout(timer);
    }
    await listener.destroy();
    await metricsClock.stop();
    clearInterval(clock);
    context.bodies.close();
    context.metrics.close();
  }

  return {
    port: listener.port,
    tlsFingerprint: identity?.fingerprint ?? null,
    reloadTls: async () => await reload?.now(),
    url: `${identity === null ? 'http' : 'https'}://${host.includes(':') ? `[${host}]` : host}:${listener.port}`,
    close: ({ graceMs = GRACE_MS } = {}) => (closing ??= close(graceMs)),
  };
}

const TEXT = (): ResponseHeaders => ({ 'content-type': 'text/plain' });
const JSON_TYPE = (): ResponseHeaders => ({ 'content-type': 'application/json' });

/** Mirrors what is asked for. Nothing is given away: credentials are bearer tokens, which a foreign page has not got. */
function corsHeaders({ method, headers }: Exchange): ResponseHeaders {
  const allowed: ResponseHeaders = {
    'access-control-allow-origin': headers.origin ?? '*',
    'access-control-allow-credentials': 'true',
    'access-control-expose-headers': 's2-provision-result, retry-after-ms',
    vary: 'origin',
  };
  if (method === 'OPTIONS') {
    allowed['access-control-allow-methods'] = headers['access-control-request-method'] ?? 'GET';
    const asked = headers['access-control-request-headers'];
    if (asked !== undefined) allowed['access-control-allow-headers'] = asked;
  }
  return allowed;
}

/** For logs: no names of a client's streams, no query. */
function routeName(target: string): string {
  return target.split('/', 3).join('/').split('?', 1)[0]!;
}

/** For logs: a foreign error's message may quote what it was given, so only its kind and place are shown. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return typeof error;
  const place = (error.stack ?? '')
    .split('\n')
    .filter((line) => line.startsWith('    at '))
    .slice(0, 8);
  const code = 'code' in error && typeof error.code === 'string' ? ` (${error.code})` : '';
  return [`${error.name}${code}`, ...place].join('\n');
}
