import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type EmbeddedPostgres, type StartOptions, startPostgres } from '@millrace/embedded-postgres/launcher';
import { processesOfServer, processMark } from '@millrace/embedded-postgres/process-table';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';

const root = process.getuid?.() === 0;
const linux = process.platform === 'linux';

let dir: string;
const servers: EmbeddedPostgres[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-launcher-`));
});

afterEach(async () => {
  for (const server of servers.splice(0)) await server.remove();
  rmSync(dir, { recursive: true, force: true });
});

async function start(options: Partial<StartOptions> = {}): Promise<EmbeddedPostgres> {
  const server = await startPostgres({ dir, settings: { fsync: 'off' }, ...options });
  servers.push(server);
  return server;
}

async function query(server: EmbeddedPostgres, text: string): Promise<unknown[][]> {
  const client = new pg.Client({ connectionString: server.url });
  await client.connect();
  try {
    return (await client.query({ text, rowMode: 'array' })).rows;
  } finally {
    await client.end();
  }
}

test('a server decodes logically, speaks UTF-8 and asks for the password', async () => {
  const server = await start();
  expect(await query(server, `SELECT current_setting('wal_level'), current_setting('server_encoding')`)).toEqual([
    ['logical', 'UTF8'],
  ]);
  expect(await query(server, 'SHOW server_version')).toEqual([[server.version]]);
  const stranger = { ...server, url: server.url.replace(server.password, 'wrong') };
  await expect(query(stranger, 'SELECT 1')).rejects.toMatchObject({ code: '28P01' });
});

test('what was written is there at the next start, with the same password and after a kill', async () => {
  const first = await start({ settings: {} });
  await query(first, 'CREATE TABLE kept AS SELECT 7 AS n');
  await first.kill();
  expect(processesOfServer(first.dataDir, null)).toEqual([]);
  await first.restart();
  expect(await query(first, 'SELECT n FROM kept')).toEqual([[7]]);
  await first.stop();
  await first.stop();
  expect(existsSync(first.socketDir)).toBe(false);

  const second = await start();
  expect(second.password).toBe(first.password);
  expect(await query(second, 'SELECT n FROM kept')).toEqual([[7]]);
  await second.stop();

  const fresh = await start({ fresh: true, password: 'given' });
  expect(fresh.password).toBe('given');
  await expect(query(fresh, 'SELECT n FROM kept')).rejects.toMatchObject({ code: '42P01' });
});

test('another password than the one the data was made with is refused', async () => {
  await (await start({ password: 'one' })).stop();
  await expect(start({ password: 'two' })).rejects.toMatchObject({ code: 'embedded_postgres_failed' });
});

test('a port in use is named', async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const { port } = other.address() as { port: number };
  await expect(start({ port })).rejects.toMatchObject({
    code: 'port_in_use',
    detail: expect.stringContaining(`${port}`),
  });
  other.close();
});

test('one directory has one server, even of one process', async () => {
  await start();
  await expect(start()).rejects.toMatchObject({ detail: expect.stringContaining(`Process ${process.pid} is running`) });
});

test('a platform without a package is named', async () => {
  await expect(start({ packageName: '@embedded-postgres/amiga-m68k' })).rejects.toMatchObject({
    code: 'embedded_postgres_unavailable',
    detail: expect.stringContaining('amiga'),
  });
});

test('a server that does not come up is quoted', async () => {
  await expect(start({ settings: { shared_buffers: 'plenty' } })).rejects.toMatchObject({
    code: 'embedded_postgres_failed',
    detail: expect.stringMatching(/invalid value for parameter "shared_buffers"/),
  });
});

test('a directory that cannot be one is named', async () => {
  writeFileSync(join(dir, 'file'), '');
  await expect(start({ dir: join(dir, 'file', 'below') })).rejects.toMatchObject({ code: 'embedded_postgres_failed' });
});

test('a start that was cut off leaves nothing that the next one stumbles over', async () => {
  mkdirSync(join(dir, 'data.partial', 'base'), { recursive: true });
  mkdirSync(join(dir, 'data'));
  writeFileSync(join(dir, 'data.password'), 'old');
  const server = await start();
  expect(await query(server, 'SELECT 1')).toEqual([[1]]);
});

test('a long path does not matter to the socket', async () => {
  const server = await start({ dir: join(dir, 'x'.repeat(100)) });
  const socket = join(server.socketDir, `.s.PGSQL.${server.port}`);
  expect(existsSync(socket)).toBe(true);
  expect(Buffer.byteLength(socket)).toBeLessThanOrEqual(103);
});

test.skipIf(!root)('a directory that only root may enter is served all the same (root only)', async () => {
  chmodSync(dir, 0o700);
  const server = await start({ dir: join(dir, 'below') });
  expect(await query(server, 'SELECT 1')).toEqual([[1]]);
  expect(lstatSync(join(dir, 'below', 'data')).isSymbolicLink()).toBe(true);

  // Deleted without remove(): the next such start clears up after it.
  await server.stop();
  rmSync(join(dir, 'below'), { recursive: true });
  const next = await start({ dir: join(dir, 'next') });
  expect(existsSync(server.dataDir)).toBe(false);
  await next.remove();
  expect(existsSync(next.dataDir)).toBe(false);
  expect(existsSync(join(dir, 'next'))).toBe(false);
});

test.skipIf(!root)('programs that only root may reach are copied, and their links made (root only)', async () => {
  const installed = dirname(
    dirname(createRequire(import.meta.url).resolve(`@embedded-postgres/${process.platform}-${process.arch}`)),
  );
  const locked = join(dir, 'locked');
  // Without links, as where install scripts are blocked.
  cpSync(installed, locked, { recursive: true, filter: (path) => !lstatSync(path).isSymbolicLink() });
  chmodSync(locked, 0o700);
  const server = await start({ dir: join(dir, 'server'), packageName: join(locked, 'dist', 'index.js') });
  expect(await query(server, 'SELECT 1')).toEqual([[1]]);
  await server.stop();

  const cache = join(tmpdir(), 'millrace-postgres-0');
  const copy = join(cache, readdirSync(cache).find((name) => name.startsWith('index.js-'))!);
  rmSync(join(copy, 'bin', 'initdb'));
  const again = await start({ dir: join(dir, 'again'), packageName: join(locked, 'dist', 'index.js') });
  expect(await query(again, 'SELECT 1')).toEqual([[1]]);
  rmSync(copy, { recursive: true });
});

/** A process that starts a server in `dir` and is then killed; returns the pid of the postmaster. */
async function startInKilledProcess(killWatchdog: boolean): Promise<number> {
  const launcher = new URL('../src/launcher.ts', import.meta.url).href;
  const source = `
    import { startPostgres } from ${JSON.stringify(launcher)};
    console.log((await startPostgres({ dir: ${JSON.stringify(dir)} })).pid);
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', source], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const pid = Number(String((await once(child.stdout, 'data'))[0]));
  if (killWatchdog) process.kill(watchdogOf(pid), 'SIGKILL');
  child.kill('SIGKILL');
  await once(child, 'exit');
  return pid;
}

function watchdogOf(postmaster: number): number {
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name) || !existsSync(`/proc/${name}/cmdline`)) continue;
    const words = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0');
    if (words.includes('millrace-postgres-watchdog') && words.includes(String(postmaster))) return Number(name);
  }
  throw new Error('there is no watchdog');
}

test('a server does not outlive the process that started it', async () => {
  const pid = await startInKilledProcess(false);
  await expect.poll(() => processMark(pid), { timeout: 30_000, interval: 10 }).toBeNull();
});

test.skipIf(!linux)(
  'a server left behind is stopped by the next start, which takes its data up (Linux only)',
  async () => {
    const old = await startInKilledProcess(true);
    expect(processMark(old)).not.toBeNull();
    const server = await start();
    expect(processMark(old)).toBeNull();
    expect(await query(server, 'SELECT 1')).toEqual([[1]]);
    expect(readFileSync(server.logFile, 'utf8')).toContain('received fast shutdown request');
  },
);
