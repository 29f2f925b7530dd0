/** Where webhooks are measured into: answers every POST, and counts the messages by path. A GET tells how many. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { runClient } from './client.ts';

/** In every message of both sides, once. Parsing them would cost more than sending does. */
const MARK = Buffer.from('"action":"insert"');

await runClient<object, never>(async (_input, parent) => {
  const counts = new Map<string, number>();
  const server = createServer((request, response) => {
    const path = request.url ?? '';
    if (request.method === 'GET') {
      response.end(String(counts.get(path) ?? 0));
      return;
    }
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const body = Buffer.concat(chunks);
      let count = counts.get(path) ?? 0;
      for (let at = body.indexOf(MARK); at >= 0; at = body.indexOf(MARK, at + MARK.length)) count++;
      counts.set(path, count);
      response.end();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  parent.tell('listening', { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
  // Until the parent ends it.
  return await new Promise<never>(() => {});
});
