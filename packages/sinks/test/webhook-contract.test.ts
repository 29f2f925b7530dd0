/** The contract suite of push sinks against a real HTTP server: once with batches, once message by message. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import type { HttpEndpoint } from '@millrace/sinks/sink-kind';
import { webhookKind } from '@millrace/sinks/webhook';
import { startProxy } from '@millrace/testkit/proxy';
import { registerPushSinkContract } from './push-sink-contract.ts';
import type { PushSinkTarget, Received } from './push-sink-subject.ts';

const PASSWORD = 'a-password-of-the-endpoint';

for (const batch of [true]) {
  registerPushSinkContract({
    kind: webhookKind,
    module: import.meta.resolve('@millrace/sinks/webhook'),
    exportName: 'webhookKind',
    start: () => startTarget(batch),
  });
}

async function startTarget(batch: boolean): Promise<PushSinkTarget> {
  /** By path: what it has, also over a restart. */
  const places = new Map<string, Received[]>();

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request).catch(() => null);
    if (body === null) return;
    const place = places.get(request.url ?? '');
    if (request.headers.authorization !== PASSWORD) response.writeHead(401);
    else if (place === undefined) response.writeHead(404);
    else if (request.method === 'POST') place.push(...receivedIn(body, request.headers['idempotency-key']));
    response.end();
  }

  function receivedIn(body: string, key: string | string[] | undefined): Received[] {
    if (!batch) return [{ body: Buffer.from(body), idempotencyKey: String(key) }];
    const { data } = JSON.parse(body) as { data: unknown[] };
    return data.map((one) => ({ body: Buffer.from(typeof one === 'string' ? one : JSON.stringify(one)) }));
  }

  let server: Server;
  async function listen(port: number): Promise<number> {
    server = createServer((request, response) => void handle(request, response));
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    return (server.address() as AddressInfo).port;
  }
  async function kill(): Promise<void> {
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  }

  const port = await listen(0);
  const proxy = await startProxy({ port });
  const endpoint = (name: string, at: number, authorization: string): HttpEndpoint => ({
    name,
    url: `http://127.0.0.1:${at}`,
    headers: {},
    encryptedHeaders: { authorization },
  });
  return {
    proxy,
    httpEndpoints: [
      endpoint('direct', port, PASSWORD),
      endpoint('proxy', proxy.port, PASSWORD),
      endpoint('wrong', port, 'another-password'),
    ],
    async newPlace() {
      const place = `/place-${places.size}`;
      places.set(place, []);
      return place;
    },
    destination: (place, way) => ({
      type: 'webhook',
      http_endpoint: way,
      http_endpoint_path: place,
      batch,
      max_request_bytes: 1_048_576,
    }),
    withWrongCredentials: (destination) => ({ ...destination, http_endpoint: 'wrong' }),
    // HEAD of a path may be answered otherwise than POST: the test takes any answer.
    withWrongPlace: () => null,
    routeTo: (place) => ({ endpoint_path: place }),
    received: async (place) => places.get(place) ?? [],
    kill,
    async restart() {
      await listen(port);
    },
    secrets: [PASSWORD, 'another-password'],
    durable: true,
    dedupes: false,
    keepsHistory: true,
    takesText: true,
    async stop() {
      await proxy.close();
      await kill();
    },
  };
}
