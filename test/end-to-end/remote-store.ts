/** Another Millrace's store, as a destination over the wire: one basin that makes streams when they are written to. */
import { rmSync } from 'node:fs';
import { startHttpServer } from '@millrace/stream-store/http/server';
import { type LocalStore, openLocalStore } from '@millrace/stream-store/local-store';
import { type AccessTokenScope, DEFAULT_BASIN_CONFIG } from '@millrace/stream-store/model';
import { testDirectory } from '@millrace/testkit/postgres';

export const REMOTE_BASIN = 'remote-basin';
const NONE = { read: false, write: false };

export interface RemoteStore {
  readonly store: LocalStore;
  readonly url: string;
  /** One that may do this in the basin, and nothing else. */
  token(ops: AccessTokenScope['ops']): Promise<string>;
  /** Ends it and removes its data. */
  stop(): Promise<void>;
}

export async function startRemoteStore(port = 0, dir = testDirectory('remote')): Promise<RemoteStore> {
  const store = await openLocalStore({ dir, log: () => {} });
  const http = await startHttpServer({ store, port });
  await store.ensureBasin(REMOTE_BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  return {
    store,
    url: http.url,
    token: (ops) =>
      store.issueAccessToken({
        id: `sink-${ops.join('-')}`,
        expiresAt: null,
        autoPrefixStreams: false,
        scope: {
          basins: { exact: REMOTE_BASIN },
          streams: { prefix: '' },
          accessTokens: null,
          opGroups: { account: NONE, basin: NONE, stream: NONE },
          ops,
        },
      }),
    async stop() {
      await http.close({ graceMs: 0 });
      await store.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
