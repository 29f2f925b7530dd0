/** A remote store behind a network that a test can block. */
import { startProxy } from '@millrace/testkit/proxy';
import { REMOTE_BASIN, startRemoteStore } from './remote-store.ts';

export interface BlockableStore {
  readonly url: string;
  readonly basin: string;
  readonly token: string;
  count(stream: string): Promise<number>;
  /** Nothing gets through any more, and nothing says so. */
  block(): Promise<void>;
  unblock(): Promise<void>;
  remove(): Promise<void>;
}

export async function startBlockableStore(): Promise<BlockableStore> {
  const { store, url, stop } = await startRemoteStore();
  const proxy = await startProxy({ port: Number(new URL(url).port) });
  return {
    url: `http://${proxy.host}:${proxy.port}`,
    basin: REMOTE_BASIN,
    token: store.firstRootToken!,
    count: async (stream) => (await store.openStream(REMOTE_BASIN, stream, 'append')).tail.seqNum,
    block: () => proxy.blackHole(),
    unblock: () => proxy.pass(),
    async remove() {
      await proxy.close();
      await stop();
    },
  };
}
