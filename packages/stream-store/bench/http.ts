/**
 * The store over loopback: `node packages/stream-store/bench/http.ts [--dir DIR] [--only name,...] [--profile]`.
 *
 * The server is a process of its own; this process is the client and speaks S2S without an SDK, so that the client
 * costs as little as possible. Prints one JSON object with the results. BENCH_NODE_FLAGS go to the server's Node.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import http2 from 'node:http2';
import net from 'node:net';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { ByteWriter } from '@millrace/core/byte-writer';
import { encodeFrame, FrameBufferPool, FrameDecoder } from '../src/http/s2s-frame.ts';
import { startHttpServer } from '../src/http/server.ts';
import { openLocalStore } from '../src/local-store.ts';
import { writeAppendRecord } from '../src/record-writer.ts';

const { values: options } = parseArgs({
  options: {
    serve: { type: 'string' },
    dir: { type: 'string' },
    only: { type: 'string' },
    profile: { type: 'boolean', default: false },
    mib: { type: 'string', default: '512' },
    seconds: { type: 'string', default: '4' },
  },
});

const BASIN = 'bench-basin';
const SESSION_HEADERS = { 'content-type': 's2s/proto', 's2-basin': BASIN };
const WINDOW_BYTES = 32 * 1_048_576;

async function serveUntilTold(dir: string): Promise<void> {
  const store = await openLocalStore({ dir });
  await store.createBasin(BASIN, {
    defaultStreamConfig: {},
    streamCipher: null,
    createStreamOnAppend: true,
    createStreamOnRead: true,
  });
  const server = await startHttpServer({ store, port: 0, auth: 'off', log: console.error });
  process.send?.({ port: server.port });
  process.on('message', (message) => {
    if (message === 'usage') process.send?.({ cpu: process.cpuUsage(), rss: process.memoryUsage().rss });
    else
      void server
        .close({ graceMs: 0 })
        .then(() => store.close())
        .then(() => process.exit(0));
  });
}

async function runAll(): Promise<void> {
  const dir = await mkdtemp(path.join(options.dir ?? tmpdir(), 'millrace-bench-http-'));
  const server = spawn(
    process.execPath,
    [
      // As bin/millrace.js starts it.
      ...(process.env.BENCH_NODE_FLAGS ?? '--max-semi-space-size=16').split(' '),
      ...(options.profile ? ['--cpu-prof'] : []),
      import.meta.filename,
      '--serve',
      dir,
    ],
    {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    },
  );
  const [{ port }] = (await once(server, 'message')) as [{ port: number }];
  const wanted = options.only?.split(',');
  const results: Record<string, unknown> = {};
  try {
    for (const [name, run] of Object.entries(BENCHES)) {
      if (wanted !== undefined && !wanted.includes(name)) continue;
      const before = await usage(server);
      const startedAt = performance.now();
      const result = await run(port);
      const after = await usage(server);
      const cpu = (after.cpu.user + after.cpu.system - before.cpu.user - before.cpu.system) / 1000;
      const share = cpu / (performance.now() - startedAt);
      results[name] = { ...result, serverCpuCores: round(share), serverRssMib: Math.round(after.rss / 1_048_576) };
      console.error(name, JSON.stringify(results[name]));
    }
  } finally {
    server.send('stop');
    await once(server, 'exit');
    await rm(dir, { recursive: true, force: true });
  }
  console.log(JSON.stringify({ node: process.version, cores: availableParallelism(), fsync: 'fdatasync', results }));
}

interface Usage {
  readonly cpu: NodeJS.CpuUsage;
  readonly rss: number;
}

async function usage(server: ChildProcess): Promise<Usage> {
  server.send('usage');
  const [message] = (await once(server, 'message')) as [Usage];
  return message;
}

function batch(records: number, bodyBytes: number): Buffer {
  const writer = new ByteWriter();
  const body = Buffer.alloc(bodyBytes, 'x');
  for (let i = 0; i < records; i++) writeAppendRecord(writer, { headers: [], body });
  return writer.view();
}

function connectH2(port: number): http2.ClientHttp2Session {
  const session = http2.connect(`http://127.0.0.1:${port}`, {
    settings: { initialWindowSize: WINDOW_BYTES },
    maxSessionMemory: 1024,
  });
  session.once('connect', () => session.setLocalWindowSize(WINDOW_BYTES));
  return session;
}

/** Calls `onFrame` for every frame that comes. */
function frames(stream: NodeJS.ReadableStream, onFrame: (decoder: FrameDecoder) => void): void {
  const decoder = new FrameDecoder(new FrameBufferPool());
  stream.on('data', (chunk: Buffer) => {
    decoder.push(chunk);
    while (decoder.next()) onFrame(decoder);
  });
}

const BENCHES: Record<string, (port: number) => Promise<Record<string, number>>> = {
  /** One writer of 128 B records in a session, each sent when the one before is acknowledged. */
  async serialSession(port) {
    const session = connectH2(port);
    const stream = session.request({ ':method': 'POST', ':path': '/v1/streams/serial/records', ...SESSION_HEADERS });
    const frame = encodeFrame(0, batch(1, 128));
    const latencies: number[] = [];
    let sentAt = performance.now();
    const done = Promise.withResolvers<void>();
    frames(stream, () => {
      latencies.push(performance.now() - sentAt);
      if (latencies.length === 3000) return done.resolve();
      sentAt = performance.now();
      stream.write(frame);
    });
    stream.write(frame);
    await done.promise;
    session.destroy();
    return percentiles(latencies.slice(500));
  },

  /** The same with a unary protobuf request over HTTP/1.1 each. */
  async serialUnary(port) {
    const latencies: number[] = [];
    await new UnaryWriter(port, 'serial-unary', batch(1, 128)).run(3000, latencies);
    return percentiles(latencies.slice(500));
  },

  /** 1,000 writers of 256 B records, each with its own session and stream, 100 sessions per connection. */
  async writersSession(port) {
    const frame = encodeFrame(0, batch(1, 256));
    const sessions = Array.from({ length: 10 }, () => connectH2(port));
    let acks = 0;
    let isOver = false;
    for (const [s, session] of sessions.entries()) {
      session.on('error', () => {});
      for (let i = 0; i < 100; i++) {
        const stream = session.request({
          ':method': 'POST',
          ':path': `/v1/streams/w${s * 100 + i}/records`,
          ...SESSION_HEADERS,
        });
        stream.on('error', () => {});
        frames(stream, () => {
          acks++;
          if (!isOver) stream.write(frame);
        });
        stream.write(frame);
      }
    }
    const perSecond = await steadyRate(() => acks);
    isOver = true;
    for (const session of sessions) session.destroy();
    return { appendsPerSecond: perSecond };
  },

  /** The same over HTTP/1.1: 1,000 connections with one chunked session each. */
  async writersSessionHttp1(port) {
    const frame = encodeFrame(0, batch(1, 256));
    const chunk = Buffer.concat([Buffer.from(`${frame.length.toString(16)}\r\n`), frame, Buffer.from('\r\n')]);
    let acks = 0;
    let isOver = false;
    const sockets = Array.from({ length: 1000 }, (_, i) => {
      const socket = net.connect(port, '127.0.0.1');
      socket.setNoDelay(true);
      socket.write(
        `POST /v1/streams/h${i}/records HTTP/1.1\r\nhost: x\r\ns2-basin: ${BASIN}\r\ncontent-type: s2s/proto\r\ntransfer-encoding: chunked\r\n\r\n`,
      );
      socket.write(chunk);
      let isHead = true;
      socket.on('data', (bytes: Buffer) => {
        if (isHead) {
          // The head comes alone: it is flushed before the first acknowledgement can be durable.
          isHead = false;
          if (bytes.subarray(-4).toString() === '\r\n\r\n') return;
        }
        acks++;
        if (!isOver) socket.write(chunk);
      });
      socket.on('error', () => {});
      return socket;
    });
    const perSecond = await steadyRate(() => acks);
    isOver = true;
    for (const socket of sockets) socket.destroy();
    return { appendsPerSecond: perSecond };
  },

  /** The same with a unary protobuf request per append. */
  async writersUnary(port) {
    const body = batch(1, 256);
    const writers = Array.from({ length: 1000 }, (_, i) => new UnaryWriter(port, `u${i}`, body));
    for (const writer of writers) void writer.run(Number.POSITIVE_INFINITY, []);
    const perSecond = await steadyRate(() => writers.reduce((sum, { answered }) => sum + answered, 0));
    for (const writer of writers) writer.stop();
    return { appendsPerSecond: perSecond };
  },

  /** One session with batches of a mebibyte (64 records), 16 in flight. */
  async writeLarge(port) {
    const total = Number(options.mib);
    const session = connectH2(port);
    const stream = session.request({ ':method': 'POST', ':path': '/v1/streams/large/records', ...SESSION_HEADERS });
    const frame = encodeFrame(0, batch(64, 16_384 - 16));
    let acks = 0;
    let sent = 0;
    const done = Promise.withResolvers<void>();
    const startedAt = performance.now();
    frames(stream, (decoder) => {
      if ((decoder.flag & 0x80) !== 0) throw new Error(decoder.payload.subarray(2).toString());
      if (++acks === total) return done.resolve();
      if (sent < total) {
        sent++;
        stream.write(frame);
      }
    });
    for (; sent < 16; sent++) stream.write(frame);
    await done.promise;
    const seconds = (performance.now() - startedAt) / 1000;
    session.destroy();
    return { mibPerSecond: round((total * 64 * (16_384 - 16)) / 1_048_576 / seconds) };
  },

  /** Reads what writeLarge wrote, over HTTP/2. */
  async readLarge(port) {
    const session = connectH2(port);
    const startedAt = performance.now();
    const stream = session.request({
      ':method': 'GET',
      ':path': '/v1/streams/large/records?seq_num=0&wait=0',
      ...SESSION_HEADERS,
    });
    let bytes = 0;
    stream.on('data', (chunk: Buffer) => (bytes += chunk.length));
    await once(stream, 'end');
    const seconds = (performance.now() - startedAt) / 1000;
    session.destroy();
    return { mib: round(bytes / 1_048_576), mibPerSecond: round(bytes / 1_048_576 / seconds) };
  },

  /** The same over HTTP/1.1. */
  async readLargeHttp1(port) {
    const socket = net.connect(port, '127.0.0.1');
    const startedAt = performance.now();
    socket.write(
      `GET /v1/streams/large/records?seq_num=0&wait=0 HTTP/1.1\r\nhost: x\r\ns2-basin: ${BASIN}\r\ncontent-type: s2s/proto\r\nconnection: close\r\n\r\n`,
    );
    let bytes = 0;
    socket.on('data', (chunk: Buffer) => (bytes += chunk.length));
    await once(socket, 'close');
    const seconds = (performance.now() - startedAt) / 1000;
    return { mib: round(bytes / 1_048_576), mibPerSecond: round(bytes / 1_048_576 / seconds) };
  },
};

/** Unary appends over one HTTP/1.1 connection, one after another. */
class UnaryWriter {
  answered = 0;
  readonly #socket: net.Socket;
  readonly #request: Buffer;

  constructor(port: number, stream: string, body: Buffer) {
    this.#socket = net.connect(port, '127.0.0.1');
    this.#socket.setNoDelay(true);
    this.#socket.on('error', () => {});
    const head = `POST /v1/streams/${stream}/records HTTP/1.1\r\nhost: x\r\ns2-basin: ${BASIN}\r\ncontent-type: application/protobuf\r\naccept: application/protobuf\r\ncontent-length: ${body.length}\r\n\r\n`;
    this.#request = Buffer.concat([Buffer.from(head), body]);
  }

  async run(count: number, latencies: number[]): Promise<void> {
    const done = Promise.withResolvers<void>();
    let sentAt = performance.now();
    this.#socket.on('data', (bytes: Buffer) => {
      if (bytes.subarray(9, 12).toString('latin1') !== '200') throw new Error(bytes.toString());
      this.answered++;
      if (count < Number.POSITIVE_INFINITY) latencies.push(performance.now() - sentAt);
      if (this.answered === count) {
        this.stop();
        return done.resolve();
      }
      sentAt = performance.now();
      this.#socket.write(this.#request);
    });
    this.#socket.write(this.#request);
    await done.promise;
  }

  stop(): void {
    this.#socket.destroy();
  }
}

/** Median of one-second rates, after a second of warming up. */
async function steadyRate(count: () => number): Promise<number> {
  await sleep(1500);
  const rates: number[] = [];
  for (let i = 0; i < Number(options.seconds); i++) {
    const [from, startedAt] = [count(), performance.now()];
    await sleep(1000);
    rates.push(((count() - from) * 1000) / (performance.now() - startedAt));
  }
  rates.sort((a, b) => a - b);
  return Math.round(rates[Math.floor(rates.length / 2)]!);
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function percentiles(latencies: number[]): Record<string, number> {
  latencies.sort((a, b) => a - b);
  const at = (share: number) => round(latencies[Math.floor(latencies.length * share)]!);
  return { p50Ms: at(0.5), p99Ms: at(0.99) };
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

if (options.serve !== undefined) await serveUntilTold(options.serve);
else await runAll();
