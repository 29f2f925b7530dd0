/** Another store, behind a network that a test can block. */
import { rmSync } from 'node:fs';
import { startHttpServer } from '@millrace/stream-store/http/server';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { testDirectory } from '@millrace/testkit/postgres';
import { startProxy } from '@millrace/testkit/proxy';
import { BASIN } from './millrace.ts';

export interface RemoteStore {
  readonly url: string;
  readonly basin: string;
  readonly token: string;
  count(stream: string): Promise<number>;
  /** Nothing gets through any more, and nothing says so. */
  block(): Promise<void>;
  unblock(): Promise<void>;
  remove(): Promise<void>;
}

export async function startRemoteStore(): Promise<RemoteStore> {
  const dir = testDirectory('remote');
  const store = await openLocalStore({ dir });
  const http = await startHttpServer({ store, port: 0 });
  const proxy = await startProxy({ port: http.port });
  await store.ensureBasin(BASIN, {
    defaultStreamConfig: {},
    streamCipher: null,
    createStreamOnAppend: true,
    createStreamOnRead: true,
  });
  return {
    url: `http://${proxy.host}:${proxy.port}`,
    basin: BASIN,
    token: store.firstRootToken!,
    count: async (stream) => (await store.openStream(BASIN, stream, 'read')).tail.seqNum,
    block: () => proxy.blackHole(),
    unblock: () => proxy.pass(),
    async remove() {
      await proxy.close();
      await http.close({ graceMs: 0 });
      await store.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
