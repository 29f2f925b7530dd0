/**
 * A child process under test: started, watched line by line, killed at any moment, started again with the same
 * arguments. No child outlives the process that holds its harness.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { assert } from '@millrace/core/assert';

/** Older lines are forgotten; a test that needs more should wait for them as they come. */
const LINES_MAX = 20_000;
const FLUSH_TIMEOUT_MS = 1_000;
const TAIL_LINES = 40;

export interface ProcessOptions {
  /** A program; absent: this Node. */
  readonly command?: string;
  readonly args: readonly string[];
  /** Added to this process' environment; undefined takes a variable away. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
}

export interface Line {
  readonly stream: 'stdout' | 'stderr';
  readonly text: string;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface WaitOptions {
  readonly timeoutMs?: number;
  /** Only lines of this stream. */
  readonly stream?: 'stdout' | 'stderr';
  /** 'run' (absent): any line since the last start. 'now': only lines that come after this call. */
  readonly since?: 'run' | 'now';
}

export interface ProcessHarness {
  /** Of the present or last run. */
  readonly pid: number;
  readonly running: boolean;
  /** Of the present or last run, oldest first. */
  readonly lines: readonly Line[];
  /** Resolves with the end of the present run. */
  readonly exited: Promise<Exit>;
  start(): void;
  /** The first line that matches. Rejects, with what the process said, when it ends first or the time is up. */
  waitForLine(matches: RegExp | ((line: string) => boolean), options?: WaitOptions): Promise<string>;
  /** Sends the signal and waits for the end. At once when it has ended already. */
  kill(signal?: NodeJS.Signals): Promise<Exit>;
  /** kill(signal), then start(). */
  restart(signal?: NodeJS.Signals): Promise<Exit>;
  /** What it said, for the message of a failed test. */
  transcript(): string;
}

interface Waiter {
  readonly matches: (line: string) => boolean;
  readonly stream: 'stdout' | 'stderr' | undefined;
  readonly found: (line: string) => void;
  readonly failed: (why: string) => void;
}

/** Made, not started. */
export function processHarness(options: ProcessOptions): ProcessHarness {
  const command = options.command ?? process.execPath;
  let lines: Line[] = [];
  let child: ChildProcess | null = null;
  let exited: Promise<Exit> = Promise.resolve({ code: null, signal: null });
  const waiters = new Set<Waiter>();

  const running = () => child !== null && child.exitCode === null && child.signalCode === null;

  function take(stream: 'stdout' | 'stderr', text: string): void {
    lines.push({ stream, text });
    if (lines.length > LINES_MAX) lines = lines.slice(-LINES_MAX / 2);
    for (const waiter of waiters) {
      if ((waiter.stream ?? stream) === stream && waiter.matches(text)) waiter.found(text);
    }
  }

  function start(): void {
    assert(!running(), 'a harness runs one process at a time');
    lines = [];
    const started = spawn(command, [...options.args], {
      env: { ...process.env, ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child = started;
    const drained = (['stdout', 'stderr'] as const).map((name) => {
      const reader = createInterface({ input: started[name] });
      reader.on('line', (text) => take(name, text));
      return new Promise<void>((done) => reader.once('close', done));
    });
    const guard = startGuard(started);
    exited = new Promise<Exit>((ended) => {
      started.once('error', (error) => {
        take('stderr', `${command} could not be started: ${error.message}`);
        ended({ code: null, signal: null });
      });
      // A grandchild that inherited the pipes must not keep us waiting for their end.
      started.once('exit', async (code, signal) => {
        guard.kill('SIGKILL');
        await Promise.race([Promise.all(drained), new Promise((late) => setTimeout(late, FLUSH_TIMEOUT_MS).unref())]);
        ended({ code, signal });
      });
    });
    void exited.then(({ code, signal }) => {
      if (child === started) for (const waiter of waiters) waiter.failed(`ended with ${signal ?? `code ${code}`}`);
    });
  }

  async function kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<Exit> {
    if (running()) child?.kill(signal);
    return exited;
  }

  const transcript = () =>
    lines
      .slice(-TAIL_LINES)
      .map(({ stream, text }) => `${stream}: ${text}`)
      .join('\n');

  return {
    get pid() {
      assert(child?.pid !== undefined, 'the process has been started');
      return child.pid;
    },
    get running() {
      return running();
    },
    get lines() {
      return lines;
    },
    get exited() {
      return exited;
    },
    start,
    kill,
    async restart(signal) {
      const exit = await kill(signal);
      start();
      return exit;
    },
    waitForLine(wanted, { timeoutMs = 30_000, stream, since = 'run' } = {}) {
      const matches = typeof wanted === 'function' ? wanted : (line: string) => wanted.test(line);
      if (since === 'run') {
        const there = lines.find((line) => (stream ?? line.stream) === line.stream && matches(line.text));
        if (there !== undefined) return Promise.resolve(there.text);
      }
      return new Promise<string>((resolve, reject) => {
        const settle = () => {
          clearTimeout(timer);
          waiters.delete(waiter);
        };
        const waiter: Waiter = {
          matches,
          stream,
          found(line) {
            settle();
            resolve(line);
          },
          failed(why) {
            settle();
            reject(new Error(`no line matched ${wanted}: the process ${why}. It said:\n${transcript()}`));
          },
        };
        const timer = setTimeout(() => waiter.failed(`was still silent about it after ${timeoutMs} ms`), timeoutMs);
        waiters.add(waiter);
        if (!running()) void exited.then(() => waiters.has(waiter) && waiter.failed('is not running'));
      });
    },
    transcript,
  };
}

/** Kills the child when this process is gone, even by SIGKILL: the shell waits for the end of a pipe only we hold. */
function startGuard(child: ChildProcess): ChildProcess {
  const script = `trap '' INT TERM HUP; cat >/dev/null; kill -KILL "$1" 2>/dev/null`;
  const guard = spawn('/bin/sh', ['-c', script, 'millrace-test-guard', String(child.pid ?? '')], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  guard.on('error', () => {});
  guard.stdin?.on('error', () => {});
  guard.unref();
  (guard.stdin as unknown as { unref(): void }).unref();
  return guard;
}
