/**
 * Vitest's global setup: keeps the Postgres that all workers of a run share. Workers ask for its address over a
 * loopback port; the first who asks makes it start, so a run without a database pays nothing.
 */
import { readdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert } from '@millrace/core/assert';
import { explain } from '@millrace/core/error';
import { processMark } from '@millrace/embedded-postgres/process-table';
import {
  BROKER_VARIABLE,
  type OwnPostgres,
  type ServerAddress,
  SHARED_SETTINGS,
  startOwnPostgres,
} from './postgres.ts';

export async function setup(): Promise<() => Promise<void>> {
  removeLeftovers();
  let starting: Promise<OwnPostgres> | null = null;

  const broker = createServer(async (socket) => {
    socket.on('error', () => {});
    starting ??= startOwnPostgres(SHARED_SETTINGS);
    const answer = await starting.then(
      ({ server: { host, port, user, password, socketDir } }): ServerAddress => ({
        host,
        port,
        user,
        password,
        socketDir,
      }),
      (error) => ({ failed: explain(error) }),
    );
    socket.end(JSON.stringify(answer));
  });
  await new Promise<void>((listening) => broker.listen(0, '127.0.0.1', listening));
  const address = broker.address();
  assert(typeof address === 'object' && address !== null, 'a listening TCP server has an address');
  process.env[BROKER_VARIABLE] = String(address.port);

  return async () => {
    broker.close();
    await (await starting?.catch(() => null))?.remove();
  };
}

/** Directories of test processes that were killed. */
function removeLeftovers(): void {
  for (const name of readdirSync(tmpdir())) {
    const pid = /^millrace-test-(\d+)-/.exec(name)?.[1];
    if (pid === undefined || processMark(Number(pid)) !== null) continue;
    rmSync(join(tmpdir(), name), { recursive: true, force: true });
  }
}
