/**
 * How the servers that tests run against get onto a machine where nobody is root: what is on the PATH is used; what is
 * not is fetched once, with the machine's own package manager as it is configured, into a directory of the user's cache
 * and found there from then on. Where neither works the tests that need it are skipped and say why; with CI=true they
 * fail, so that a run which has to show everything cannot pass without.
 */
import { spawn } from 'node:child_process';
import { accessSync, constants, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as delay } from 'node:timers/promises';
import { assert } from '@millrace/core/assert';

const FETCH_TIMEOUT_MS = 600_000;
const SQLITE_BUSY = 5;
/** Of what a program said, for the message when it failed. */
const SAID_CHARS = 2_000;
/** In a directory of the cache: it is whole. */
const WHOLE = '.whole';

/** Something that tests need, that may be missing. */
export interface Provision {
  /** For the reason: "Apache Kafka". */
  readonly title: string;
  /** Makes it ready, fetching it when it is not there. Rejects with an Error that says why there is none. */
  readonly provide: () => Promise<unknown>;
}

const reasons = new Map<string, Promise<string | null>>();

/** Why it is missing here; null: it is ready to be used. Fetches it when it was not there. Throws where CI=true. */
export async function missing({ title, provide }: Provision): Promise<string | null> {
  let reason = reasons.get(title);
  if (reason === undefined) {
    reason = provide().then(
      () => null,
      (error: Error) => `no ${title} for tests: ${error.message}`,
    );
    reasons.set(title, reason);
  }
  const text = await reason;
  if (text !== null && process.env.CI === 'true') throw new Error(text);
  return text;
}

/** The whole path of a program on the PATH, or null. */
export function onPath(program: string): string | null {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    const path = join(folder, program);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not in this folder.
    }
  }
  return null;
}

/**
 * A directory of the cache that `make` fills the first time somebody asks, whichever process that is; all others wait
 * for it. The name carries the version: what is in it never changes.
 */
export async function cached(name: string, make: (into: string) => Promise<void>): Promise<string> {
  const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'millrace-test');
  const directory = join(cache, name);
  if (existsSync(join(directory, WHOLE))) return directory;
  mkdirSync(cache, { recursive: true });
  const release = await takeLock(join(cache, `${name}.lock`));
  try {
    if (existsSync(join(directory, WHOLE))) return directory;
    const into = mkdtempSync(join(cache, `${name}-making-`));
    try {
      await make(into);
      writeFileSync(join(into, WHOLE), '');
      rmSync(directory, { recursive: true, force: true });
      renameSync(into, directory);
    } finally {
      rmSync(into, { recursive: true, force: true });
    }
    return directory;
  } finally {
    release();
  }
}

/** One maker at a time. The kernel drops the lock with its process. */
async function takeLock(path: string): Promise<() => void> {
  const database = new DatabaseSync(path);
  const deadline = performance.now() + FETCH_TIMEOUT_MS;
  for (;;) {
    try {
      database.exec('PRAGMA busy_timeout=0; PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE');
      return () => database.close();
    } catch (error) {
      if ((error as { errcode?: number }).errcode !== SQLITE_BUSY || performance.now() > deadline) throw error;
      await delay(200);
    }
  }
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly timeoutMs?: number;
}

/** Runs a program to its end and returns what it printed. */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const [printed, said]: [Buffer[], Buffer[]] = [[], []];
    const child = spawn(program, [...args], {
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      env: { ...process.env, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: options.timeoutMs ?? FETCH_TIMEOUT_MS,
      killSignal: 'SIGKILL',
    });
    child.stdout.on('data', (chunk: Buffer) => printed.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => said.push(chunk));
    child.once('error', (error: NodeJS.ErrnoException) =>
      reject(error.code === 'ENOENT' ? new Error(`${program} is not installed`) : error),
    );
    child.once('close', (code, signal) => {
      const text = Buffer.concat(printed).toString('utf8');
      if (code === 0) return resolve(text);
      const last = `${text}${Buffer.concat(said).toString('utf8')}`.slice(-SAID_CHARS);
      reject(new Error(`${program} ended with ${signal ?? `code ${code}`}:\n${last}`));
    });
  });
}

/** Loopback ports that were free a moment ago, all different. Somebody else may take one: try again then. */
export async function freePorts(count: number): Promise<number[]> {
  const probes = Array.from({ length: count }, () => createServer());
  const ports = await Promise.all(
    probes.map(
      (probe) =>
        new Promise<number>((resolve, reject) => {
          probe.once('error', reject);
          probe.listen(0, '127.0.0.1', () => {
            const address = probe.address();
            assert(typeof address === 'object' && address !== null, 'a listening TCP server has an address');
            resolve(address.port);
          });
        }),
    ),
  );
  await Promise.all(probes.map((probe) => new Promise((closed) => probe.close(closed))));
  return ports;
}
