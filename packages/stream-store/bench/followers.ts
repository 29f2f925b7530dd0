/**
 * Many followers of one stream over HTTP/1.1: `node packages/stream-store/bench/followers.ts [--counts 1000,5000]
 * [--idle 10000] [--records 60] [--dir DIR]`.
 *
 * The server is a process of its own, and so are the followers (raw sockets: a client as cheap as can be). For S2S and
 * SSE, and each count: how long from before an append until a follower has the record (p50, p99), memory and file
 * descriptors of the server before, while they follow, and after they left. Then as many followers that get nothing but
 * heartbeats. Prints one JSON object.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { startHttpServer } from '../src/http/server.ts';
import { openLocalStore } from '../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';

const { values: options } = parseArgs({
  options: {
    role: { type: 'string', default: 'all' },
    dir: { type: 'string' },
    port: { type: 'string', default: '0' },
    count: { type: 'string', default: '0' },
    kind: { type: 'string', default: 's2s' },
    counts: { type: 'string', default: '1000,5000' },
    idle: { type: 'string', default: '10000' },
    records: { type: 'string', default: '60' },
  },
});
const BASIN = 'follow-basin';
const STREAM = 'followed';
/** Deliveries per second that are asked of the server in all: the rate of appends falls as followers get more. */
const DELIVERIES_PER_SEC = 10_000;
/** Of the time in a record's body, after an @. */
const DIGITS = 16;

function nowUs(): number {
  return Number(process.hrtime.bigint() / 1000n);
}

async function serve(): Promise<void> {
  const store = await openLocalStore({ dir: options.dir! });
  await store.createBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true, createStreamOnRead: true });
  const server = await startHttpServer({ store, port: 0, auth: 'off', log: console.error });
  process.on('message', (message) => {
    if (message === 'usage') {
      globalThis.gc?.();
      const cpu = process.cpuUsage();
      process.send!({
        rssMiB: Math.round(process.memoryUsage.rss() / 1_048_576),
        fds: readdirSync('/proc/self/fd').length - 1,
        cpuMs: Math.round((cpu.user + cpu.system) / 1000),
      });
      return;
    }
    void server
      .close({ graceMs: 0 })
      .then(() => store.close())
      .then(() => process.exit(0));
  });
  process.send!({ port: server.port });
}

/** Follows until told to stop; then says how long the records took. */
async function follow(): Promise<void> {
  const count = Number(options.count);
  const headers = options.kind === 'sse' ? 'accept: text/event-stream' : 'content-type: s2s/proto';
  const request = `GET /v1/streams/${STREAM}/records?tail_offset=0 HTTP/1.1\r\nhost: x\r\ns2-basin: ${BASIN}\r\n${headers}\r\n\r\n`;
  const took: number[] = [];
  const sockets: net.Socket[] = [];
  let started = 0;
  const ready = Promise.withResolvers<void>();
  const connect = () => {
    const socket = net.connect({ host: '127.0.0.1', port: Number(options.port), noDelay: true });
    sockets.push(socket);
    socket.write(request);
    let rest = '';
    let first = true;
    socket.on('data', (chunk: Buffer) => {
      if (first) {
        first = false;
        if (chunk.toString('latin1', 9, 12) !== '200') throw new Error(chunk.toString('latin1'));
        if (++started === count) ready.resolve();
      }
      const text = rest + chunk.toString('latin1');
      let at = text.indexOf('@');
      for (; at >= 0 && at + 1 + DIGITS <= text.length; at = text.indexOf('@', at + 1)) {
        took.push(nowUs() - Number(text.slice(at + 1, at + 1 + DIGITS)));
      }
      rest = at >= 0 ? text.slice(at) : '';
    });
    socket.on('error', (error) => {
      throw error;
    });
  };
  for (let i = 0; i < count; i++) {
    connect();
    // As fast as they are accepted, not all in one turn.
    if (i % 200 === 199) while (started < i - 1000) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await ready.promise;
  process.send!('ready');
  for (;;) {
    const [message] = (await once(process, 'message')) as [string];
    if (message === 'end') break;
    // Whatever is still on its way.
    const expected = Number(message);
    const deadline = performance.now() + 20_000;
    while (took.length < expected && performance.now() < deadline) await new Promise((r) => setTimeout(r, 20));
    took.sort((a, b) => a - b);
    process.send!({
      received: took.length,
      p50Ms: (took[took.length >> 1] ?? 0) / 1000,
      p99Ms: (took[Math.floor(took.length * 0.99)] ?? 0) / 1000,
      maxMs: (took.at(-1) ?? 0) / 1000,
    });
  }
  for (const socket of sockets) socket.destroy();
  process.disconnect();
}

interface Usage {
  readonly rssMiB: number;
  readonly fds: number;
  readonly cpuMs: number;
}

function child(role: string, args: readonly string[]): ChildProcess {
  const flags = ['--expose-gc', import.meta.filename, '--role', role, ...args];
  // As bin/millrace.js starts it.
  return spawn(process.execPath, ['--max-semi-space-size=16', ...flags], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
}

async function ask<T>(process: ChildProcess, message: string): Promise<T> {
  process.send(message);
  const [answer] = (await once(process, 'message')) as [T];
  return answer;
}

/** When the connections are gone, which takes the kernel and the server a moment. */
async function usageWithout(server: ChildProcess, fds: number): Promise<Usage> {
  const deadline = performance.now() + 20_000;
  for (;;) {
    const usage = await ask<Usage>(server, 'usage');
    if (usage.fds <= fds || performance.now() > deadline) return usage;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function append(agent: http.Agent, port: number): Promise<void> {
  const body = JSON.stringify({ records: [{ body: `@${String(nowUs()).padStart(DIGITS, '0')}${'x'.repeat(200)}` }] });
  const request = http.request({
    host: '127.0.0.1',
    port,
    agent,
    method: 'POST',
    path: `/v1/streams/${STREAM}/records`,
    headers: { 's2-basin': BASIN, 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
  });
  request.end(body);
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  response.resume();
  await once(response, 'end');
  if (response.statusCode !== 200) throw new Error(`append answered ${response.statusCode}`);
}

async function measure(server: ChildProcess, port: number, kind: string, count: number, records: number) {
  const before = await ask<Usage>(server, 'usage');
  const followers = child('follow', ['--port', String(port), '--count', String(count), '--kind', kind]);
  await once(followers, 'message');
  const following = await ask<Usage>(server, 'usage');
  const agent = new http.Agent({ keepAlive: true });
  const everyMs = (count * 1000) / DELIVERIES_PER_SEC;
  const start = performance.now();
  for (let i = 0; i < records; i++) {
    const wait = start + i * everyMs - performance.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    await append(agent, port);
  }
  const delivered = await ask<Record<string, number>>(followers, String(count * records));
  const worked = await ask<Usage>(server, 'usage');
  const seconds = (performance.now() - start) / 1000;
  agent.destroy();
  followers.send('end');
  await once(followers, 'exit');
  const after = await usageWithout(server, before.fds + 1);
  return {
    kind,
    followers: count,
    records,
    seconds,
    expected: count * records,
    ...delivered,
    before,
    following,
    worked,
    after,
  };
}

async function runAll(): Promise<void> {
  const dir = mkdtempSync(path.join(options.dir ?? tmpdir(), 'millrace-followers-'));
  const server = child('serve', ['--dir', dir]);
  try {
    const [{ port }] = (await once(server, 'message')) as [{ port: number }];
    const agent = new http.Agent();
    for (let i = 0; i < 200; i++) await append(agent, port);
    const runs: unknown[] = [];
    for (const count of options.counts.split(',').map(Number)) {
      for (const kind of ['s2s', 'sse']) runs.push(await measure(server, port, kind, count, Number(options.records)));
    }
    const idle = await measure(server, port, 'sse', Number(options.idle), 0);
    console.log(JSON.stringify({ cores: availableParallelism(), runs, idle }, null, 1));
  } finally {
    if (server.exitCode === null) {
      server.send('end');
      await once(server, 'exit');
    }
    rmSync(dir, { recursive: true, force: true });
  }
}

if (options.role === 'serve') await serve();
else if (options.role === 'follow') await follow();
else await runAll();
