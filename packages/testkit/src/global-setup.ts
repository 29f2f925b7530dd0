/**
 * Vitest's global setup: keeps the Postgres that all workers of a run share, one per major that is asked for. Workers
 * send a major over a loopback port and get an address; the first who asks makes that server start, so a run without
 * a database pays nothing. It also says where the many processes that tests start find each other's compiled sources.
 */
import { readdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { assert } from '@millrace/core/assert';
import { explain } from '@millrace/core/error';
import { processMark } from '@millrace/embedded-postgres/process-table';
import { removeSmallDisk } from './full-disk.ts';
import {
  BROKER_VARIABLE,
  type OwnPostgres,
  type ServerAddress,
  SHARED_SETTINGS,
  startOwnPostgres,
} from './postgres.ts';

/** Hundreds of short processes compile the same sources: with this, each starts in half the time. */
const COMPILE_CACHE = fileURLToPath(new URL('../../../node_modules/.cache/millrace-compiled', import.meta.url));

export async function setup(): Promise<() => Promise<void>> {
  // Every project of a run calls this; they share the servers of the first.
  if (process.env[BROKER_VARIABLE] !== undefined) return async () => {};
  removeLeftovers();
  // Node compares each entry with the source it is for, so an old one does no harm.
  process.env['NODE_COMPILE_CACHE'] ??= COMPILE_CACHE;
  const servers = new Map<number, Promise<OwnPostgres>>();
  const serverOf = (major: number): Promise<OwnPostgres> => {
    const starting = servers.get(major) ?? startOwnPostgres(SHARED_SETTINGS, major);
    servers.set(major, starting);
    return starting;
  };

  const broker = createServer({ allowHalfOpen: true }, async (socket) => {
    socket.on('error', () => {});
    const major = Number(await text(socket).catch(() => ''));
    const answer = await serverOf(major).then(
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
    delete process.env[BROKER_VARIABLE];
    for (const starting of servers.values()) await (await starting.catch(() => null))?.remove();
  };
}

/** Directories of test processes that were killed. */
function removeLeftovers(): void {
  for (const name of readdirSync(tmpdir())) {
    const pid = /^millrace-test-(\d+)-/.exec(name)?.[1];
    if (pid === undefined || processMark(Number(pid)) !== null) continue;
    const dir = join(tmpdir(), name);
    if (name.includes('-disk-')) removeSmallDisk(dir);
    else rmSync(dir, { recursive: true, force: true });
  }
}
