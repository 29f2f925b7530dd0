/** The inside of a measured process: its input, its words with whoever started it, and what it used. */
import { writeFileSync } from 'node:fs';
import inspector from 'node:inspector';
import type { FromClient } from '../client-process.ts';

export interface Parent {
  tell(name: string, value?: unknown): void;
  /** Resolves with what the parent says under this name. */
  told<T>(name: string): Promise<T>;
}

/** What a stretch of work took. */
export interface Usage {
  readonly cpuSeconds: number;
  /** Of that, in the kernel. */
  readonly systemSeconds: number;
  /** Of the whole process since its start. */
  readonly rssBytesMax: number;
}

/** Runs `work` with the process' input and hands its result to the parent. The process ends with the parent. */
export async function runClient<Input, Result>(work: (input: Input, parent: Parent) => Promise<Result>): Promise<void> {
  const said = new Map<string, PromiseWithResolvers<unknown>>();
  const saidOf = (name: string) => {
    let waiting = said.get(name);
    if (waiting === undefined) said.set(name, (waiting = Promise.withResolvers()));
    return waiting;
  };
  process.on('message', (message) => {
    const { name, value } = message as { name: string; value: unknown };
    saidOf(name).resolve(value);
  });
  process.once('disconnect', () => process.exit(1));
  process.once('SIGTERM', () => process.exit(143));
  try {
    const value = await work(JSON.parse(process.argv[2]!) as Input, {
      tell: (name, about) => void send({ kind: 'event', name, value: about }),
      told: <T>(name: string) => saidOf(name).promise as Promise<T>,
    });
    await send({ kind: 'result', value });
    process.exit(0);
  } catch (error) {
    await send({ kind: 'failed', text: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    process.exit(1);
  }
}

function send(message: FromClient): Promise<void> {
  return new Promise((resolve) => process.send!(message, () => resolve()));
}

/** Names the file for a CPU profile of what is measured, when one is wanted. */
export const PROFILE_VARIABLE = 'MILLRACE_BENCH_PROFILE';
const PROFILE_INTERVAL_MICROS = 250;

/** CPU time of this process from now until the one call of the result. */
export function startMeter(): () => Usage {
  const file = process.env[PROFILE_VARIABLE];
  const stopProfile = file === undefined ? () => {} : startProfile(file);
  const before = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(before);
    stopProfile();
    return {
      cpuSeconds: (user + system) / 1e6,
      systemSeconds: system / 1e6,
      rssBytesMax: process.resourceUsage().maxRSS * 1024,
    };
  };
}

/** A session within one thread answers before `post` returns. */
function startProfile(file: string): () => void {
  const session = new inspector.Session();
  session.connect();
  session.post('Profiler.enable');
  session.post('Profiler.setSamplingInterval', { interval: PROFILE_INTERVAL_MICROS });
  session.post('Profiler.start');
  return () => {
    session.post('Profiler.stop', (error, result) => {
      if (error === null) writeFileSync(file, JSON.stringify(result.profile));
    });
    session.disconnect();
  };
}
