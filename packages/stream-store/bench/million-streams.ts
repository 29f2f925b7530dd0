/**
 * A million streams in one store: `node packages/stream-store/bench/million-streams.ts [--streams N] [--dir DIR]`.
 *
 * The store runs in processes of its own: one creates the streams and measures on the way, one opens the directory again,
 * one serves it. Prints one JSON object: creations per second (in process and over HTTP/2), growth of the resident
 * memory, latency of an append with 1,000, 100,000 and all streams, the longest time the event loop stood still while
 * checkpoints were written, time of a list page, time and memory of a restart.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import http2 from 'node:http2';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { ByteWriter } from '@millrace/core/byte-writer';
import { scanAppendRecords } from '../src/append-scan.ts';
import { startHttpServer } from '../src/http/server.ts';
import { type LocalStore, openLocalStore } from '../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';
import { writeAppendRecord } from '../src/record-writer.ts';

const { values: options } = parseArgs({
  options: {
    role: { type: 'string', default: 'all' },
    dir: { type: 'string' },
    streams: { type: 'string', default: '1000000' },
  },
});
const STREAMS = Number(options.streams);
const BASIN = 'million-basin';
const CREATORS = 256;
const MiB = 1_048_576;

function nameOf(i: number): string {
  // Not in order: names come as they come.
  return `tenant/${String(Math.imul(i, 0x9e3779b1) >>> 0).padStart(10, '0')}/events`;
}

function rssMiB(): number {
  globalThis.gc?.();
  return Math.round(process.memoryUsage.rss() / MiB);
}

/** Where the resident memory is, in MiB: V8's heap, and buffers outside of it. */
function memory(): Record<string, number> {
  const { heapTotal, heapUsed, arrayBuffers } = process.memoryUsage();
  return {
    heapTotal: Math.round(heapTotal / MiB),
    heapUsed: Math.round(heapUsed / MiB),
    buffers: Math.round(arrayBuffers / MiB),
  };
}

function appendInput(bodyBytes: number) {
  const out = new ByteWriter(bodyBytes + 64);
  writeAppendRecord(out, { headers: [], body: Buffer.alloc(bodyBytes, 0x61) });
  const records = out.take();
  return { records, scan: scanAppendRecords(records) };
}

/** Microseconds at p50 and p99: one append at a time, each to another stream of the first `known`. */
async function appendLatency(store: LocalStore, known: number): Promise<{ p50Us: number; p99Us: number }> {
  const input = appendInput(256);
  const took: number[] = [];
  for (let i = 0; i < 3000; i++) {
    const start = performance.now();
    const stream = await store.openStream(BASIN, nameOf(Math.imul(i, 7919) % known), 'append');
    await stream.append(input);
    took.push((performance.now() - start) * 1000);
  }
  took.sort((a, b) => a - b);
  return { p50Us: Math.round(took[took.length >> 1]!), p99Us: Math.round(took[Math.floor(took.length * 0.99)]!) };
}

async function appendsPerSec(store: LocalStore, known: number): Promise<number> {
  const input = appendInput(256);
  const start = performance.now();
  let next = 0;
  await Promise.all(
    Array.from({ length: 256 }, async () => {
      while (next < 50_000) {
        const stream = await store.openStream(BASIN, nameOf(Math.imul(next++, 7919) % known), 'append');
        await stream.append(input);
      }
    }),
  );
  return Math.round((50_000 * 1000) / (performance.now() - start));
}

function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

async function create(store: LocalStore, from: number, to: number): Promise<number> {
  const start = performance.now();
  let next = from;
  await Promise.all(
    Array.from({ length: CREATORS }, async () => {
      while (next < to) await store.createStream(BASIN, nameOf(next++), {});
    }),
  );
  return ((to - from) * 1000) / (performance.now() - start);
}

function listPageMs(store: LocalStore): number {
  const start = performance.now();
  for (let i = 0; i < 50; i++) store.listStreams(BASIN, { startAfter: nameOf(i * 97), limit: 1000 });
  return (performance.now() - start) / 50;
}

function checkpoints(dir: string): string {
  return readdirSync(path.join(dir, 'main'))
    .filter((name) => name.startsWith('checkpoint'))
    .sort()
    .join();
}

/** Appends until a checkpoint was written in the midst of it. */
async function underCheckpoint(store: LocalStore, dir: string): Promise<Record<string, number>> {
  const input = appendInput(16 * 1024);
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const before = checkpoints(dir);
  const took: number[] = [];
  let done = false;
  const deadline = performance.now() + 60_000;
  await Promise.all(
    Array.from({ length: 32 }, async (_, w) => {
      for (let i = w; !done && performance.now() < deadline; i += 32) {
        const start = performance.now();
        const stream = await store.openStream(BASIN, nameOf(Math.imul(i, 7919) % STREAMS), 'append');
        await stream.append(input);
        took.push(performance.now() - start);
        if (i % 256 === 0 && checkpoints(dir) !== before) done = true;
      }
    }),
  );
  delay.disable();
  took.sort((a, b) => a - b);
  return {
    appends: took.length,
    checkpointSeen: done ? 1 : 0,
    appendP50Ms: took[took.length >> 1]!,
    appendP99Ms: took[Math.floor(took.length * 0.99)]!,
    appendMaxMs: took.at(-1)!,
    loopDelayP99Ms: delay.percentile(99) / 1e6,
    loopDelayMaxMs: delay.max / 1e6,
  };
}

async function creator(dir: string): Promise<Record<string, unknown>> {
  const store = await openLocalStore({ dir });
  await store.createBasin(BASIN, { ...DEFAULT_BASIN_CONFIG });
  // Warm: code compiled, buffers and V8's young generation grown to what a busy process has with any number of streams.
  await create(store, 0, 1000);
  await appendsPerSec(store, 1000);
  const rssBefore = rssMiB();
  const memoryBefore = memory();
  const at: Record<string, unknown> = {};
  at['1000'] = { ...(await appendLatency(store, 1000)), perSec: await appendsPerSec(store, 1000) };
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  let peak = 0;
  const timer = setInterval(() => (peak = Math.max(peak, process.memoryUsage.rss())), 50);
  const middle = Math.min(100_000, STREAMS);
  const first = await create(store, 1000, middle);
  const rssMiddle = rssMiB();
  at[middle] = { ...(await appendLatency(store, middle)), perSec: await appendsPerSec(store, middle) };
  const cpuBefore = cpuMs();
  const second = await create(store, middle, STREAMS);
  const createCpuUs = ((cpuMs() - cpuBefore) * 1000) / Math.max(1, STREAMS - middle);
  delay.disable();
  clearInterval(timer);
  const rssAfter = rssMiB();
  const memoryAfter = memory();
  at[STREAMS] = { ...(await appendLatency(store, STREAMS)), perSec: await appendsPerSec(store, STREAMS) };
  const listMs = listPageMs(store);
  const checkpoint = await underCheckpoint(store, dir);
  const rssWorked = rssMiB();
  const closing = performance.now();
  await store.close();
  return {
    createsPerSec: [Math.round(first), Math.round(second)],
    createCpuUs,
    createLoopDelayMaxMs: delay.max / 1e6,
    rssMiB: { before: rssBefore, at100k: rssMiddle, after: rssAfter, peak: Math.round(peak / MiB), worked: rssWorked },
    rssGrowthMiB: rssAfter - rssBefore,
    memoryMiB: { before: memoryBefore, after: memoryAfter },
    append: at,
    listPageMs: listMs,
    checkpoint,
    closeMs: Math.round(performance.now() - closing),
  };
}

async function opener(dir: string): Promise<Record<string, unknown>> {
  const rssBefore = rssMiB();
  const cpuBefore = cpuMs();
  const start = performance.now();
  const store = await openLocalStore({ dir });
  const openMs = Math.round(performance.now() - start);
  const openCpuMs = Math.round(cpuMs() - cpuBefore);
  const rawRss = Math.round(process.memoryUsage.rss() / MiB);
  const rssAfter = rssMiB();
  const append = await appendLatency(store, STREAMS);
  const listMs = listPageMs(store);
  const rssWorked = rssMiB();
  await store.close();
  return {
    openMs,
    openCpuMs,
    rssMiB: { before: rssBefore, raw: rawRss, after: rssAfter, worked: rssWorked },
    append,
    listPageMs: listMs,
  };
}

async function serve(dir: string): Promise<void> {
  const store = await openLocalStore({ dir });
  const server = await startHttpServer({ store, port: 0, auth: 'off', log: console.error });
  process.send?.({ port: server.port });
  for (;;) {
    const [message] = (await once(process, 'message')) as [string];
    if (message === 'end') break;
    process.send?.(cpuMs());
  }
  await server.close({ graceMs: 0 });
  await store.close();
  process.exit(0);
}

function run(role: string, dir: string): ChildProcess {
  const flags = ['--expose-gc', import.meta.filename, '--role', role, '--dir', dir, '--streams', String(STREAMS)];
  // As bin/millrace.js starts it.
  return spawn(process.execPath, ['--max-semi-space-size=16', ...flags], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
}

async function resultOf(role: string, dir: string): Promise<unknown> {
  const child = run(role, dir);
  const [result] = (await Promise.race([once(child, 'message'), once(child, 'exit')])) as [unknown];
  if (typeof result !== 'object') throw new Error(`${role} ended with ${String(result)}`);
  await once(child, 'exit');
  return result;
}

/** Over HTTP/2, 256 creations at a time on 4 connections. */
async function httpCreations(dir: string): Promise<Record<string, unknown>> {
  const child = run('serve', dir);
  const [{ port }] = (await once(child, 'message')) as [{ port: number }];
  const sessions = Array.from({ length: 4 }, () => http2.connect(`http://127.0.0.1:${port}`));
  const total = 40_000;
  let next = 0;
  const cpuOfServer = async () => {
    child.send('cpu');
    const [cpu] = (await once(child, 'message')) as [number];
    return cpu;
  };
  const cpuBefore = await cpuOfServer();
  const start = performance.now();
  await Promise.all(
    Array.from({ length: CREATORS }, async (_, c) => {
      const session = sessions[c % sessions.length]!;
      while (next < total) {
        const request = session.request({
          ':method': 'POST',
          ':path': '/v1/streams',
          's2-basin': BASIN,
          'content-type': 'application/json',
        });
        request.end(`{"stream":"http/${next++}"}`);
        const [headers] = (await once(request, 'response')) as [http2.IncomingHttpHeaders];
        if (Number(headers[':status']) !== 201) throw new Error(`creation answered ${headers[':status']}`);
        request.resume();
        await once(request, 'end');
      }
    }),
  );
  const perSec = Math.round((total * 1000) / (performance.now() - start));
  const serverCpuUs = (((await cpuOfServer()) - cpuBefore) * 1000) / total;
  for (const session of sessions) session.close();
  child.send('end');
  await once(child, 'exit');
  return { createsPerSec: perSec, serverCpuUs };
}

if (options.role === 'all') {
  const dir = mkdtempSync(path.join(options.dir ?? tmpdir(), 'millrace-million-'));
  try {
    const created = await resultOf('create', dir);
    const opened = await resultOf('open', dir);
    const http = await httpCreations(dir);
    console.log(JSON.stringify({ streams: STREAMS, cores: availableParallelism(), created, opened, http }, null, 2));
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
} else if (options.role === 'serve') {
  await serve(options.dir!);
} else {
  const result = options.role === 'create' ? await creator(options.dir!) : await opener(options.dir!);
  process.send!(result, () => process.disconnect());
}
