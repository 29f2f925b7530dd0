/**
 * A real S3-compatible server for tests: versitygw, which keeps objects as files and implements conditional writes
 * atomically. It is built from its published Go module the first time somebody asks and kept under node_modules/.cache
 * (a minute and a half on two cores; a second afterwards). Where there is no Go the tests that need it are skipped by
 * name, or fail when CI=true: see s3ServerMissing.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { assert } from '@millrace/core/assert';
import { type ProcessHarness, processHarness } from './process-harness.ts';

/** The first release whose conditional PUT is atomic among concurrent writers. */
const MODULE = 'github.com/versity/versitygw/cmd/versitygw@v1.8.0';
const CACHE = fileURLToPath(new URL('../../../node_modules/.cache/millrace', import.meta.url));
const PROGRAM = join(CACHE, `versitygw-1.8.0-${process.platform}-${process.arch}`);
const BUILD_TIMEOUT_MS = 600_000;
const START_TIMEOUT_MS = 20_000;
const START_ATTEMPTS = 5;

export interface S3Server {
  readonly endpoint: string;
  readonly port: number;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly process: ProcessHarness;
  /** Makes an empty bucket. */
  newBucket(): string;
  /** Objects of a bucket as files, for looking at what is really there. */
  bucketDir(bucket: string): string;
  /** Stops the server and removes its objects. */
  stop(): Promise<void>;
}

let missing: Promise<string | null> | null = null;

/**
 * Why there is no S3 server for tests here; null: there is one, built now if it was not before. With CI=true it throws
 * instead, so that a run which has to show everything cannot pass without.
 */
export async function s3ServerMissing(): Promise<string | null> {
  missing ??= provide().then(
    () => null,
    (error: Error) => error.message,
  );
  const reason = await missing;
  if (reason !== null && process.env.CI === 'true') throw new Error(`no S3 server for tests: ${reason}`);
  return reason;
}

export async function startS3Server(): Promise<S3Server> {
  const reason = await s3ServerMissing();
  if (reason !== null) throw new Error(reason);
  const root = mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-s3-`));
  const [objects, metadata] = [join(root, 'objects'), join(root, 'metadata')];
  mkdirSync(objects);
  mkdirSync(metadata);
  const [accessKeyId, secretAccessKey] = ['test-key', 'test-secret'];
  const { port, child } = await start(objects, metadata, { accessKeyId, secretAccessKey });
  let buckets = 0;
  return {
    endpoint: `http://127.0.0.1:${port}`,
    port,
    region: 'us-east-1',
    accessKeyId,
    secretAccessKey,
    process: child,
    newBucket() {
      // A directory is a bucket to this server; it belongs to the root account, which is the only one.
      const name = `bucket-${++buckets}`;
      mkdirSync(join(objects, name));
      return name;
    },
    bucketDir: (bucket) => join(objects, bucket),
    async stop() {
      await child.kill('SIGKILL');
      rmSync(root, { recursive: true, force: true });
    },
  };
}

interface Keys {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

/** The server cannot tell which port it took, so a free one is found first; should somebody else take it, another. */
async function start(objects: string, metadata: string, keys: Keys): Promise<{ port: number; child: ProcessHarness }> {
  for (let attempt = 1; ; attempt++) {
    const port = await freePort();
    const child = processHarness({
      command: PROGRAM,
      args: [
        ...['--port', `127.0.0.1:${port}`, '--region', 'us-east-1', '--quiet', '--keep-alive', '--health', '/healthy'],
        // Attributes of objects in files beside them: not every file system of a test machine keeps extended ones.
        ...['posix', '--sidecar', metadata, objects],
      ],
      env: { ROOT_ACCESS_KEY_ID: keys.accessKeyId, ROOT_SECRET_ACCESS_KEY: keys.secretAccessKey },
    });
    child.start();
    if (await answers(port, child)) return { port, child };
    const said = child.transcript();
    await child.kill('SIGKILL');
    if (attempt === START_ATTEMPTS) throw new Error(`the S3 server does not start. It said:\n${said}`);
  }
}

async function answers(port: number, child: ProcessHarness): Promise<boolean> {
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (child.running && performance.now() < deadline) {
    const answer = await fetch(`http://127.0.0.1:${port}/healthy`).catch(() => null);
    // Somebody else on the same port answers as well; then ours has ended.
    if (answer?.ok) return child.running;
    await delay(20);
  }
  return false;
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      assert(typeof address === 'object' && address !== null, 'a listening TCP server has an address');
      probe.close(() => resolve(address.port));
    });
  });
}

async function provide(): Promise<void> {
  if (existsSync(PROGRAM)) return;
  mkdirSync(CACHE, { recursive: true });
  const release = await takeBuildLock();
  try {
    if (!existsSync(PROGRAM)) await build();
  } finally {
    release();
  }
}

/** One build at a time, whichever worker asks first. The kernel drops the lock with its process. */
async function takeBuildLock(): Promise<() => void> {
  const database = new DatabaseSync(join(CACHE, 's3-server.lock'));
  const deadline = performance.now() + BUILD_TIMEOUT_MS;
  for (;;) {
    try {
      database.exec('PRAGMA busy_timeout=0; PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE');
      return () => database.close();
    } catch (error) {
      // SQLITE_BUSY
      if ((error as { errcode?: number }).errcode !== 5 || performance.now() > deadline) throw error;
      await delay(200);
    }
  }
}

async function build(): Promise<void> {
  const out = mkdtempSync(join(CACHE, 'building-'));
  try {
    await runGo(out);
    renameSync(join(out, 'versitygw'), PROGRAM);
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

function runGo(out: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const said: string[] = [];
    const child = spawn('go', ['install', '-trimpath', '-ldflags=-s -w', MODULE], {
      env: { ...process.env, GOBIN: out, CGO_ENABLED: '0' },
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: BUILD_TIMEOUT_MS,
      killSignal: 'SIGKILL',
    });
    child.stderr.on('data', (chunk: Buffer) => said.push(chunk.toString('utf8')));
    child.once('error', (error: NodeJS.ErrnoException) =>
      reject(error.code === 'ENOENT' ? new Error('Go is not installed, and the server is built with it') : error),
    );
    child.once('close', (code) =>
      code === 0 ? resolve() : reject(new Error(`building ${MODULE} failed:\n${said.join('').slice(-2000)}`)),
    );
  });
}
