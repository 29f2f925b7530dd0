/**
 * A measured program in a process of its own, so that its CPU time and memory are its alone. This is the side that
 * starts it; clients/client.ts is the other.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export interface Client<Result> {
  readonly pid: number;
  /** What clients/client.ts's run returned. Rejects when the process ends without that. */
  readonly result: Promise<Result>;
  /** The next event of this name, or the one that came already. */
  event<T>(name: string): Promise<T>;
  /** A word to the client, which waits for it by name. */
  tell(name: string, value?: unknown): void;
  /** Ends the process if it still runs. */
  end(): Promise<void>;
}

export type FromClient =
  | { readonly kind: 'event'; readonly name: string; readonly value: unknown }
  | { readonly kind: 'result'; readonly value: unknown }
  | { readonly kind: 'failed'; readonly text: string };

const END_GRACE_MS = 3_000;
/** What `millrace` gives Node when it starts, as its first line says. */
const MILLRACE_FLAGS = readFileSync(new URL('../packages/cli/bin/millrace.js', import.meta.url), 'utf8')
  .split('\n', 1)[0]!
  .split(' ')
  .filter((word) => word.startsWith('--'));
const STDERR_KEPT_BYTES = 16 * 1024;

/** Starts bench/clients/<name>.ts. The abort signal ends it. */
export function startClient<Result>(
  name: string,
  input: unknown,
  { signal, env = {} }: { readonly signal: AbortSignal; readonly env?: Readonly<Record<string, string>> },
): Client<Result> {
  signal.throwIfAborted();
  const file = fileURLToPath(new URL(`clients/${name}.ts`, import.meta.url));
  const child = fork(file, [JSON.stringify(input)], {
    execArgv: MILLRACE_FLAGS,
    env: { ...process.env, ...env },
    // A session of its own: Ctrl-C reaches it through us, in the order in which we clean up.
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    serialization: 'advanced',
  });
  let errors = '';
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-STDERR_KEPT_BYTES);
  });
  const exited = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const events = new Map<string, PromiseWithResolvers<unknown>>();
  const eventOf = (event: string) => {
    let waiting = events.get(event);
    if (waiting === undefined) {
      waiting = Promise.withResolvers();
      waiting.promise.catch(() => {});
      events.set(event, waiting);
    }
    return waiting;
  };
  const { promise: result, resolve, reject } = Promise.withResolvers<Result>();
  result.catch(() => {});
  let answer: { readonly value: Result } | null = null;
  child.on('message', (message) => {
    const from = message as FromClient;
    if (from.kind === 'event') eventOf(from.name).resolve(from.value);
    else if (from.kind === 'result') answer = { value: from.value as Result };
    else errors += from.text;
  });
  child.once('close', (code, by) => {
    if (answer !== null) {
      resolve(answer.value);
      return;
    }
    const error = signal.aborted
      ? signal.reason
      : new Error(`The client "${name}" ended with ${by ?? code}:\n${errors.trim()}`);
    reject(error);
    for (const waiting of events.values()) waiting.reject(error);
  });
  child.once('error', reject);
  const onAbort = () => void end(child, exited);
  signal.addEventListener('abort', onAbort, { once: true });
  void exited.then(() => signal.removeEventListener('abort', onAbort));
  return {
    pid: child.pid!,
    result,
    event: (event) => Promise.race([eventOf(event).promise, result.then(() => undefined as never)]) as Promise<never>,
    tell: (event, value) => child.connected && child.send({ name: event, value }),
    end: () => end(child, exited),
  };
}

async function end(child: ChildProcess, exited: Promise<void>): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), END_GRACE_MS);
    await exited;
    clearTimeout(timer);
  }
  await exited;
}
