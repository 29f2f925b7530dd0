/**
 * The stream store alone. How it is driven is the business of packages/stream-store/bench; each of those programs is
 * run here in turn, and what they print is gathered.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import type { Session } from './session.ts';
import { type Spread, spreadOf } from './statistics.ts';

/** By the names of packages/stream-store/bench, `<bench>.<metric>`. */
export interface StoreNumbers {
  readonly runs: number;
  /** In this process, without HTTP. */
  readonly inProcess: Readonly<Record<string, Spread>>;
  /** Over loopback, client and server in processes of their own. */
  readonly overHttp: Readonly<Record<string, Spread>>;
}

/** Of each transfer; http.ts's own default. */
const TRANSFER_MIB = 512;
/** Of each steady rate. */
const RATE_SECONDS = 4;

export async function measureStore(session: Session): Promise<StoreNumbers> {
  const { runs, scale } = session.settings;
  const mib = Math.max(32, Math.round(TRANSFER_MIB * scale));
  const seconds = Math.max(1, Math.round(RATE_SECONDS * scale));
  const inProcess = new Map<string, number[]>();
  const overHttp = new Map<string, number[]>();
  for (let i = 0; i < runs; i++) {
    session.progress(`store ${i + 1}/${runs} in process`);
    const { medians } = (await runStoreProgram(session, 'journal.ts', ['1'])) as { medians: Record<string, number> };
    gather(inProcess, medians);
    session.progress(`store ${i + 1}/${runs} over HTTP`);
    const args = ['--mib', String(mib), '--seconds', String(seconds)];
    const { results } = (await runStoreProgram(session, 'http.ts', args)) as {
      results: Record<string, Record<string, number>>;
    };
    for (const [bench, metrics] of Object.entries(results)) {
      gather(overHttp, Object.fromEntries(Object.entries(metrics).map(([key, value]) => [`${bench}.${key}`, value])));
    }
  }
  return { runs, inProcess: spreads(inProcess), overHttp: spreads(overHttp) };
}

function gather(into: Map<string, number[]>, metrics: Readonly<Record<string, number>>): void {
  for (const [key, value] of Object.entries(metrics)) into.set(key, [...(into.get(key) ?? []), value]);
}

function spreads(gathered: Map<string, number[]>): Record<string, Spread> {
  return Object.fromEntries([...gathered].map(([key, values]) => [key, spreadOf(values)]));
}

/** Runs one of the store's own benches, which prints JSON. What it writes goes to a directory of ours. */
export async function runStoreProgram(session: Session, file: string, args: readonly string[]): Promise<unknown> {
  session.signal.throwIfAborted();
  const program = fileURLToPath(new URL(`../packages/stream-store/bench/${file}`, import.meta.url));
  return await session.withDirectory(async (dir) => {
    const child = spawn(process.execPath, [program, ...args], {
      env: { ...process.env, TMPDIR: dir },
      // A group of its own: it has a server of its own, and both end together.
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const onAbort = () => killGroup(child.pid!);
    session.signal.addEventListener('abort', onAbort, { once: true });
    try {
      const closed = once(child, 'close') as Promise<[number | null]>;
      const [output, errors, [code]] = await Promise.all([text(child.stdout), text(child.stderr), closed]);
      session.signal.throwIfAborted();
      if (code !== 0) throw new Error(`${file} ended with ${code}:\n${errors}`);
      return JSON.parse(output);
    } finally {
      session.signal.removeEventListener('abort', onAbort);
      killGroup(child.pid!);
    }
  });
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}
