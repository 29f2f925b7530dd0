/** Baseline: Postgres' own C client, which writes every message to /dev/null and decodes none. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { runClient } from './client.ts';
import type { DrainInput, DrainResult } from './drain.ts';

/** Of the clock ticks in /proc; the same on every Linux. */
const TICKS_PER_SECOND = 100;
const SAMPLE_MS = 20;

await runClient<DrainInput, DrainResult>(async ({ connection, slot, publication, endLsn, recvlogical }) => {
  const child = spawn(
    recvlogical!,
    [
      ...['-h', connection.host, '-p', String(connection.port), '-U', connection.user, '-d', connection.database],
      ...['-S', slot, '--start', '-f', '/dev/null', '--no-loop', '--endpos', endLsn],
      ...['-o', 'proto_version=1', '-o', `publication_names=${publication}`],
    ],
    { env: { ...process.env, PGPASSWORD: connection.password }, stdio: ['ignore', 'ignore', 'pipe'] },
  );
  process.once('exit', () => child.kill('SIGKILL'));
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  let rssBytesMax = 0;
  const sampling = setInterval(() => (rssBytesMax = Math.max(rssBytesMax, peakMemory(child))), SAMPLE_MS);
  const [code] = (await once(child, 'exit')) as [number | null];
  const endedAtMs = Date.now();
  clearInterval(sampling);
  if (code !== 0) throw new Error(`pg_recvlogical ended with ${code}: ${errors}`);
  return { endedAtMs, rssBytesMax, ...childrenCpu() };
});

function peakMemory({ pid }: ChildProcess): number {
  try {
    return Number(/^VmHWM:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}

/** User and system time of the children that have ended: fields 16 and 17 of /proc/self/stat, counted from 1. */
function childrenCpu(): { cpuSeconds: number; systemSeconds: number } {
  try {
    const stat = readFileSync('/proc/self/stat', 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const [user, system] = [Number(fields[13]), Number(fields[14])];
    return { cpuSeconds: (user + system) / TICKS_PER_SECOND, systemSeconds: system / TICKS_PER_SECOND };
  } catch {
    return { cpuSeconds: Number.NaN, systemSeconds: Number.NaN };
  }
}
