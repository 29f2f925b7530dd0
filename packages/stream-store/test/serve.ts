import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import http2 from 'node:http2';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect } from 'vitest';
import { type HttpServer, type HttpServerOptions, startHttpServer } from '../src/http/server.ts';
import { type LocalStore, type LocalStoreOptions, openLocalStore } from '../src/local-store.ts';
import type { BasinConfig } from '../src/model.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';

/** A real server over a real store in a directory of its own. */
export interface Served {
  readonly store: LocalStore;
  readonly dir: string;
  readonly server: HttpServer;
  readonly port: number;
  readonly url: string;
  stop(): Promise<void>;
}

export async function serve(
  options: Partial<HttpServerOptions> = {},
  storeOptions: Partial<LocalStoreOptions> = {},
): Promise<Served> {
  const dir = storeOptions.dir ?? (await mkdtemp(path.join(tmpdir(), 'millrace-http-')));
  const store = await openLocalStore({ dir, ...storeOptions });
  const server = await startHttpServer({ store, port: 0, auth: 'off', ...options });
  return {
    store,
    dir,
    server,
    port: server.port,
    url: server.url,
    async stop() {
      await server.close({ graceMs: 0 });
      await store.close();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** One server for all tests of a file. */
export async function serveForFile(
  options: Partial<HttpServerOptions> = {},
  storeOptions: Partial<LocalStoreOptions> = {},
): Promise<Served> {
  const served = await serve(options, storeOptions);
  afterAll(() => served.stop());
  return served;
}

/** A condition that comes true, on a busy machine later. */
export const eventually = <T>(look: () => T) => expect.poll(look, { timeout: 40_000, interval: 10 });

let basins = 0;

/** A basin of its own for a test; creates streams on append and read unless told otherwise. */
export async function newBasin({ store }: Served, config: Partial<BasinConfig> = {}): Promise<string> {
  const name = `test-basin-${++basins}`;
  await store.createBasin(name, {
    ...DEFAULT_BASIN_CONFIG,
    createStreamOnAppend: true,
    createStreamOnRead: true,
    ...config,
  });
  return name;
}

export interface Answer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: Buffer;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every shape
  readonly json: any;
}

export interface Ask {
  readonly method?: string;
  readonly headers?: Record<string, string>;
  readonly body?: string | Buffer;
  /** Sent as JSON, with its content type. */
  readonly json?: unknown;
}

export type Asker = (served: Served, path: string, ask?: Ask) => Promise<Answer>;

function withJson({ headers = {}, body, json }: Ask): {
  headers: Record<string, string>;
  body: string | Buffer | undefined;
} {
  if (json === undefined) return { headers, body };
  return { headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(json) };
}

function answer(status: number, headers: http.IncomingHttpHeaders, chunks: Buffer[]): Answer {
  const body = Buffer.concat(chunks);
  const text = body.toString('utf8');
  return {
    status,
    headers,
    body,
    text,
    get json() {
      return JSON.parse(text);
    },
  };
}

export const askHttp1: Asker = ({ port }, target, ask = {}) => {
  const { headers, body } = withJson(ask);
  return new Promise((resolve, reject) => {
    const request = http.request(
      { host: '127.0.0.1', port, path: target, method: ask.method ?? 'GET', headers, agent: false },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('end', () => resolve(answer(response.statusCode ?? 0, response.headers, chunks)));
        response.on('error', reject);
      },
    );
    request.on('error', reject);
    request.end(body);
  });
};

export const askHttp2: Asker = ({ url }, target, ask = {}) => {
  const { headers, body } = withJson(ask);
  const session = http2.connect(url);
  return new Promise<Answer>((resolve, reject) => {
    session.on('error', reject);
    const stream = session.request({ ':method': ask.method ?? 'GET', ':path': target, ...headers });
    let head: http2.IncomingHttpHeaders = {};
    const chunks: Buffer[] = [];
    stream.on('response', (received) => (head = received));
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.on('end', () => resolve(answer(Number(head[':status']), head, chunks)));
    stream.on('error', reject);
    stream.end(body);
  }).finally(() => session.close());
};
