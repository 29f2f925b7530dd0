import { once } from 'node:events';
import net from 'node:net';

/** A network between client and server that loses connections when it is told to. */
export class CuttingProxy {
  readonly #server: net.Server;
  readonly #pairs = new Set<readonly [net.Socket, net.Socket]>();
  /** Bytes from the server to the client that still pass; then the connections of that moment are lost. */
  answerBytesLeft = Number.POSITIVE_INFINITY;
  /** Connections lost so far, by `cut` or for want of bytes. */
  cuts = 0;
  /** Where new connections go. */
  port: number;

  private constructor(port: number) {
    this.port = port;
    this.#server = net.createServer((client) => {
      const upstream = net.connect(this.port, '127.0.0.1');
      const pair = [client, upstream] as const;
      this.#pairs.add(pair);
      for (const socket of pair) {
        socket.on('error', () => {});
        socket.on('close', () => {
          this.#pairs.delete(pair);
          client.destroy();
          upstream.destroy();
        });
      }
      client.pipe(upstream);
      upstream.on('data', (chunk: Buffer) => {
        this.answerBytesLeft -= chunk.length;
        if (this.answerBytesLeft >= 0) client.write(chunk);
        else {
          this.answerBytesLeft = Number.POSITIVE_INFINITY;
          this.cut();
        }
      });
    });
  }

  static async to(port: number): Promise<CuttingProxy> {
    const proxy = new CuttingProxy(port);
    proxy.#server.listen(0, '127.0.0.1');
    await once(proxy.#server, 'listening');
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }

  cut(): void {
    for (const [client, upstream] of this.#pairs) {
      this.cuts++;
      client.resetAndDestroy();
      upstream.resetAndDestroy();
    }
  }

  close(): void {
    this.cut();
    this.#server.close();
  }
}
