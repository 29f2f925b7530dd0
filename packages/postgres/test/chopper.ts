import { connect as connectSocket, createServer } from 'node:net';
import { listen } from '@millrace/testkit/dead-port';

/** Passes everything on, to the client in pieces of the sizes that `pieces` gives, after gathering for some time. */
export async function startChopper(
  port: number,
  pieces: () => number,
  gatherMs = 0,
): Promise<{ port: number; close(): void }> {
  const server = createServer((client) => {
    const target = connectSocket(port, '127.0.0.1');
    client.setNoDelay(true);
    client.on('error', () => target.destroy());
    target.on('error', () => client.destroy());
    client.on('close', () => target.destroy());
    client.pipe(target);
    let queued = Buffer.alloc(0);
    const pump = () => {
      const size = Math.min(pieces(), queued.length);
      client.write(queued.subarray(0, size));
      queued = queued.subarray(size);
      if (queued.length > 0) setImmediate(pump);
    };
    target.on('data', (chunk) => {
      if (queued.length === 0) {
        if (gatherMs > 0) setTimeout(pump, gatherMs);
        else setImmediate(pump);
      }
      queued = Buffer.concat([queued, chunk]);
    });
    target.on('close', () => client.end());
  });
  const chosen = await listen(server, 0);
  return { port: chosen, close: () => server.close() };
}
