/** Stops a process in the middle of whatever it does, and lets it go on. */
import { readdirSync, readFileSync } from 'node:fs';

const WAIT_MS = 10_000;

/**
 * SIGSTOP; returns when every thread has stopped: on a busy machine one may run on for a while, and answer. Where there
 * is no /proc it returns at once.
 */
export function suspendProcess(pid: number): void {
  process.kill(pid, 'SIGSTOP');
  const deadline = performance.now() + WAIT_MS;
  while (!hasStopped(pid)) {
    if (performance.now() > deadline) throw new Error(`process ${pid} does not stop`);
  }
}

export function resumeProcess(pid: number): void {
  process.kill(pid, 'SIGCONT');
}

function hasStopped(pid: number): boolean {
  const tasks = `/proc/${pid}/task`;
  try {
    // Number, name in parentheses, state: T is stopped.
    return readdirSync(tasks).every((id) => /\) T /.test(readFileSync(`${tasks}/${id}/stat`, 'utf8')));
  } catch (error) {
    // A thread that has ended in between is looked at again; without /proc nobody can tell.
    return (error as { path?: string }).path === tasks;
  }
}
