/**
 * Many writers, each with a stream and a connection of its own and one append in flight: how many appends a second, and
 * how long each takes. The same sockets, payload and counting for our store and for a peer; a writer of ours is answered
 * when its append is on the disk.
 */
import net from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { ByteWriter } from '@millrace/core/byte-writer';
import { writeAppendRecord } from '@millrace/stream-store/record-writer';
import type { Usage } from './clients/client.ts';
import type { WritersServerInput, WritersServerResult } from './clients/writers-server.ts';
import { ExternalServer, findS2Cli } from './external-server.ts';
import type { Session } from './session.ts';
import { percentile, type Spread, spreadOf } from './statistics.ts';

export const WRITERS = [1, 100, 1000, 10_000] as const;

export const WRITER_SERVERS = {
  ours: 'ours: durable (fdatasync), protobuf over HTTP/1.1',
  lite: 's2 lite --local-root: durable, the same requests',
  'peer-memory': '@durable-streams/server: in memory, nothing durable',
  'peer-files': '@durable-streams/server: in files, fdatasynced',
} as const;
export type WriterServer = keyof typeof WRITER_SERVERS;

export interface WriterNumbers {
  readonly appendsPerSecond: Spread;
  readonly p50Ms: Spread;
  readonly p99Ms: Spread;
  readonly cpuMicrosPerAppend: Spread;
  readonly rssBytesMax: Spread;
}

export interface WritersNumbers {
  readonly runs: number;
  readonly bodyBytes: number;
  /** Of each server, by the number of writers. null: the server did not take them (see `failure`). */
  readonly servers: Readonly<Partial<Record<WriterServer, Readonly<Record<string, WriterNumbers | null>>>>>;
  readonly failures: readonly string[];
  /** Of S2's self-hosted server; null: it was not there. */
  readonly liteVersion: string | null;
}

interface Run extends Usage {
  readonly appendsPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly appends: number;
}

const BODY_BYTES = 256;
const BASIN = 'bench-writers';
const WARM_UP_MS = 1_500;
const MEASURE_MS = 4_000;
/** Connections opened at a time: more would be measured as the kernel's backlog. */
const OPENING_MAX = 200;
const READY_MS = 20_000;
/** First digit of a status that is a success. */
const TWO = 0x32;

export async function measureWriters(session: Session): Promise<WritersNumbers> {
  const { runs, scale } = session.settings;
  const measureMs = Math.max(500, MEASURE_MS * Math.min(1, scale));
  const counts = WRITERS.map((count) => Math.max(1, Math.round(count * Math.min(1, scale * 4))));
  const measured = new Map<string, Run[]>();
  const failures: string[] = [];
  const s2 = findS2Cli();
  const servers = (Object.keys(WRITER_SERVERS) as WriterServer[]).filter((server) => server !== 'lite' || s2 !== null);
  for (let i = 0; i < runs; i++) {
    for (const count of counts) {
      for (const server of servers) {
        const key = `${server} ${count}`;
        try {
          const run = await measureOne(session, server, count, measureMs);
          measured.set(key, [...(measured.get(key) ?? []), run]);
          session.progress(`writers ${i + 1}/${runs} ${key}: ${Math.round(run.appendsPerSecond)}/s`);
        } catch (error) {
          session.signal.throwIfAborted();
          const text = error instanceof Error ? error.message.split('\n', 1)[0]! : String(error);
          failures.push(`${key}: ${text}`);
          session.progress(`writers ${i + 1}/${runs} ${key}: ${text}`);
        }
      }
    }
  }
  const numbers = Object.fromEntries(
    servers.map((server) => [
      server,
      Object.fromEntries(counts.map((count) => [count, numbersOf(measured.get(`${server} ${count}`) ?? [])])),
    ]),
  );
  return { runs, bodyBytes: BODY_BYTES, servers: numbers, failures, liteVersion: s2?.version ?? null };
}

async function measureOne(session: Session, kind: WriterServer, count: number, measureMs: number): Promise<Run> {
  return await session.withDirectory(async (dir) => {
    const server = await startServer(session, kind, dir);
    try {
      const writers = Array.from({ length: count }, (_, i) =>
        kind === 'ours' || kind === 'lite' ? s2Writer(server.port, i) : peerWriter(server.port, i),
      );
      try {
        for (let i = 0; i < count; i += OPENING_MAX) {
          await Promise.all(writers.slice(i, i + OPENING_MAX).map((writer) => writer.open()));
        }
        for (const writer of writers) writer.start();
        await delay(WARM_UP_MS);
        server.startMeter();
        const latencies: number[] = [];
        for (const writer of writers) writer.measure(latencies);
        const startedAt = performance.now();
        await delay(measureMs);
        const seconds = (performance.now() - startedAt) / 1000;
        for (const writer of writers) writer.measure(null);
        const broken = writers.find((writer) => writer.error !== null);
        if (broken !== undefined) throw new Error(broken.error!);
        const usage = await server.used();
        if (latencies.length === 0) throw new Error('no append was answered');
        latencies.sort((a, b) => a - b);
        return {
          ...usage,
          appends: latencies.length,
          appendsPerSecond: latencies.length / seconds,
          p50Ms: percentile(latencies, 0.5),
          p99Ms: percentile(latencies, 0.99),
        };
      } finally {
        for (const writer of writers) writer.close();
      }
    } finally {
      await server.end();
    }
  });
}

interface Server {
  readonly port: number;
  startMeter(): void;
  used(): Usage | Promise<Usage>;
  end(): Promise<void>;
}

async function startServer(session: Session, kind: WriterServer, dir: string): Promise<Server> {
  if (kind === 'lite') {
    const { command } = findS2Cli()!;
    const args = (port: number) => ['lite', '--local-root', dir, '--port', String(port), '--no-dashboard'];
    const server = await ExternalServer.start(command, args, { RUST_LOG: 'error' }, session.signal);
    const made = await fetch(`http://127.0.0.1:${server.port}/v1/basins`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ basin: BASIN, config: { create_stream_on_append: true } }),
    });
    if (!made.ok) throw new Error(`s2 lite answered ${made.status}`);
    return server;
  }
  const input: WritersServerInput = { dir, basin: BASIN, inFiles: kind === 'peer-files' };
  const client = session.client<WritersServerResult>(kind === 'ours' ? 'store-server' : 'peer-server', input);
  const port = await client.event<number>('ready');
  return {
    port,
    startMeter: () => client.tell('start'),
    used: () => {
      client.tell('end');
      return client.result;
    },
    end: () => client.end(),
  };
}

function s2Writer(port: number, i: number): Writer {
  const records = new ByteWriter();
  writeAppendRecord(records, { headers: [], body: Buffer.alloc(BODY_BYTES, 'x') });
  const type = 'application/protobuf';
  const path = `/v1/streams/w${i}/records`;
  return new Writer(
    port,
    null,
    requestOf('POST', path, records.view(), type, `s2-basin: ${BASIN}\r\naccept: ${type}\r\n`),
  );
}

function peerWriter(port: number, i: number): Writer {
  const type = 'application/octet-stream';
  const path = `/bench/w${i}`;
  return new Writer(
    port,
    requestOf('PUT', path, Buffer.alloc(0), type),
    requestOf('POST', path, Buffer.alloc(BODY_BYTES, 'x'), type),
  );
}

function requestOf(method: string, path: string, body: Buffer, type: string, more = ''): Buffer {
  const head = `${method} ${path} HTTP/1.1\r\nhost: bench\r\ncontent-type: ${type}\r\ncontent-length: ${body.length}\r\n${more}\r\n`;
  return Buffer.concat([Buffer.from(head, 'latin1'), body]);
}

/** One connection with one append in flight. Answers are short and never pipelined: a chunk that ends one is all of it. */
class Writer {
  error: string | null = null;
  readonly #socket: net.Socket;
  readonly #create: Buffer | null;
  readonly #append: Buffer;
  #latencies: number[] | null = null;
  #sentAt = 0;
  #onAnswer: (() => void) | null = null;

  constructor(port: number, create: Buffer | null, append: Buffer) {
    this.#create = create;
    this.#append = append;
    this.#socket = net.connect({ port, host: '127.0.0.1', noDelay: true });
    this.#socket.on('error', (error) => this.#fail(error.message));
    this.#socket.on('close', () => this.#fail('the server closed the connection'));
    this.#socket.on('data', (bytes) => this.#answered(bytes));
  }

  /** Connected, the stream there, and one append answered. */
  async open(): Promise<void> {
    if (this.#create !== null) await this.#ask(this.#create);
    await this.#ask(this.#append);
  }

  start(): void {
    this.#onAnswer = () => {
      const now = performance.now();
      this.#latencies?.push(now - this.#sentAt);
      this.#sentAt = now;
      this.#socket.write(this.#append);
    };
    this.#sentAt = performance.now();
    this.#socket.write(this.#append);
  }

  measure(latencies: number[] | null): void {
    this.#latencies = latencies;
  }

  close(): void {
    this.#socket.removeAllListeners('close');
    this.#socket.destroy();
  }

  #ask(request: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#fail('no answer'), READY_MS);
      this.#onAnswer = () => {
        clearTimeout(timer);
        this.#onAnswer = null;
        if (this.error === null) resolve();
        else reject(new Error(this.error));
      };
      if (this.error === null) this.#socket.write(request);
      else this.#onAnswer();
    });
  }

  #answered(bytes: Buffer): void {
    if (bytes[9] === TWO) this.#onAnswer?.();
    else this.#fail(`answer ${bytes.toString('latin1', 9, 12)}`);
  }

  #fail(error: string): void {
    this.error ??= error;
    const told = this.#onAnswer;
    this.#latencies = null;
    told?.();
  }
}

function numbersOf(runs: readonly Run[]): WriterNumbers | null {
  if (runs.length === 0) return null;
  const spread = (value: (run: Run) => number) => spreadOf(runs.map(value));
  return {
    appendsPerSecond: spread((run) => run.appendsPerSecond),
    p50Ms: spread((run) => run.p50Ms),
    p99Ms: spread((run) => run.p99Ms),
    cpuMicrosPerAppend: spread((run) => (run.cpuSeconds * 1e6) / run.appends),
    rssBytesMax: spread((run) => run.rssBytesMax),
  };
}
