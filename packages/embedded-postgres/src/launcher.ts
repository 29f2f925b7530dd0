/**
 * Starts a real Postgres server from npm, as any user including root, in a directory of the caller's:
 *
 *   <dir>/data          the data directory (a link, when the user Postgres runs as cannot enter <dir>)
 *   <dir>/postgres.log  what the server says
 *   <dir>/password      of the user `postgres`, made at first start
 *   <dir>/owner         which process started it
 *
 * A server never outlives the process that started it for long: a watchdog (watchdog.ts) stops it when that process is
 * gone, in whatever way; and should even that have failed, the next start in the same directory stops the old server.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { type Binaries, findBinaries, ownDirectory } from './binaries.ts';
import { processesOfServer, processMark, signal } from './process-table.ts';
import { canEnter, type User, unprivilegedUser } from './unprivileged.ts';
import { startWatchdog } from './watchdog.ts';

const START_TIMEOUT_MS = 60_000; // Crash recovery of a large backlog takes its time.
const STOP_TIMEOUT_MS = 15_000; // A fast stop waits for walsenders whose client may be frozen.
const POLL_MS = 4;
const PORT_ATTEMPTS_MAX = 10;
const LOG_BYTES_MAX = 16 * 1024 * 1024;
const LOG_TAIL_BYTES = 4096;
const SOCKET_PATH_BYTES_MAX = 103; // sun_path: 107 usable bytes on Linux, 103 on macOS.

export interface StartOptions {
  /** Holds data directory and log; made if missing. One server per directory. */
  readonly dir: string;
  /** 0 or absent: a free one. */
  readonly port?: number;
  /** Server settings, over wal_level=logical and the server's own defaults (so fsync is on). */
  readonly settings?: Readonly<Record<string, string>>;
  /** Of the user `postgres`, set when the data directory is made. Absent: a random one, kept in the directory. */
  readonly password?: string;
  /** Throw away what the directory holds. Otherwise its data is taken up again, with crash recovery if need be. */
  readonly fresh?: boolean;
  /** Other server programs than those of this project's package for this platform. */
  readonly packageName?: string;
  /** The folder whose node_modules holds the package: how another major version is had. */
  readonly packageFolder?: string | undefined;
  /** Variables of the server's environment, over the few it gets; none of the caller's own are passed on. */
  readonly environment?: Readonly<Record<string, string>>;
}

export interface EmbeddedPostgres {
  readonly host: '127.0.0.1';
  readonly port: number;
  readonly user: 'postgres';
  readonly password: string;
  readonly database: 'postgres';
  /** With user and password. */
  readonly url: string;
  /** Of the postmaster; another one after restart(). */
  readonly pid: number;
  readonly version: string;
  readonly dataDir: string;
  readonly socketDir: string;
  readonly logFile: string;
  /** `fast` ends sessions and writes a checkpoint, `immediate` leaves the work to crash recovery. Idempotent. */
  stop(mode?: 'fast' | 'immediate'): Promise<void>;
  /** SIGKILL of every process of the server. Resolves when all are gone. restart() then recovers as after a crash. */
  kill(): Promise<void>;
  /** Stops at once and deletes the directory, wherever its data lies. */
  remove(): Promise<void>;
  /** Stops if running and starts again on the same port. */
  restart(): Promise<void>;
}

/** One start of the server. */
interface Run {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly ended: Promise<void>;
}

export async function startPostgres(options: StartOptions): Promise<EmbeddedPostgres> {
  try {
    return await start(options);
  } catch (cause) {
    // What is left without a code is the file system refusing: no rights, no space, a file where a folder should be.
    if ((cause as NodeJS.ErrnoException).syscall === undefined) throw cause;
    throw new MillraceError('embedded_postgres_failed', { detail: `${(cause as Error).message}.`, cause });
  }
}

async function start(options: StartOptions): Promise<EmbeddedPostgres> {
  const user = unprivilegedUser(resolve(options.dir, 'data'));
  const binaries = findBinaries({ name: options.packageName, folder: options.packageFolder }, user);
  const dir = resolve(options.dir);
  mkdirSync(dir, { recursive: true });
  const dataDir = placeData(dir, user);
  claim(dir, dataDir);
  await endStaleServer(dataDir);
  if (options.fresh === true) rmSync(dataDir, { recursive: true, force: true });
  const password = existsSync(join(dataDir, 'PG_VERSION'))
    ? knownPassword(dir, options.password)
    : initialise(dir, dataDir, binaries, user, options.password);

  const logFile = join(dir, 'postgres.log');
  if ((statSync(logFile, { throwIfNoEntry: false })?.size ?? 0) > LOG_BYTES_MAX) truncateSync(logFile);
  const socketDir = placeSocket(dir, dataDir, user);
  const server: Server = {
    binaries,
    user,
    dataDir,
    socketDir,
    logFile,
    settings: options.settings ?? {},
    environment: options.environment ?? {},
  };

  let { run, port } = await runOnPort(server, options.port ?? 0);

  async function stop(mode: 'fast' | 'immediate' = 'fast'): Promise<void> {
    await end(run, dataDir, mode);
    rmSync(socketDir, { recursive: true, force: true });
    if (ownerOf(dir) === markOfSelf()) rmSync(join(dir, 'owner'), { force: true });
  }

  return {
    host: '127.0.0.1',
    user: 'postgres',
    password,
    database: 'postgres',
    version: binaries.version,
    dataDir,
    socketDir,
    logFile,
    get port() {
      return port;
    },
    get url() {
      return `postgres://postgres:${encodeURIComponent(password)}@127.0.0.1:${port}/postgres`;
    },
    get pid() {
      return run.pid;
    },
    stop,
    async kill() {
      await killServer(run, dataDir);
    },
    async remove() {
      await stop('immediate');
      removeData(dataDir);
      rmSync(dir, { recursive: true, force: true });
    },
    async restart() {
      await stop();
      claim(dir, dataDir);
      makeFor(user, socketDir);
      ({ run, port } = await runOnPort(server, port));
    },
  };
}

interface Server {
  readonly binaries: Binaries;
  readonly user: User | null;
  readonly dataDir: string;
  readonly socketDir: string;
  readonly logFile: string;
  readonly settings: Readonly<Record<string, string>>;
  readonly environment: Readonly<Record<string, string>>;
}

/** Notes that this process runs the directory's server; refuses while somebody alive does. */
function claim(dir: string, dataDir: string): void {
  const owner = ownerOf(dir);
  const [pid, ...mark] = owner.split(' ');
  const alive = owner !== '' && processMark(Number(pid)) === mark.join(' ');
  // Our own mark without a server is what kill() and a failed start leave.
  if (alive && (owner !== markOfSelf() || processesOfServer(dataDir, postmasterOf(dataDir)?.pid ?? null).length > 0)) {
    throw new MillraceError('embedded_postgres_failed', {
      detail: `Process ${pid} is running a Postgres in ${dir}.`,
      hint: 'Stop that process first, or use another directory.',
    });
  }
  writeFileSync(join(dir, 'owner'), `${markOfSelf()}\n`);
}

function ownerOf(dir: string): string {
  const path = join(dir, 'owner');
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : '';
}

function markOfSelf(): string {
  return `${process.pid} ${processMark(process.pid)}`;
}

/** Where the data directory is, made enterable: `<dir>/data`, or what that links to. */
function placeData(dir: string, user: User | null): string {
  const path = join(dir, 'data');
  // The directory itself is ours by contract, its parents are not.
  if (user !== null && canEnter(dirname(dir), user)) chmodSync(dir, statSync(dir).mode | 0o011);
  // /proc shows working directories with links resolved, so the data directory is named that way.
  if (canEnter(dir, user)) return join(realpathSync(dir), 'data');
  // /var/tmp outlives a reboot. The name is made from the directory's, so that the next start finds it.
  const place = ['/var/tmp', tmpdir(), '/tmp'].find((each) => existsSync(each) && canEnter(each, user)) ?? tmpdir();
  const name = createHash('sha256').update(realpathSync(dir)).digest('hex').slice(0, 16);
  const target = join(realpathSync(ownDirectory(place, user)), `data-${name}`);
  rmSync(path, { force: true });
  symlinkSync(target, path);
  writeFileSync(`${target}.origin`, path);
  removeAbandoned(dirname(target));
  return target;
}

/** Data whose directory was deleted without remove(): nothing links to it any more. */
function removeAbandoned(place: string): void {
  for (const name of readdirSync(place)) {
    if (!name.endsWith('.origin')) continue;
    const target = join(place, name.slice(0, -'.origin'.length));
    const link = readFileSync(`${target}.origin`, 'utf8');
    if (lstatSync(link, { throwIfNoEntry: false })?.isSymbolicLink() && readlinkSync(link) === target) continue;
    if (processesOfServer(target, postmasterOf(target)?.pid ?? null).length > 0) continue;
    removeData(target);
  }
}

function removeData(dataDir: string): void {
  for (const suffix of ['', '-socket', '.partial', '.password', '.origin']) {
    rmSync(`${dataDir}${suffix}`, { recursive: true, force: true });
  }
}

/** Postgres puts `.s.PGSQL.<port>` there, and a socket's path has a short limit. */
function placeSocket(dir: string, dataDir: string, user: User | null): string {
  const name = '/.s.PGSQL.65535.lock';
  for (const path of [join(dir, 'socket'), `${dataDir}-socket`]) {
    if (Buffer.byteLength(path + name) > SOCKET_PATH_BYTES_MAX || !canEnter(join(path, '..'), user)) continue;
    makeFor(user, path);
    return path;
  }
  const path = mkdtempSync('/tmp/millrace-socket-');
  makeFor(user, path);
  return path;
}

function makeFor(user: User | null, path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  if (user !== null) chownSync(path, user.uid, user.gid);
}

function knownPassword(dir: string, wanted: string | undefined): string {
  const path = join(dir, 'password');
  const known = existsSync(path) ? readFileSync(path, 'utf8').trim() : undefined;
  if (known === undefined || (wanted !== undefined && wanted !== known)) {
    throw new MillraceError('embedded_postgres_failed', {
      detail: `${dir} holds a database made with another password.`,
      hint: 'Start it with the password it was made with, or remove the directory to begin anew.',
    });
  }
  return known;
}

/** Makes the data directory. Returns the password. */
function initialise(
  dir: string,
  dataDir: string,
  binaries: Binaries,
  user: User | null,
  password = randomBytes(12).toString('hex'),
): string {
  // Under its final name only when whole: a start that was cut off here leaves nothing that looks like a database.
  const partial = `${dataDir}.partial`;
  rmSync(partial, { recursive: true, force: true });
  rmSync(dataDir, { recursive: true, force: true });
  makeFor(user, partial);
  writeFileSync(join(dir, 'password'), `${password}\n`, { mode: 0o600 });
  const passwordFile = `${dataDir}.password`;
  rmSync(passwordFile, { force: true });
  writeFileSync(passwordFile, `${password}\n`, { mode: 0o600, flag: 'wx' });
  if (user !== null) chownSync(passwordFile, user.uid, user.gid);
  try {
    const result = spawnSync(
      binaries.initdb,
      [
        ...['--pgdata', partial, '--username', 'postgres', '--pwfile', passwordFile],
        ...['--auth', 'scram-sha-256', '--encoding', 'UTF8', '--no-locale', '--no-sync', '--no-instructions'],
      ],
      { ...asUser(user), cwd: '/', encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] },
    );
    if (result.error !== undefined) throw notRunnable(binaries.initdb, result.error);
    if (result.status !== 0) {
      throw new MillraceError('embedded_postgres_failed', {
        detail: `initdb ended with ${result.signal ?? `exit code ${result.status}`}:\n${lastLines(result.stdout + result.stderr)}`,
      });
    }
    renameSync(partial, dataDir);
  } finally {
    rmSync(passwordFile, { force: true });
    rmSync(partial, { recursive: true, force: true });
  }
  return password;
}

function asUser(user: User | null): { env: NodeJS.ProcessEnv; uid?: number; gid?: number } {
  // None of the caller's PG* variables, and messages in a language that can be searched for.
  const env = { PATH: process.env.PATH ?? '/usr/bin:/bin', LANG: 'C', LC_ALL: 'C', TZ: 'UTC' };
  return user === null ? { env } : { env, ...user };
}

function notRunnable(program: string, cause: Error): MillraceError {
  return new MillraceError('embedded_postgres_failed', {
    detail: `${program} could not be run: ${cause.message}.`,
    hint: 'The programs are built for glibc; on a system with another C library (Alpine), use a Postgres of your own.',
    cause,
  });
}

/** A server whose launcher is gone, still at work in this data directory. */
async function endStaleServer(dataDir: string): Promise<void> {
  const pid = postmasterOf(dataDir)?.pid ?? null;
  const alive = () => processesOfServer(dataDir, pid);
  if (alive().length > 0) {
    const stopped = async (name: NodeJS.Signals, withinMs: number) => {
      for (const each of pid !== null && alive().includes(pid) ? [pid] : alive()) signal(each, name);
      return waitUntil(() => alive().length === 0, withinMs);
    };
    if (!(await stopped('SIGINT', STOP_TIMEOUT_MS)) && !(await stopped('SIGKILL', STOP_TIMEOUT_MS))) {
      throw new MillraceError('embedded_postgres_failed', { detail: `Process ${pid} in ${dataDir} does not end.` });
    }
  }
  // Left by a crash. Its pid may meanwhile be another program's, which Postgres would take for a living server.
  rmSync(join(dataDir, 'postmaster.pid'), { force: true });
}

/** The postmaster.pid file: pid on line 1, state on line 8. */
function postmasterOf(dataDir: string): { pid: number; ready: boolean } | null {
  let text: string;
  try {
    text = readFileSync(join(dataDir, 'postmaster.pid'), 'utf8');
  } catch {
    return null;
  }
  const lines = text.split('\n');
  const pid = Number(lines[0]);
  return Number.isInteger(pid) && pid > 0 ? { pid, ready: lines[7]?.trim() === 'ready' } : null;
}

async function runOnPort(server: Server, port: number): Promise<{ run: Run; port: number }> {
  for (let attempt = 1; ; attempt++) {
    // Nothing reserves a free port until Postgres binds it, so losing the race is ordinary.
    const chosen = port === 0 ? await freePort() : port;
    const result = await runServer(server, chosen);
    if (typeof result !== 'string') return { run: result, port: chosen };
    const taken = /could not bind|could not create any TCP\/IP sockets|Address already in use/i.test(result);
    if (taken && port !== 0) throw new MillraceError('port_in_use', { detail: `Port ${port} of 127.0.0.1.` });
    if (!taken || attempt === PORT_ATTEMPTS_MAX) {
      throw new MillraceError('embedded_postgres_failed', { detail: `The server said:\n${lastLines(result)}` });
    }
  }
}

function freePort(): Promise<number> {
  return new Promise((found, failed) => {
    const probe = createServer().once('error', failed);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      assert(typeof address === 'object' && address !== null, 'a listening TCP server has an address');
      probe.close(() => found(address.port));
    });
  });
}

/** Returns the running server, or what it said when it did not come up. */
async function runServer(server: Server, port: number): Promise<Run | string> {
  const { binaries, user, dataDir, socketDir, logFile } = server;
  const settings = {
    wal_level: 'logical',
    listen_addresses: '127.0.0.1',
    port: String(port),
    unix_socket_directories: socketDir,
    ...server.settings,
  };
  const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const log = openSync(logFile, 'a', 0o600);
  const logStart = fstatSync(log).size;
  // A session of its own: Ctrl-C in a terminal is for the launcher, who stops the server when its clients are done.
  const { env, ...identity } = asUser(user);
  const child = spawn(binaries.postgres, ['-D', dataDir, ...flags], {
    ...identity,
    env: { ...env, ...server.environment },
    cwd: '/',
    detached: true,
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  let failure: Error | null = null;
  const ended = new Promise<void>((done) => {
    child.once('exit', () => done());
    child.once('error', (error) => {
      failure = error;
      done();
    });
  });
  let running = true;
  void ended.then(() => (running = false));
  const pid = child.pid;
  if (pid !== undefined) startWatchdog(pid, dataDir, ended);
  child.unref();

  await waitUntil(() => {
    const found = postmasterOf(dataDir);
    return !running || (found?.pid === pid && found?.ready === true);
  }, START_TIMEOUT_MS);
  if (failure !== null) throw notRunnable(binaries.postgres, failure);
  if (pid !== undefined && running && postmasterOf(dataDir)?.ready === true) return { child, pid, ended };
  if (pid !== undefined && running) await killServer({ child, pid, ended }, dataDir);
  return readFrom(logFile, logStart);
}

async function end(run: Run, dataDir: string, mode: 'fast' | 'immediate'): Promise<void> {
  run.child.ref();
  let ended = false;
  void run.ended.then(() => (ended = true));
  await Promise.resolve();
  for (const [name, withinMs] of [
    [mode === 'fast' ? 'SIGINT' : 'SIGQUIT', STOP_TIMEOUT_MS],
    ['SIGQUIT', STOP_TIMEOUT_MS],
  ] as const) {
    if (!ended && run.child.exitCode === null && run.child.signalCode === null) signal(run.pid, name);
    if (await waitUntil(() => ended, withinMs)) break;
  }
  // Also after a postmaster that died by itself: its children go a little later.
  await killServer(run, dataDir);
}

async function killServer(run: Run, dataDir: string): Promise<void> {
  run.child.ref();
  // The postmaster first: it would start a crashed child again.
  const alive = run.child.exitCode === null && run.child.signalCode === null;
  const children = processesOfServer(dataDir, alive ? run.pid : null).filter((pid) => pid !== run.pid);
  if (alive) signal(run.pid, 'SIGKILL');
  for (const pid of children) signal(pid, 'SIGKILL');
  await run.ended;
  // A child that was being forked meanwhile ends by itself when it finds its postmaster gone; the wait is for that.
  const gone = () =>
    processesOfServer(dataDir, null).length === 0 && children.every((pid) => processMark(pid) === null);
  if (!(await waitUntil(gone, STOP_TIMEOUT_MS))) {
    throw new MillraceError('embedded_postgres_failed', { detail: `Processes in ${dataDir} do not end.` });
  }
}

async function waitUntil(condition: () => boolean, withinMs: number): Promise<boolean> {
  const deadline = performance.now() + withinMs;
  while (!condition()) {
    if (performance.now() > deadline) return false;
    await delay(POLL_MS);
  }
  return true;
}

function readFrom(path: string, start: number): string {
  const file = openSync(path, 'r');
  try {
    const from = Math.max(start, fstatSync(file).size - LOG_TAIL_BYTES);
    const bytes = Buffer.alloc(LOG_TAIL_BYTES);
    return bytes.toString('utf8', 0, readSync(file, bytes, 0, LOG_TAIL_BYTES, from));
  } finally {
    closeSync(file);
  }
}

function lastLines(text: string): string {
  return text.trim().split('\n').slice(-12).join('\n');
}
