import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Runs the real command line as a user would, in processes of its own. */

// Every running child listens for the end of the tests.
process.setMaxListeners(100);

/** The settings of whoever runs the tests are not for them. */
const NOWHERE = '/nonexistent';

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));

export interface Finished {
  readonly stdout: string;
  readonly stderr: string;
  readonly code: number | null;
}

export interface Running {
  readonly child: ChildProcess;
  /** Resolves with everything on stdout so far once `test` holds for it; rejects when the process ends before. */
  stdoutUntil(test: (text: string) => boolean): Promise<string>;
  stderrUntil(test: (text: string) => boolean): Promise<string>;
  readonly finished: Promise<Finished>;
}

export function launch(
  args: readonly string[],
  env: Record<string, string> = {},
  input?: string | Uint8Array,
): Running {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: {
      PATH: process.env.PATH,
      TMPDIR: process.env.TMPDIR,
      HOME: process.env.HOME,
      NO_COLOR: '1',
      XDG_CONFIG_HOME: NOWHERE,
      NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'],
      ...env,
    },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  if (input !== undefined) child.stdin.end(input);
  // A test that times out never gets to its own clean-up.
  const killWithTests = (): void => void child.kill('SIGKILL');
  process.once('exit', killWithTests);
  child.once('exit', () => process.off('exit', killWithTests));
  const outputs = { stdout: '', stderr: '' };
  let wake = Promise.withResolvers<void>();
  let ended = false;
  const changed = (): void => {
    wake.resolve();
    wake = Promise.withResolvers();
  };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      outputs[name] += text;
      changed();
    });
  }
  const finished = new Promise<Finished>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      ended = true;
      changed();
      resolve({ ...outputs, code });
    });
  });
  const until = async (name: 'stdout' | 'stderr', test: (text: string) => boolean): Promise<string> => {
    while (!test(outputs[name])) {
      if (ended) throw new Error(`ended first; stdout: ${outputs.stdout} stderr: ${outputs.stderr}`);
      await wake.promise;
    }
    return outputs[name];
  };
  return {
    child,
    finished,
    stdoutUntil: (test) => until('stdout', test),
    stderrUntil: (test) => until('stderr', test),
  };
}

export function run(args: readonly string[], env: Record<string, string> = {}, input = ''): Promise<Finished> {
  return launch(args, env, input).finished;
}

/** Environment of a client of a process that serves for the first time, and so says its root token. */
export async function clientOf(running: Running): Promise<{ MILLRACE_ENDPOINT: string; S2_ACCESS_TOKEN: string }> {
  const line = await running.stdoutUntil((text) => text.includes('\n'));
  const url = /listening on (https?:\S+) /.exec(line)?.[1];
  if (url === undefined) throw new Error(`no URL in: ${line}`);
  const said = await running.stderrUntil((text) => /S2_ACCESS_TOKEN=.*\n/.test(text));
  return { MILLRACE_ENDPOINT: url, S2_ACCESS_TOKEN: /S2_ACCESS_TOKEN=(\S+)/.exec(said)![1]! };
}

export interface StoreProcess extends AsyncDisposable {
  readonly url: string;
  readonly rootToken: string;
  readonly dir: string;
  readonly running: Running;
  /** Environment of a client of this store. */
  readonly env: Record<string, string>;
}

/** `millrace store` on a free port with a directory of its own. */
export async function startStore(
  flags: readonly string[] = [],
  env: Record<string, string> = {},
): Promise<StoreProcess> {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-cli-'));
  const running = launch(['store', '--port', '0', '--data', dir, ...flags], env);
  const client = await clientOf(running);
  return {
    url: client.MILLRACE_ENDPOINT,
    rootToken: client.S2_ACCESS_TOKEN,
    dir,
    running,
    env: client,
    async [Symbol.asyncDispose]() {
      running.child.kill('SIGKILL');
      await running.finished;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
