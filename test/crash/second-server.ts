/**
 * Another Millrace, a stream store alone, that the campaign's remote sink writes to over the wire: killed with SIGKILL at
 * random moments and started again on its data, always behind the same address, whose connections are cut besides.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { processHarness } from '@millrace/testkit/process-harness';
import { startProxy } from '@millrace/testkit/proxy';
import type { Random } from '@millrace/testkit/random';

const CLI = fileURLToPath(new URL('../../packages/cli/bin/millrace.js', import.meta.url));
const NONE = { read: false, write: false };
/** Of the process, on a machine that has much else to do. */
const STARTED_MS = 120_000;
const OPS = ['append', 'check-tail', 'read'] as const;

export interface SecondServer {
  /** Where the sink finds it, whatever happened to it. */
  readonly endpoint: string;
  /** What the sink may do there: append, and as the seed decides, also read. */
  readonly token: string;
  /** May do anything. */
  readonly rootToken: string;
  readonly dataDir: string;
  readonly kills: number;
  /** Something may happen to it within the time. */
  disturb(lifeMs: number): Promise<void>;
  /** Ends it for good. */
  stop(): Promise<void>;
}

export async function startSecondServer(dir: string, basin: string, random: Random): Promise<SecondServer> {
  const dataDir = join(dir, 'second');
  const rootToken = `mr_${'0123456789abcdef'.repeat(4)}`;
  const store = await openLocalStore({ dir: dataDir, rootToken });
  await store.ensureBasin(basin, {
    defaultStreamConfig: {},
    streamCipher: null,
    createStreamOnAppend: true,
    createStreamOnRead: false,
  });
  const token = await store.issueAccessToken({
    id: 'sink',
    expiresAt: null,
    autoPrefixStreams: false,
    scope: {
      basins: { exact: basin },
      streams: { prefix: '' },
      accessTokens: null,
      opGroups: { account: NONE, basin: NONE, stream: NONE },
      ops: random.chance(0.5) ? OPS : OPS.slice(0, 1),
    },
  });
  await store.close();
  const child = processHarness({ args: [CLI, 'store', '--data', dataDir, '--port', '0'] });
  const port = async () => {
    child.start();
    const line = await child.waitForLine(/listening/, { timeoutMs: STARTED_MS });
    return Number(/http:\/\/[^ :]+:(\d+)/.exec(line)![1]);
  };
  const proxy = await startProxy({ port: await port() });
  let kills = 0;
  return {
    endpoint: `http://127.0.0.1:${proxy.port}`,
    token,
    rootToken,
    dataDir,
    get kills() {
      return kills;
    },
    async disturb(lifeMs) {
      const at = lifeMs * random.next();
      const kill = random.chance(0.4);
      const cut = random.chance(0.4);
      await new Promise((resolve) => setTimeout(resolve, at));
      if (cut) proxy.cut();
      if (!kill) return;
      kills++;
      if (!child.running) throw new Error(`the second server ended by itself:\n${child.transcript()}`);
      await child.kill('SIGKILL');
      proxy.retarget({ port: await port() });
    },
    async stop() {
      await child.kill('SIGTERM');
      await proxy.close();
    },
  };
}
