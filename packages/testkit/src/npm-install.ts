/** npm for what only some tests need: installed when the first of them asks, by one process at a time. */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { processMark } from '@millrace/embedded-postgres/process-table';

const LOCKS = fileURLToPath(new URL('../../../node_modules/.cache/millrace', import.meta.url));
const LOCK_POLL_MS = 100;

/** In `cwd`; what it says goes into `output`. */
export function runNpm(args: readonly string[], cwd: string): Promise<{ code: number | null; output: string }> {
  // Set by npm for the scripts it runs: the very npm the user called, without a shell in between.
  const own = process.env.npm_execpath;
  const [command, ...before] = own?.endsWith('.js') ? [process.execPath, own] : ['npm'];
  return new Promise((done) => {
    const child = spawn(command!, [...before, ...args], { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    child.stdout.on('data', (chunk) => (output += chunk));
    child.stderr.on('data', (chunk) => (output += chunk));
    child.on('error', (error) => done({ code: null, output: `${command}: ${error.message}` }));
    child.on('close', (code) => done({ code, output }));
  });
}

/** One process at a time; the lock of a process that is gone is nobody's. */
export async function lockInstall(name: string): Promise<() => void> {
  const path = join(LOCKS, `${name}.lock`);
  mkdirSync(dirname(path), { recursive: true });
  for (;;) {
    try {
      writeFileSync(path, `${process.pid} ${processMark(process.pid)}`, { flag: 'wx' });
      return () => rmSync(path, { force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const [pid, ...mark] = existsSync(path) ? readFileSync(path, 'utf8').split(' ') : [];
    if (pid !== undefined && pid !== '' && processMark(Number(pid)) !== mark.join(' ')) rmSync(path, { force: true });
    await delay(LOCK_POLL_MS);
  }
}
