/**
 * The threads that functions run in, shared by all sinks: started when first needed, replaced when one hangs or dies.
 *
 * A sink stays with one thread. One whose function ran into its time limit goes on in a thread apart until it behaves,
 * so that the sinks beside it do not wait for its limit again and again. That thread has a low priority, and one that
 * does nothing but run over gets a small part of its time: it would take a core from everything else.
 */
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { pause } from '@millrace/core/pause';
import { loadError } from './function-failure.ts';
import type { RunInput, RunOutcome } from './function-messages.ts';
import type { CompiledFunction } from './function-source.ts';
import { FunctionThread } from './function-thread.ts';
import type { SandboxLimits } from './sandbox.ts';

export interface FunctionLimits extends SandboxLimits {
  /** A sink's turn: then another sink of the same thread has its own. */
  readonly batchMs: number;
}

export const DEFAULT_FUNCTION_LIMITS: FunctionLimits = {
  callMs: 1000,
  batchMs: 100,
  memoryBytes: 64 * 1_048_576,
  resultBytes: 8 * 1_048_576,
};

export interface FunctionPoolOptions {
  /** Threads for functions that behave. Default 2. One more runs those that do not. */
  readonly threads?: number;
  /** A line for the operator: that a thread was replaced. */
  readonly log?: (line: string) => void;
}

/** The functions of one sink, loaded. */
export interface LoadedFunctions {
  /**
   * What became of the messages, in order; fewer than there are when the time of a slice was over. At least one.
   * Rejects with a coded error when the threads cannot be used at all, and with the signal's reason.
   */
  run(input: RunInput, signal?: AbortSignal): Promise<readonly RunOutcome[]>;
  close(): void;
}

export interface FunctionPool {
  /** Throws function_invalid for code that does not compile, or fails when it is evaluated. */
  load(functions: readonly CompiledFunction[], limits?: FunctionLimits): Promise<LoadedFunctions>;
  /** Threads that were ended because they hung or died. */
  readonly replaced: number;
  close(): Promise<void>;
}

const THREADS = 2;
/** How long one that ran into its limit stays apart after the last time it did: twice as long each time it is back. */
const APART_MS = 60_000;
const APART_MS_MAX = 3_600_000;
/** So many runs in a row that ran over, and it has to wait for the others of its kind. */
const OVERRUNS_MAX = 3;
/** After one of their runs none begins for so many times its length: all of them take a tenth of a core. */
const REST_FACTOR = 9;
/** Of one request to a thread. */
const RUN_BYTES_MAX = 4 * 1_048_576;
const RUN_MESSAGES_MAX = 4096;

export function startFunctionPool({ threads = THREADS, log = () => {} }: FunctionPoolOptions = {}): FunctionPool {
  assert(threads > 0, 'a pool has a thread');
  let replaced = 0;
  let loaded = 0;
  let closed = false;
  const onReplaced = (reason: string) => {
    replaced++;
    log(`functions: ${reason}; their thread was replaced.`);
  };
  const ordinary = Array.from({ length: threads }, () => new FunctionThread(onReplaced));
  const apart = new FunctionThread(onReplaced, { lowPriority: true });
  /** When the next run of one that does nothing but run over may begin. */
  let restedAt = Number.NEGATIVE_INFINITY;

  async function afterRest(callMs: number, signal: AbortSignal): Promise<void> {
    for (let leftMs = restedAt - performance.now(); leftMs > 0; leftMs = restedAt - performance.now()) {
      await pause(leftMs, signal);
      signal.throwIfAborted();
      if (closed) throw new MillraceError('internal', { detail: 'The functions are closed.' });
    }
    // For as long as it may take: those that waited beside it go on waiting.
    restedAt = performance.now() + callMs * (1 + REST_FACTOR);
  }

  async function load(functions: readonly CompiledFunction[], limits = DEFAULT_FUNCTION_LIMITS) {
    assert(!closed, 'a closed pool loads nothing');
    const id = loaded++;
    const home = ordinary.reduce((best, one) => (one.sandboxes < best.sandboxes ? one : best));
    const failure = await home.load({ id, functions, limits });
    if (failure !== null) {
      home.drop(id);
      throw loadError(failure.failure, functions.find(({ type }) => type === failure.type)!);
    }
    let thread = home;
    let ranOverAt = Number.NEGATIVE_INFINITY;
    let apartMs = APART_MS / 2;
    let overruns = 0;

    function moveTo(next: FunctionThread): void {
      if (next === thread) return;
      thread.drop(id);
      thread = next;
      // What it says is known, and a run says it again.
      thread.load({ id, functions, limits }).catch(() => {});
    }

    async function run(input: RunInput, signal?: AbortSignal): Promise<readonly RunOutcome[]> {
      if (closed) throw new MillraceError('internal', { detail: 'The functions are closed.' });
      if (thread === apart && performance.now() - ranOverAt > apartMs) moveTo(home);
      const to = endOfRun(input);
      const rests = overruns >= OVERRUNS_MAX;
      if (rests) await afterRest(limits.callMs, signal ?? NEVER);
      const begunAt = performance.now();
      const outcomes = await thread.run({ sandbox: id, input: { ...input, to }, sliceMs: limits.batchMs }, signal);
      assert(outcomes.length > 0 && outcomes.length <= to - input.from, 'a run gives an outcome for what it was given');
      const last = outcomes.at(-1)!;
      if (last.kind === 'failed' && last.failure.kind === 'timeout') {
        overruns = outcomes.length === 1 ? overruns + 1 : 1;
        if (thread !== apart) apartMs = Math.min(2 * apartMs, APART_MS_MAX);
        ranOverAt = performance.now();
        moveTo(apart);
      } else overruns = 0;
      if (rests) restedAt = performance.now() + (overruns === 0 ? 0 : REST_FACTOR * (performance.now() - begunAt));
      return outcomes;
    }

    return { run, close: () => thread.drop(id) };
  }

  return {
    load,
    get replaced() {
      return replaced;
    },
    async close() {
      closed = true;
      await Promise.all([...ordinary, apart].map((thread) => thread.close()));
    },
  };
}

const NEVER = new AbortController().signal;

function endOfRun({ ends, from, to }: RunInput): number {
  const start = from === 0 ? 0 : ends[from - 1]!;
  let end = from + 1;
  while (end < to && end - from < RUN_MESSAGES_MAX && ends[end]! - start <= RUN_BYTES_MAX) end++;
  return end;
}
