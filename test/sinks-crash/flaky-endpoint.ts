/**
 * An HTTP endpoint as they are: it takes its time, at times refuses what it is sent, and at times takes it and goes away
 * before it has said so.
 */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { seededRandom } from '@millrace/testkit/random';

export interface FlakyEndpoint {
  readonly port: number;
  /** Bodies that it took, in the order in which it took them. */
  readonly taken: readonly string[];
  /** Of those, the ones whose answer was lost: they may come again. */
  readonly unanswered: readonly string[];
  close(): Promise<void>;
}

const BUSY_MS_MAX = 15;
const REFUSED_SHARE = 0.05;
const UNANSWERED_SHARE = 0.03;

export async function startFlakyEndpoint(seed: number): Promise<FlakyEndpoint> {
  const random = seededRandom(seed);
  const taken: string[] = [];
  const unanswered: string[] = [];
  const server = createServer(async (request, response) => {
    const body = await buffer(request).catch(() => null);
    if (body === null) return;
    await delay(random.next() * BUSY_MS_MAX);
    if (random.chance(REFUSED_SHARE)) {
      response.writeHead(503).end();
      return;
    }
    const text = body.toString();
    taken.push(text);
    if (random.chance(UNANSWERED_SHARE)) {
      unanswered.push(text);
      request.socket.destroy();
    } else response.end();
  });
  server.on('connection', (socket) => socket.on('error', () => {}));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    taken,
    unanswered,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
