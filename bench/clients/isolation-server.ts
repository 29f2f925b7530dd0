/** Ours, whole, with good sinks and others, under a steady load: what it uses meanwhile, and when records are readable. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { Stream } from '@millrace/stream-store/store';
import { monotonicMs } from './arrivals.ts';
import { type BenchServer, type BenchServerInput, startBenchServer } from './bench-server.ts';
import { runClient, type Usage } from './client.ts';
import type { RowArrivals } from './isolation-receiver.ts';

export interface IsolationServerInput extends BenchServerInput {
  /** Rows are numbered from 1 to this. */
  readonly rows: number;
}

/** What the process used in a stretch. */
export interface StretchUsage {
  readonly cores: number;
  /** Of them, that of the thread that everything but functions, files and compression runs in. */
  readonly mainThreadCores: number;
  readonly loopDelayP99Ms: number;
  readonly loopDelayMaxMs: number;
  /** At its end. */
  readonly rssBytes: number;
  /** Of V8's heap, and outside of it, that is in use or not collected yet. */
  readonly heapBytes: number;
  readonly bufferBytes: number;
  /** That it wrote for its operator. */
  readonly logLines: number;
}

/** The rows that came up to now are with these sinks. */
export interface Drain {
  readonly sinks: readonly string[];
  readonly rows: number;
}

export interface IsolationServerResult extends Usage {
  readonly arrivals: RowArrivals;
  /** By push sink, at the end: messages that are not done, and requests that failed. */
  readonly pending: Readonly<Record<string, number>>;
  readonly failed: Readonly<Record<string, number>>;
  /** What it said last, of sinks that were in trouble. */
  readonly lines: readonly string[];
}

const POLL_MS = 10;
const STALL_MS = 60_000;
/** At one of a millisecond the timer itself takes some hundredths of a core. */
const LOOP_RESOLUTION_MS = 10;

/** The parent says begin:<name>, end:<name> and drain:<name>, and is told usage:<name> and drained:<name>. */
export type Stretch = string;

await runClient<IsolationServerInput, IsolationServerResult>(async (input, parent) => {
  const bench = await startBenchServer(input);
  const following = new AbortController();
  const local = input.sinks.filter(({ push }) => push === undefined);
  const arrivals: Record<string, Float64Array> = {};
  for (const [i, { name }] of local.entries()) {
    arrivals[name] = new Float64Array(input.rows);
    void follow(bench.streams[i]!, arrivals[name], following.signal);
  }
  parent.tell('ready');
  let over = false;
  const measuring = (async () => {
    for (let stretch = 0; !over; stretch++) {
      const drain = await parent.told<Drain>(`drain:${stretch}`);
      await untilWith(bench, local, drain);
      parent.tell(`drained:${stretch}`);
      await parent.told(`begin:${stretch}`);
      const used = meter(bench);
      await parent.told(`end:${stretch}`);
      parent.tell(`usage:${stretch}`, used());
    }
  })();
  await Promise.race([parent.told('end'), measuring]);
  over = true;
  following.abort();
  const figures = bench.server.pipelines
    .flatMap(({ deliveries }) => deliveries)
    .flatMap(({ name, control }) => (control?.push == null ? [] : [[name, control.push.figures] as const]));
  const pending = Object.fromEntries(figures.map(([name, figure]) => [name, figure.pending]));
  const failed = Object.fromEntries(figures.map(([name, figure]) => [name, figure.failed + figure.outages]));
  const result = { ...bench.used(), arrivals, pending, failed, lines: [...bench.lines] };
  await bench.server.stop();
  return result;
});

/** A stream of this process' store: one record a row, in the order of their numbers. */
async function follow(stream: Stream, at: Float64Array, signal: AbortSignal): Promise<void> {
  for (let seqNum = 0; seqNum < at.length && !signal.aborted; ) {
    const slice = await stream.read(seqNum, { countMax: 1000, meteredBytesMax: 1 << 20 });
    if (slice === null) {
      await stream.waitBeyond(seqNum, signal);
      continue;
    }
    seqNum = slice.firstSeqNum + slice.count;
    at.fill(monotonicMs(), slice.firstSeqNum, seqNum);
  }
}

async function untilWith(
  bench: BenchServer,
  local: readonly { readonly name: string }[],
  { sinks, rows }: Drain,
): Promise<void> {
  const { server, streams, lines } = bench;
  const delivered = (name: string): number => {
    const stream = local.findIndex((one) => one.name === name);
    if (stream >= 0) return streams[stream]!.tail.seqNum;
    const deliveries = server.pipelines.flatMap((pipeline) => pipeline.deliveries);
    return deliveries.find((one) => one.name === name)?.control?.push?.figures.delivered ?? 0;
  };
  let failure: unknown = null;
  server.done.catch((error: unknown) => (failure = error));
  let last = -1;
  let movedAt = performance.now();
  for (;;) {
    const counts = sinks.map(delivered);
    if (counts.every((count) => count >= rows)) return;
    const now = counts.reduce((sum, count) => sum + count, 0);
    if (failure !== null) throw failure;
    if (now !== last) movedAt = performance.now();
    else if (performance.now() - movedAt > STALL_MS) {
      throw new Error(
        [`The sinks stay at ${counts.join(', ')} of ${rows} rows. The server said:`, ...lines].join('\n'),
      );
    }
    last = now;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function meter(bench: BenchServer): () => StretchUsage {
  const loop = monitorEventLoopDelay({ resolution: LOOP_RESOLUTION_MS });
  loop.enable();
  const before = process.cpuUsage();
  const mainBefore = process.threadCpuUsage();
  const beganAt = performance.now();
  const lines = bench.linesSaid();
  return () => {
    const { user, system } = process.cpuUsage(before);
    const main = process.threadCpuUsage(mainBefore);
    const micros = (performance.now() - beganAt) * 1000;
    const { rss, heapUsed, arrayBuffers } = process.memoryUsage();
    loop.disable();
    return {
      cores: (user + system) / micros,
      mainThreadCores: (main.user + main.system) / micros,
      // What it tells is the time between two turns of a timer of that length.
      loopDelayP99Ms: loop.percentile(99) / 1e6 - LOOP_RESOLUTION_MS,
      loopDelayMaxMs: loop.max / 1e6 - LOOP_RESOLUTION_MS,
      rssBytes: rss,
      heapBytes: heapUsed,
      bufferBytes: arrayBuffers,
      logLines: bench.linesSaid() - lines,
    };
  };
}
