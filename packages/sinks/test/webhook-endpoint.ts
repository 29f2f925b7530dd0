/** A real HTTP server that keeps what it was sent, and answers as a test wants it to. */
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { gunzipSync } from 'node:zlib';
import type { MessageFacts, OutMessage, PushSink } from '@millrace/sinks/push-sink';
import type { HttpEndpoint, NetworkPolicy, SinkContext } from '@millrace/sinks/sink-kind';
import { type WebhookRoute, webhookKind } from '@millrace/sinks/webhook';
import { openWebhook, type WebhookDependencies } from '@millrace/sinks/webhook/webhook-sink';

export interface SeenRequest {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  /** Decompressed. */
  readonly text: string;
}

export type Answer = (response: ServerResponse, seen: SeenRequest, request: IncomingMessage) => void;

export interface WebhookEndpoint {
  readonly url: string;
  readonly port: number;
  readonly seen: readonly SeenRequest[];
  /** Connections that were made so far. */
  readonly connections: number;
  /** From now on. */
  answer(next: Answer): void;
  close(): Promise<void>;
}

export const ok: Answer = (response) => void response.end('{"ok":true}');

export function status(code: number, headers: Record<string, string> = {}, body = ''): Answer {
  return (response) => void response.writeHead(code, headers).end(body);
}

export async function startEndpoint(tls?: { key: string; cert: string }): Promise<WebhookEndpoint> {
  const seen: SeenRequest[] = [];
  let answer = ok;
  let connections = 0;
  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    const body = await buffer(request).catch(() => null);
    if (body === null) return;
    const text = (request.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body).toString();
    const one = { method: request.method!, url: request.url!, headers: request.headers, text };
    seen.push(one);
    answer(response, one, request);
  };
  const server = tls === undefined ? createServer(handle) : createTlsServer(tls, handle);
  server.on('connection', (socket) => {
    connections++;
    socket.on('error', () => {});
  });
  server.on('tlsClientError', () => {});
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    url: `${tls === undefined ? 'http' : 'https'}://${tls === undefined ? '127.0.0.1' : 'localhost'}:${port}`,
    port,
    seen,
    get connections() {
      return connections;
    },
    answer(next) {
      answer = next;
    },
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

export interface OpenOptions {
  readonly url: string;
  readonly config?: Record<string, unknown>;
  readonly endpoint?: Partial<HttpEndpoint>;
  readonly network?: NetworkPolicy;
  readonly timeoutMs?: number;
  readonly log?: (line: string) => void;
  readonly dependencies?: WebhookDependencies;
}

export interface OpenedWebhook {
  readonly sink: PushSink<WebhookRoute>;
  /** With the route that the configuration and `routed` make. */
  message(
    wanted?: Partial<MessageFacts> & { body?: string; json?: boolean; routed?: object },
  ): OutMessage<WebhookRoute>;
}

let count = 0;

export function openTestWebhook(options: OpenOptions): OpenedWebhook {
  const { url, endpoint, network = { allowPrivate: true, allow: [] }, timeoutMs = 20_000, log = () => {} } = options;
  const config = webhookKind.schema.parse({ type: 'webhook', http_endpoint: 'backend', ...options.config });
  const context: SinkContext = {
    name: 'hook',
    httpEndpoint: (name) =>
      name === 'backend' ? { name, url, headers: {}, encryptedHeaders: {}, ...endpoint } : undefined,
    network,
    timeoutMs,
    log,
  };
  return {
    sink: openWebhook(config, context, options.dependencies),
    message({ body, json = true, routed = {}, ...facts } = {}) {
      const n = count++;
      const all: MessageFacts = {
        action: 'insert',
        schema: 'public',
        table: 'products',
        keys: [String(n)],
        databaseName: 'shop',
        idempotencyKey: `key-${n}`,
        group: null,
        ...facts,
      };
      const returned = webhookKind.routing!.parse(routed);
      const route = webhookKind.checkRoute(config, { ...webhookKind.route(config, all), ...returned });
      if (typeof route === 'string') throw new Error(route);
      return { ...all, lsn: 1n, ordinal: n, body: Buffer.from(body ?? `{"n":${n}}`), json, route, tries: 0 };
    },
  };
}

export const CALM = new AbortController().signal;
