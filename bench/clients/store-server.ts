/** Our stream store alone behind HTTP, in a directory of its own; every append is fdatasynced before it is answered. */
import { startHttpServer } from '@millrace/stream-store/http/server';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { DEFAULT_BASIN_CONFIG } from '@millrace/stream-store/model';
import { runClient, startMeter } from './client.ts';
import type { WritersServerInput, WritersServerResult } from './writers-server.ts';

await runClient<WritersServerInput, WritersServerResult>(async ({ dir, basin }, parent) => {
  const store = await openLocalStore({ dir });
  await store.createBasin(basin, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  const server = await startHttpServer({ store, port: 0, auth: 'off', log: () => {} });
  parent.tell('ready', server.port);
  await parent.told('start');
  const used = startMeter();
  await parent.told('end');
  const result = used();
  await server.close({ graceMs: 0 });
  await store.close();
  return result;
});
