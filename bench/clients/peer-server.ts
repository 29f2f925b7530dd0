/**
 * The reference server of the Durable Streams protocol, as its package ships it: in memory, or in files that it syncs.
 * A peer of ours in shape (Node, HTTP, one process), not in what its answer promises.
 */
import { DurableStreamTestServer } from '@durable-streams/server';
import { runClient, startMeter } from './client.ts';
import type { WritersServerInput, WritersServerResult } from './writers-server.ts';

await runClient<WritersServerInput, WritersServerResult>(async ({ dir, inFiles }, parent) => {
  const server = new DurableStreamTestServer({ host: '127.0.0.1', port: 0, ...(inFiles && { dataDir: dir }) });
  const url = await server.start();
  parent.tell('ready', Number(new URL(url).port));
  await parent.told('start');
  const used = startMeter();
  await parent.told('end');
  // Its stop waits for connections that the writers hold until they have this result: the process' end does instead.
  return used();
});
