/** Ours, whole, with push sinks. */
import { type BenchServer, type BenchServerInput, startBenchServer } from './bench-server.ts';
import { runClient, type Usage } from './client.ts';

export interface PushInput extends BenchServerInput {
  /** Of all sinks together. */
  readonly messages: number;
}

export interface PushResult extends Usage {
  readonly endedAtMs: number;
}

const POLL_MS = 5;
const STALL_MS = 60_000;

await runClient<PushInput, PushResult>(async (input) => {
  const bench = await startBenchServer(input);
  await untilDelivered(bench, input.messages);
  const result = { endedAtMs: Date.now(), ...bench.used() };
  await bench.server.stop();
  return result;
});

async function untilDelivered({ server, lines }: BenchServer, messages: number): Promise<void> {
  const delivered = () =>
    server.pipelines
      .flatMap(({ deliveries }) => deliveries)
      .reduce((sum, { control }) => sum + (control?.push?.figures.delivered ?? 0), 0);
  let failure: unknown = null;
  server.done.catch((error: unknown) => (failure = error));
  let last = 0;
  let movedAt = performance.now();
  for (let now = delivered(); now < messages; now = delivered()) {
    if (failure !== null) throw failure;
    if (now !== last) movedAt = performance.now();
    else if (performance.now() - movedAt > STALL_MS) {
      throw new Error([`${now} of ${messages} messages were delivered. The server said:`, ...lines].join('\n'));
    }
    last = now;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}
