import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/*
 * Stands between the store and a real S3 server and does to requests what networks and busy servers do. Whether the
 * server applied a request is certain in every case, because that is what a test has to know.
 */

export type Fault =
  | 'pass'
  /** Not applied: the server says 500, or 503 SlowDown. */
  | 'internal error'
  | 'slow down'
  /** Not applied: 403. */
  | 'denied'
  /** Not applied; the connection is reset. */
  | 'reset before'
  /** Applied; the connection is reset before a byte of the answer. */
  | 'reset after'
  /** Applied; the answer never comes. */
  | 'stall after'
  /** Not applied, and no answer. */
  | 'stall before'
  /** Applied; the answer breaks off in the middle of its body. */
  | 'cut body';

export interface S3Request {
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly query: string;
}

export interface S3FaultProxy {
  readonly endpoint: string;
  /** Asked for every request; 'pass' until it is set. */
  decide: (request: S3Request) => Fault;
  /** Requests seen so far. */
  readonly requests: readonly S3Request[];
  close(): Promise<void>;
}

const REQUESTS_KEPT = 10_000;

export async function startS3FaultProxy(server: { readonly port: number }): Promise<S3FaultProxy> {
  const agent = new Agent({ keepAlive: true });
  const seen: S3Request[] = [];
  const proxy = {
    endpoint: '',
    decide: (_request: S3Request): Fault => 'pass',
    requests: seen,
    async close() {
      listener.closeAllConnections();
      await new Promise<void>((closed) => listener.close(() => closed()));
      agent.destroy();
    },
  };

  const listener = createServer(async (incoming, outgoing) => {
    const [path = '', query = ''] = (incoming.url ?? '').split('?');
    const described = { method: incoming.method ?? '', path, query };
    seen.push(described);
    if (seen.length > REQUESTS_KEPT) seen.shift();
    incoming.on('error', () => {});
    outgoing.on('error', () => {});
    try {
      await serve(proxy.decide(described), incoming, outgoing, { port: server.port, agent });
    } catch {
      incoming.socket.resetAndDestroy();
    }
  });
  await new Promise<void>((listening) => listener.listen(0, '127.0.0.1', listening));
  proxy.endpoint = `http://127.0.0.1:${(listener.address() as AddressInfo).port}`;
  return proxy;
}

interface Target {
  readonly port: number;
  readonly agent: Agent;
}

async function serve(fault: Fault, incoming: IncomingMessage, outgoing: ServerResponse, target: Target): Promise<void> {
  const body = await wholeOf(incoming);
  switch (fault) {
    case 'internal error':
      return answerError(outgoing, 500, 'InternalError');
    case 'slow down':
      return answerError(outgoing, 503, 'SlowDown');
    case 'denied':
      return answerError(outgoing, 403, 'AccessDenied');
    case 'reset before':
      incoming.socket.resetAndDestroy();
      return;
    case 'stall before':
      return;
    default: {
      const answer = await forward(incoming, body, target);
      if (fault === 'stall after') return;
      if (fault === 'reset after') {
        incoming.socket.resetAndDestroy();
        return;
      }
      outgoing.writeHead(answer.status, answer.headers);
      if (fault === 'cut body' && answer.body.length > 1) {
        outgoing.write(answer.body.subarray(0, answer.body.length >> 1), () => incoming.socket.resetAndDestroy());
        return;
      }
      outgoing.end(answer.body);
    }
  }
}

function answerError(outgoing: ServerResponse, status: number, code: string): void {
  outgoing.writeHead(status, { 'content-type': 'application/xml' });
  outgoing.end(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>injected</Message></Error>`);
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

function forward(incoming: IncomingMessage, body: Buffer, { port, agent }: Target): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { method, url: path, headers } = incoming;
    const passed = request({ host: '127.0.0.1', port, method, path, headers, agent }, (answer) => {
      wholeOf(answer).then(
        (bytes) => resolve({ status: answer.statusCode ?? 502, headers: answer.headers, body: bytes }),
        reject,
      );
    });
    passed.on('error', reject);
    passed.end(body);
  });
}

async function wholeOf(stream: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
