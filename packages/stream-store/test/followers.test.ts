import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { READ_SLICE_BYTES } from '../src/http/limits.ts';
import { type HttpServerOptions, startHttpServer } from '../src/http/server.ts';
import { TAIL_RING_BYTES_MAX } from '../src/limits.ts';
import { type LocalStore, openLocalStore } from '../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';
import type { Stream, StreamStore } from '../src/store.ts';
import { readSession, recordsPath } from './s2s-client.ts';
import { askHttp1, type Served } from './serve.ts';
import { EventReader } from './sse-client.ts';
import { HeldClock, input } from './store-rig.ts';

// Followers over HTTP that are many, slow, behind, or whose stream changes under them.

const BASIN = 'follow-basin';
const HEADERS = { 's2-basin': BASIN };
const MiB = 1_048_576;
/** Linux shows a process its own. */
const DESCRIPTORS = '/proc/self/fd';

interface Following extends Served {
  readonly store: LocalStore;
  readonly clock: HeldClock;
  /** Bytes that the store gave to readers over HTTP so far. */
  readonly handedOut: () => number;
  /** Reads of theirs that the store has not answered. */
  readonly underWay: () => number;
}

async function serve(options: Partial<HttpServerOptions> = {}): Promise<Following> {
  const dir = await mkdtemp(path.join(tmpdir(), 'millrace-followers-'));
  const clock = new HeldClock();
  const store = await openLocalStore({ dir, clock, segmentBytes: 4 * MiB });
  await store.createBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  const reads: Reads = { handedOut: 0, underWay: 0 };
  const counting = counted(store, reads);
  const heartbeat = { minMs: 40, maxMs: 60 };
  const server = await startHttpServer({ store: counting, port: 0, auth: 'off', heartbeat, ...options });
  const stop = async () => {
    await server.close({ graceMs: 0 });
    await store.close();
    await rm(dir, { recursive: true, force: true });
  };
  onTestFinished(stop);
  return {
    store,
    server,
    dir,
    clock,
    port: server.port,
    url: server.url,
    stop,
    handedOut: () => reads.handedOut,
    underWay: () => reads.underWay,
  };
}

interface Reads {
  handedOut: number;
  underWay: number;
}

/** The store, with a look at what its readers are given. */
function counted(store: LocalStore, reads: Reads): StreamStore {
  return new Proxy(store, {
    get(target, key) {
      const value = Reflect.get(target, key, target);
      if (typeof value !== 'function') return value;
      if (key !== 'openStream') return value.bind(target);
      return async (...args: Parameters<StreamStore['openStream']>) =>
        countedStream(await target.openStream(...args), reads);
    },
  });
}

function countedStream(stream: Stream, reads: Reads): Stream {
  return new Proxy(stream, {
    get(target, key) {
      const value = Reflect.get(target, key, target);
      if (key !== 'read') return typeof value === 'function' ? value.bind(target) : value;
      return async (...args: Parameters<Stream['read']>) => {
        reads.underWay++;
        try {
          const slice = await target.read(...args);
          reads.handedOut += slice?.records.length ?? 0;
          return slice;
        } finally {
          reads.underWay--;
        }
      };
    },
  });
}

const BATCH = Array.from({ length: 8 }, (_, i) => `${i}${'x'.repeat(120_000)}`);

/** An SSE reader that can stop taking anything. Remembers the sequence numbers and the order of pings and batches. */
class SlowReader {
  readonly seqNums: number[] = [];
  readonly order: string[] = [];
  #response: http.IncomingMessage | null = null;

  constructor({ port }: Following, query: string) {
    const headers = { accept: 'text/event-stream', ...HEADERS };
    const request = http.request({ port, path: recordsPath('s', query), headers, agent: false }, (response) => {
      this.#response = response;
      response.setEncoding('latin1');
      let text = '';
      response.on('data', (chunk: string) => {
        text += chunk;
        for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
          this.#event(text.slice(0, end));
          text = text.slice(end + 2);
        }
      });
      response.on('error', () => {});
    });
    request.on('error', () => {});
    request.end();
    onTestFinished(() => {
      request.destroy();
    });
  }

  #event(text: string): void {
    const live = text.includes('"tail":') && text.startsWith('event: batch');
    this.order.push(text.startsWith('event: ping') ? 'ping' : live ? 'live' : 'behind');
    for (const [, seqNum] of text.matchAll(/"seq_num":(\d+),"timestamp":\d+,"body"/g))
      this.seqNums.push(Number(seqNum));
  }

  pause(): void {
    this.#response!.pause();
  }

  resume(): void {
    this.#response!.resume();
  }

  leave(): void {
    this.#response!.destroy();
  }
}

describe('a follower', () => {
  it('that takes nothing has a bounded part of the stream in memory, catches up from disk, and is live again', async () => {
    const served = await serve();
    const stream = await served.store.openStream(BASIN, 's', 'append');
    const reader = new SlowReader(served, 'seq_num=0');
    await vi.waitFor(() => expect(reader.order).toContain('ping'), { timeout: 40_000 });
    await stream.append(input(BATCH));
    await vi.waitFor(() => expect(reader.order).toContain('live'), { timeout: 40_000 });
    reader.pause();
    // The kernel takes some megabytes for both ends of the connection; then the server must stop reading.
    let still = 0;
    for (let appended = 1; still < 3; appended++) {
      const before = served.handedOut();
      for (let i = 0; i < 4; i++) await stream.append(input(BATCH));
      for (let turns = 0; turns < 20; turns++) await new Promise((resolve) => setImmediate(resolve));
      still = served.handedOut() === before ? still + 1 : 0;
      expect(appended).toBeLessThan(30);
    }
    const stoppedAt = served.handedOut();
    for (let i = 0; i < 16; i++) await stream.append(input(BATCH));
    expect(served.handedOut()).toBe(stoppedAt);
    const tail = stream.tail.seqNum;
    const batchBytes = (await stream.read(0, { countMax: 8, meteredBytesMax: MiB }))!.records.length;
    // Far behind what memory keeps for followers.
    expect((tail / 8) * batchBytes - stoppedAt).toBeGreaterThan(TAIL_RING_BYTES_MAX + READ_SLICE_BYTES);
    const seen = reader.order.length;
    reader.resume();
    await vi.waitFor(() => expect(reader.seqNums.length).toBe(tail), { timeout: 40_000 });
    await vi.waitFor(() => expect(reader.order.at(-1)).toBe('ping'), { timeout: 40_000 });
    await stream.append(input(['again']));
    await vi.waitFor(() => expect(reader.order.at(-1)).not.toBe('behind'), { timeout: 40_000 });
    await vi.waitFor(() => expect(reader.seqNums.length).toBe(tail + 1), { timeout: 40_000 });
    expect(reader.seqNums).toEqual(Array.from({ length: tail + 1 }, (_, i) => i));
    // It lost its place at the tail, and was told when it was back there.
    const rejoined = reader.order.slice(seen);
    expect(rejoined).toContain('behind');
    expect(rejoined.lastIndexOf('behind')).toBeLessThan(rejoined.indexOf('ping', rejoined.lastIndexOf('behind')));
    expect(rejoined.findLast((event) => event !== 'ping')).toBe('live');
  });

  it('is one of many that take nothing: together they have a bounded part in memory, and lose nothing by it', async () => {
    const bound = 2 * MiB;
    const served = await serve({ readMemoryBytesMax: bound });
    const stream = await served.store.openStream(BASIN, 's', 'append');
    // Records larger than what is given at a time when memory is short.
    for (let i = 0; i < 8; i++) await stream.append(input(BATCH));
    const readers = Array.from({ length: 24 }, () => {
      const reader = readSession(served, BASIN, 's', 'seq_num=0&wait=0', {});
      reader.stream.pause();
      return reader;
    });
    const inMemory = async () => {
      const { text } = await askHttp1(served, '/metrics');
      return Number(/^millrace_http_read_memory_bytes (\d+)$/m.exec(text)![1]);
    };
    // Everybody has been given something and waits. A read under way counts with all that it may find.
    await vi.waitFor(() => expect(served.handedOut()).toBeGreaterThan(readers.length * 100_000), { timeout: 40_000 });
    for (let before = -1; before !== served.handedOut() || served.underWay() > 0; ) {
      before = served.handedOut();
      for (let turns = 0; turns < 200; turns++) await new Promise((resolve) => setImmediate(resolve));
    }
    const held = await inMemory();
    expect(held).toBeGreaterThan(bound / 2);
    // A record for each of those that came when there was no more.
    expect(held).toBeLessThan(bound + readers.length * 130_000);
    for (const reader of readers) reader.stream.resume();
    for (const reader of readers) {
      await reader.until(() => reader.ended);
      expect(reader.records.map(({ seqNum }) => seqNum)).toEqual(Array.from({ length: 64 }, (_, i) => i));
    }
    expect(await inMemory()).toBe(0);
  });

  it('whose next records are trimmed goes on behind them', async () => {
    const served = await serve();
    const stream = await served.store.openStream(BASIN, 's', 'append');
    await stream.append(input(['a']));
    const session = readSession(served, BASIN, 's', 'seq_num=0', {});
    await session.until(() => session.records.length === 1);
    // Both before the follower has a turn: what it waits for is gone when it looks.
    const appended = stream.append(input(['b', 'c', 'd', { command: 'trim', trimTo: 3n }]));
    await appended;
    await session.until(() => session.records.some(({ seqNum }) => seqNum === 4));
    expect(session.records.map(({ seqNum }) => seqNum)).toEqual([0, 3, 4]);
  });

  it('whose records expire while it is away goes on with the first that is left', async () => {
    const served = await serve();
    await served.store.createStream(BASIN, 's', { retentionSecs: 100 });
    const stream = await served.store.openStream(BASIN, 's', 'append');
    await stream.append(input(['a', 'b']));
    const session = readSession(served, BASIN, 's', 'seq_num=0', {});
    await session.until(() => session.records.length === 2);
    served.clock.nowMs += 101_000;
    const late = readSession(served, BASIN, 's', 'seq_num=0', {});
    await stream.append(input(['c']));
    await session.until(() => session.records.length === 3);
    await late.until(() => late.records.length === 1);
    expect(session.records.map(({ body }) => body)).toEqual(['a', 'b', 'c']);
    expect(late.records.map(({ seqNum }) => seqNum)).toEqual([2]);
  });

  it('is told when its stream is deleted, in the way of its session', async () => {
    const served = await serve();
    await served.store.createStream(BASIN, 's', {});
    const frames = readSession(served, BASIN, 's', 'seq_num=0', {});
    const events = new EventReader(served, 's', 'seq_num=0', HEADERS);
    await frames.until(() => frames.frames.length > 0);
    await vi.waitFor(() => expect(events.events.length).toBeGreaterThan(0), { timeout: 40_000 });
    await served.store.deleteStream(BASIN, 's');
    await frames.until(() => frames.ended);
    await vi.waitFor(() => expect(events.ended).toBe(true), { timeout: 40_000 });
    expect(frames.terminal?.body).toMatchObject({ code: 'stream_deletion_pending' });
    expect(events.events.at(-1)).toMatchObject({ event: 'error' });
    expect(events.events.at(-1)!.data).toContain('stream_deletion_pending');
  });

  it('gets heartbeats at their pace although records keep coming in between, and none too many', async () => {
    const served = await serve();
    const stream = await served.store.openStream(BASIN, 's', 'append');
    const session = readSession(served, BASIN, 's', 'tail_offset=0', {});
    await session.until(() => session.frames.length > 0);
    for (let i = 0; i < 20; i++) {
      await stream.append(input([`${i}`]));
      await session.until(() => session.records.length === i + 1);
    }
    const heartbeats = () => session.batches.filter(({ records }) => records.length === 0).length;
    const before = heartbeats();
    const start = performance.now();
    await session.until(() => heartbeats() >= before + 3);
    // Three of 40 to 60 ms, one after another.
    expect(performance.now() - start).toBeGreaterThan(70);
  });
});

it.skipIf(!existsSync(DESCRIPTORS))(
  'hundreds of followers come, get every record and leave, and nothing of them stays',
  {
    timeout: 60_000,
  },
  async () => {
    const served = await serve();
    const stream = await served.store.openStream(BASIN, 's', 'append');
    await stream.append(input(['first']));
    const descriptors = async () => (await readdir(DESCRIPTORS)).length;
    const before = await descriptors();
    const readers = Array.from({ length: 300 }, () => new SlowReader(served, 'tail_offset=0'));
    await vi.waitFor(() => expect(readers.every(({ order }) => order.length > 0)).toBe(true), { timeout: 40_000 });
    for (let i = 0; i < 5; i++) await stream.append(input([`record ${i}`]));
    const wanted = [1, 2, 3, 4, 5];
    await vi.waitFor(() => expect(readers.every(({ seqNums }) => seqNums.length === 5)).toBe(true), {
      timeout: 40_000,
    });
    for (const reader of readers) expect(reader.seqNums).toEqual(wanted);
    expect(await descriptors()).toBeGreaterThan(before + 500);
    for (const reader of readers) reader.leave();
    await vi.waitFor(async () => expect(await descriptors()).toBeLessThanOrEqual(before + 2), { timeout: 40_000 });
  },
);
