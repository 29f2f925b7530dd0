/** Ours, whole, whose sinks cannot be reached: captures until it is told to end. */
import { type BenchServerInput, startBenchServer } from './bench-server.ts';
import { runClient, type Usage } from './client.ts';

await runClient<BenchServerInput, Usage>(async (input, parent) => {
  const bench = await startBenchServer(input);
  parent.tell('ready');
  await Promise.race([parent.told('end'), bench.server.done]);
  const result = bench.used();
  await bench.server.stop();
  return result;
});
