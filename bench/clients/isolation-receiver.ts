/**
 * Where the webhooks of the isolation section go. The path says how a request is taken: /good/<sink> notes when each row
 * was there, the others are destinations that stall, fail, dawdle or lie. One process for the good ones, one for the others.
 */
import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { monotonicMs } from './arrivals.ts';
import { runClient } from './client.ts';

export interface IsolationReceiverInput {
  /** Rows are numbered from 1 to this. */
  readonly rows: number;
}

/** By sink: when row `i + 1` was answered for; 0: never. */
export type RowArrivals = Readonly<Record<string, Float64Array>>;

/** How the slow one answers. */
export const SLOW_MS = 2_000;
/** Fifty connections a sink come at once; a queue that overflows costs one of them seconds, or minutes. */
const BACKLOG = 4_096;
const KEEP_ALIVE_MS = 600_000;
const RECORD = Buffer.from('"record":{"id":');

await runClient<IsolationReceiverInput, RowArrivals>(async ({ rows }, parent) => {
  const arrivals: Record<string, Float64Array> = {};
  let flaky = 0;
  const answers: Readonly<Record<string, (response: ServerResponse) => void>> = {
    '/ok': (response) => response.end(),
    '/taken': (response) => response.setHeader('content-type', 'application/json').end('{"data":[]}'),
    '/error': (response) => response.writeHead(500).end('out of order'),
    '/refusing': (response) => response.writeHead(400).end('not like this'),
    '/flaky': (response) => response.writeHead(flaky++ % 2 === 0 ? 503 : 200).end(),
    '/slow': (response) => void setTimeout(() => response.end(), SLOW_MS),
    '/lying': (response) => response.setHeader('content-type', 'application/json').end('{"data":[{"inde'),
    '/stalled': () => {},
  };
  const server = createServer((request, response) => {
    const path = request.url ?? '';
    if (!path.startsWith('/good/')) {
      request.resume().once('end', () => answers[path]!(response));
      return;
    }
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      response.end();
      note((arrivals[path.slice('/good/'.length)] ??= new Float64Array(rows)), Buffer.concat(chunks), monotonicMs());
    });
  });
  // Were connections dropped or closed here, their requests would come late by that, and not by what is measured.
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  server.listen({ port: 0, host: '127.0.0.1', backlog: BACKLOG });
  await once(server, 'listening');
  parent.tell('listening', { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
  await parent.told('end');
  return arrivals;
});

/** The first time counts. Parsing the body would cost more than taking it does. */
function note(at: Float64Array, body: Buffer, now: number): void {
  for (let found = body.indexOf(RECORD); found >= 0; found = body.indexOf(RECORD, found + RECORD.length)) {
    let id = 0;
    for (let i = found + RECORD.length; body[i]! >= 0x30 && body[i]! <= 0x39; i++) id = id * 10 + body[i]! - 0x30;
    at[id - 1] ||= now;
  }
}
