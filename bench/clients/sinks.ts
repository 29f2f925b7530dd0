/** Ours, whole, with any number of sinks into the store of the process. */
import { type BenchServerInput, startBenchServer, untilDurable } from './bench-server.ts';
import { runClient, type Usage } from './client.ts';

export interface SinksInput extends BenchServerInput {
  /** Records of all streams together. */
  readonly records: number;
}

export interface SinksResult extends Usage {
  readonly endedAtMs: number;
}

await runClient<SinksInput, SinksResult>(async (input) => {
  const bench = await startBenchServer(input);
  await untilDurable(bench, input.records);
  const result = { endedAtMs: Date.now(), ...bench.used() };
  await bench.server.stop();
  return result;
});
