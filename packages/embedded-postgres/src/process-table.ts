/** What this machine says about running processes. Read from /proc on Linux (slim images carry no `ps`), else from ps. */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

const linux = process.platform === 'linux';

/**
 * A mark of one run of a pid: it differs once the pid is given to another process. null: no such process, or a zombie.
 */
export function processMark(pid: number): string | null {
  try {
    if (!linux) return execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' }).trim() || null;
    // The name in parentheses may hold anything, so the fields are counted from its end: state is 3, starttime 22.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? null : fields[22 - 3]!;
  } catch (cause) {
    const { code, status } = cause as { code?: string; status?: number };
    // ps says 1 for no such process. Anything else is not an answer, and must not be taken for one.
    if (code === 'ENOENT' || code === 'ESRCH' || status === 1) return null;
    throw cause;
  }
}

/**
 * The processes of the Postgres server on this data directory: the postmaster and whatever it started. All of them
 * keep the data directory as their working directory, and nothing else of ours does.
 */
export function processesOfServer(dataDir: string, postmaster: number | null): number[] {
  if (linux) return processesIn(dataDir);
  const table = execFileSync('ps', ['-axo', 'pid=,ppid='], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number));
  return table.filter(([pid, parent]) => pid === postmaster || parent === postmaster).map(([pid]) => pid!);
}

function processesIn(directory: string): number[] {
  const found: number[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if (readlinkSync(`/proc/${name}/cwd`) === directory) found.push(Number(name));
    } catch {
      // Gone meanwhile, a zombie, or not ours to look at: in no case a server we could have started.
    }
  }
  return found;
}

/** Sends a signal; a process that is already gone is what the caller wanted. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ESRCH') throw cause;
  }
}
