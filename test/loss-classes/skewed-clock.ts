/**
 * A connection to Postgres on which the server's clock is wrong: every time it sends while replicating is moved, and so is
 * its present time where a row has it in milliseconds.
 */
import { once } from 'node:events';
import { connect, createServer } from 'node:net';

const DATA_ROW = 0x44;
const COPY_DATA = 0x64;
const XLOG_DATA = 0x77;
const KEEPALIVE = 0x6b;
const BEGIN = 0x42;
const COMMIT = 0x43;
const STREAM_COMMIT = 0x63;

export interface SkewedServer {
  readonly port: number;
  /** Times moved so far. */
  readonly moved: number;
  close(): Promise<void>;
}

export async function startSkewedServer(target: number, skewMs: number): Promise<SkewedServer> {
  let moved = 0;
  const move = (frame: Buffer, at: number) => {
    frame.writeBigInt64BE(frame.readBigInt64BE(at) + BigInt(skewMs) * 1000n, at);
    moved++;
  };

  function moveNow(row: Buffer): void {
    const columns = row.readUInt16BE(5);
    for (let i = 0, at = 7; i < columns; i++) {
      const size = row.readInt32BE(at);
      at += 4;
      if (size < 0) continue;
      const text = row.toString('latin1', at, at + size);
      if (/^\d{13}$/.test(text) && Math.abs(Number(text) - Date.now()) < 60_000) {
        row.write(String(Number(text) + skewMs), at, 'latin1');
      }
      at += size;
    }
  }

  /** One message of the server, its type byte and length first. */
  function skew(frame: Buffer): void {
    if (frame[0] === DATA_ROW) moveNow(frame);
    if (frame[0] !== COPY_DATA) return;
    if (frame[5] === KEEPALIVE) move(frame, 14);
    if (frame[5] !== XLOG_DATA) return;
    move(frame, 22);
    if (frame[30] === BEGIN) move(frame, 39);
    if (frame[30] === COMMIT) move(frame, 48);
    if (frame[30] === STREAM_COMMIT) move(frame, 52);
  }

  const server = createServer((client) => {
    const upstream = connect(target, '127.0.0.1');
    client.on('error', () => upstream.destroy());
    upstream.on('error', () => client.destroy());
    client.on('close', () => upstream.destroy());
    upstream.on('close', () => client.end());
    client.pipe(upstream);
    let pending = Buffer.alloc(0);
    upstream.on('data', (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      let at = 0;
      while (pending.length - at >= 5 && pending.length - at > pending.readUInt32BE(at + 1)) {
        const next = at + 1 + pending.readUInt32BE(at + 1);
        skew(pending.subarray(at, next));
        at = next;
      }
      client.write(Buffer.from(pending.subarray(0, at)));
      pending = pending.subarray(at);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as { port: number }).port,
    get moved() {
      return moved;
    },
    async close() {
      server.close();
    },
  };
}
