/** Ours, whole, under a steady load; with `follow`, a reader in the same process notes when records are readable. */
import type { Stream } from '@millrace/stream-store/store';
import { type Arrivals, monotonicMs } from './arrivals.ts';
import { type BenchServerInput, startBenchServer } from './bench-server.ts';
import { runClient, type Usage } from './client.ts';

export interface LatencyServerInput extends BenchServerInput {
  /** How many records will come. */
  readonly rows: number;
  readonly follow: boolean;
}

export interface LatencyServerReady {
  readonly url: string;
  readonly token: string;
}

export interface LatencyServerResult extends Usage {
  readonly arrivals: Arrivals | null;
}

await runClient<LatencyServerInput, LatencyServerResult>(async (input, parent) => {
  const bench = await startBenchServer(input);
  const stream = bench.streams[0]!;
  parent.tell('ready', { url: bench.server.url, token: bench.token } satisfies LatencyServerReady);
  const arrivals = input.follow ? await follow(stream, input.rows) : null;
  await parent.told('end');
  const result = { ...bench.used(), arrivals };
  await bench.server.stop();
  return result;
});

async function follow(stream: Stream, rows: number): Promise<Arrivals> {
  const arrivals: { ends: number[]; atMs: number[] } = { ends: [], atMs: [] };
  const { signal } = new AbortController();
  for (let seqNum = 0; seqNum < rows; ) {
    const slice = await stream.read(seqNum, { countMax: 1000, meteredBytesMax: 1 << 20 });
    if (slice === null) {
      await stream.waitBeyond(seqNum, signal);
      continue;
    }
    seqNum = slice.firstSeqNum + slice.count;
    arrivals.ends.push(seqNum);
    arrivals.atMs.push(monotonicMs());
    slice.release?.();
  }
  return arrivals;
}
