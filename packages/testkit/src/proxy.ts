/**
 * A TCP proxy on loopback that a test can turn into a bad network: it refuses, goes silent, slows down or cuts. The
 * port stays the same through all of it.
 */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { type DeadPort, holdDeadPort, listen } from './dead-port.ts';

export interface TcpProxy {
  readonly host: '127.0.0.1';
  readonly port: number;
  /** Open at present. */
  readonly connections: number;
  /** Bytes passed on since the start, both ways together. */
  readonly bytesPassed: number;
  /** Everything flows, also what a black hole held back. */
  pass(): Promise<void>;
  /** Cuts what is open; new connections are refused by the kernel. */
  refuse(): Promise<void>;
  /** Nothing more arrives on either side; new connections are accepted and stay silent. */
  blackHole(): Promise<void>;
  /** Nothing more arrives on what is open, which stays open; new connections are as the mode says. */
  swallow(): void;
  /** Every chunk waits this long before it goes on. */
  delay(ms: number): Promise<void>;
  /** Resets what is open. What comes next goes by the present mode. */
  cut(): void;
  /** Connections from now on go there; what is open is cut. */
  retarget(to: ProxyTarget): void;
  close(): Promise<void>;
}

interface Pair {
  readonly client: Socket;
  readonly target: Socket;
  swallowed: boolean;
}

export interface ProxyTarget {
  readonly host?: string;
  readonly port: number;
}

/** Starts in the mode `pass`. */
export async function startProxy(first: ProxyTarget): Promise<TcpProxy> {
  let target = first;
  const pairs = new Set<Pair>();
  let server: Server | null = null;
  let dead: DeadPort | null = null;
  let delayMs = 0;
  let bytesPassed = 0;
  // Resolves when the black hole ends; null outside of one.
  let hole: PromiseWithResolvers<void> | null = null;

  async function pump(from: Socket, to: Socket, pair: Pair): Promise<void> {
    try {
      for await (const chunk of from) {
        if (delayMs > 0) await delay(delayMs);
        while (hole !== null) await hole.promise;
        if (pair.swallowed) continue;
        if (to.destroyed) return;
        bytesPassed += (chunk as Buffer).length;
        if (!to.write(chunk as Buffer)) await drained(to);
      }
      while (hole !== null) await hole.promise;
      if (!pair.swallowed) to.end();
    } catch {
      await broken(pair);
    }
  }

  /** One side broke; so does the other, unless nothing gets through. */
  async function broken(pair: Pair): Promise<void> {
    while (hole !== null) await hole.promise;
    reset(pair);
  }

  function accept(client: Socket): void {
    const pair: Pair = {
      client,
      target: connect({ host: target.host ?? '127.0.0.1', port: target.port }),
      swallowed: false,
    };
    pairs.add(pair);
    let open = 2;
    for (const socket of [pair.client, pair.target]) {
      socket.setNoDelay(true);
      socket.on('error', () => void broken(pair));
      socket.once('close', () => --open === 0 && pairs.delete(pair));
    }
    void pump(pair.client, pair.target, pair);
    void pump(pair.target, pair.client, pair);
  }

  function reset(pair: Pair): void {
    if (!pair.client.destroyed) pair.client.resetAndDestroy();
    if (!pair.target.destroyed) pair.target.resetAndDestroy();
  }

  function cut(): void {
    for (const pair of pairs) reset(pair);
  }

  async function open(port: number): Promise<number> {
    await dead?.release();
    dead = null;
    hole?.resolve();
    hole = null;
    delayMs = 0;
    if (server !== null) return port;
    server = createServer({ allowHalfOpen: true }, accept);
    return listen(server, port);
  }

  async function shut(): Promise<void> {
    const listening = server;
    server = null;
    if (listening === null) return;
    const closed = once(listening, 'close');
    listening.close();
    cut();
    hole?.resolve();
    hole = null;
    await closed;
  }

  const port = await open(0);
  return {
    host: '127.0.0.1',
    port,
    get connections() {
      let count = 0;
      // What its client has ended is over, however long the other side takes to see that.
      for (const { client } of pairs) if (!client.readableEnded && !client.destroyed) count++;
      return count;
    },
    get bytesPassed() {
      return bytesPassed;
    },
    async pass() {
      await open(port);
    },
    async refuse() {
      await shut();
      dead ??= await holdDeadPort(port);
    },
    async blackHole() {
      await open(port);
      hole = Promise.withResolvers<void>();
    },
    async delay(ms) {
      await open(port);
      delayMs = ms;
    },
    swallow() {
      for (const pair of pairs) pair.swallowed = true;
    },
    cut,
    retarget(to) {
      target = to;
      cut();
    },
    async close() {
      await shut();
      await dead?.release();
      dead = null;
    },
  };
}

/** Or closed. What is not waited for any more is not listened to: a busy connection would gather listeners. */
async function drained(socket: Socket): Promise<void> {
  const over = new AbortController();
  const { signal } = over;
  await Promise.race([once(socket, 'drain', { signal }), once(socket, 'close', { signal })]).finally(() =>
    over.abort(),
  );
}
