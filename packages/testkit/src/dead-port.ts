/** A loopback port that refuses connections for as long as the test holds it. */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { assert } from '@millrace/core/assert';

export interface DeadPort {
  readonly port: number;
  /** The port may be anybody's afterwards. */
  release(): Promise<void>;
}

/**
 * A port that was merely found free may be another test's server a moment later, and a client that keeps knocking on
 * it may even reach itself (the kernel can choose the very port it calls as the one it calls from). So the port is
 * taken, by an outgoing connection bound to it: nothing listens there, and the kernel gives it to nobody else.
 */
export async function holdDeadPort(wanted?: number): Promise<DeadPort> {
  const anchor = createServer((socket) => socket.on('error', () => {}));
  const to = await listen(anchor, 0);
  for (;;) {
    const port = wanted ?? (await freePort());
    const holder = connect({ host: '127.0.0.1', port: to, localAddress: '127.0.0.1', localPort: port });
    try {
      await once(holder, 'connect');
    } catch (cause) {
      if (wanted === undefined && (cause as NodeJS.ErrnoException).code === 'EADDRINUSE') continue;
      anchor.close();
      throw cause;
    }
    holder.on('error', () => {});
    return { port, release: () => release(holder, anchor) };
  }
}

async function release(holder: Socket, anchor: Server): Promise<void> {
  // By reset, so that no TIME_WAIT keeps the port from its next listener.
  if (!holder.destroyed) {
    const closed = once(holder, 'close');
    holder.resetAndDestroy();
    await closed;
  }
  if (anchor.listening) {
    anchor.close();
    await once(anchor, 'close');
  }
}

async function freePort(): Promise<number> {
  const probe = createServer();
  const port = await listen(probe, 0);
  probe.close();
  await once(probe, 'close');
  return port;
}

/** Listens on loopback and returns the port. */
export async function listen(server: Server, port: number): Promise<number> {
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert(typeof address === 'object' && address !== null, 'a listening TCP server has an address');
  return address.port;
}
