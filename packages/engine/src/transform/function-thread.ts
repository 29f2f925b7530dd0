/**
 * One thread that runs functions, seen from outside. It is started when something is asked of it. When it hangs where no
 * limit inside it reaches, or dies, it is replaced: the message it was at has failed, everything else is asked again.
 */
import { Worker } from 'node:worker_threads';
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import {
  type FunctionAnswer,
  type FunctionRequest,
  type FunctionWorkerData,
  IDLE,
  LOADING,
  type LoadFailure,
  PROGRESS,
  type RunInput,
  type RunOutcome,
  type RunPart,
  readPart,
} from './function-messages.ts';
import { type SandboxFunctions, type SandboxLimits, WALL_FACTOR } from './sandbox.ts';

export interface SandboxSpec {
  readonly id: number;
  readonly functions: SandboxFunctions;
  readonly limits: SandboxLimits;
}

interface Loading {
  readonly resolve: (failure: LoadFailure | null) => void;
  readonly reject: (error: Error) => void;
}

interface Run {
  readonly resolve: (outcomes: readonly RunOutcome[]) => void;
  readonly reject: (error: unknown) => void;
  readonly sandbox: number;
  readonly input: RunInput;
  readonly sliceMs: number;
  readonly outcomes: RunOutcome[];
  /** Of the request under way: the first message, as an index into the input. */
  from: number;
  /** Where the thread hung: the messages before it are asked again, then this is its outcome. */
  stuck: { readonly at: number; readonly outcome: RunOutcome } | null;
}

const STACK_MB = 16;
const HEAP_MB = 256;
const WATCH_MS = 250;
/** Beyond the limits that hold inside the thread. */
const GRACE_MS = 1_000;

export class FunctionThread {
  readonly #onReplaced: (reason: string) => void;
  readonly #lowPriority: boolean;
  readonly #specs = new Map<number, SandboxSpec>();
  readonly #loading = new Map<number, Loading>();
  readonly #runs = new Map<number, Run>();
  #worker: Worker | null = null;
  #progress: Int32Array = new Int32Array(PROGRESS.length);
  #runsBegun = 0;
  #watch: NodeJS.Timeout | null = null;
  #steps = 0;
  #stillMs = 0;

  /** `lowPriority`: it gets what other threads leave of a processor, where the system can tell threads apart. */
  constructor(onReplaced: (reason: string) => void, { lowPriority = false } = {}) {
    this.#onReplaced = onReplaced;
    this.#lowPriority = lowPriority;
  }

  get sandboxes(): number {
    return this.#specs.size;
  }

  /** null: it can be called. */
  load(spec: SandboxSpec): Promise<LoadFailure | null> {
    assert(!this.#specs.has(spec.id), 'a sandbox is loaded once');
    this.#specs.set(spec.id, spec);
    const started = this.#worker !== null;
    const loaded = new Promise<LoadFailure | null>((resolve, reject) =>
      this.#loading.set(spec.id, { resolve, reject }),
    );
    // A thread that starts loads all there are.
    if (started) this.#post({ kind: 'load', sandbox: spec.id, functions: spec.functions, limits: spec.limits });
    else this.#start();
    return loaded;
  }

  drop(id: number): void {
    this.#specs.delete(id);
    if (this.#worker !== null) this.#post({ kind: 'drop', sandbox: id });
  }

  run(
    { sandbox, input, sliceMs }: Pick<Run, 'sandbox' | 'input' | 'sliceMs'>,
    signal: AbortSignal | undefined,
  ): Promise<readonly RunOutcome[]> {
    assert(this.#specs.has(sandbox), 'a sandbox is loaded before it is called');
    return new Promise((resolve, reject) => {
      const id = this.#runsBegun++;
      const giveUp = () => {
        this.#runs.delete(id);
        reject(signal!.reason);
      };
      if (signal?.aborted) return reject(signal.reason);
      signal?.addEventListener('abort', giveUp, { once: true });
      const end = () => signal?.removeEventListener('abort', giveUp);
      const run: Run = {
        sandbox,
        input,
        sliceMs,
        outcomes: [],
        from: input.from,
        stuck: null,
        resolve(outcomes) {
          end();
          resolve(outcomes);
        },
        reject(error) {
          end();
          reject(error);
        },
      };
      this.#runs.set(id, run);
      if (this.#worker === null) this.#start();
      this.#request(id, run);
    });
  }

  async close(): Promise<void> {
    const worker = this.#release();
    this.#failAll(new MillraceError('internal', { detail: 'The functions are closed.' }));
    this.#specs.clear();
    await worker?.terminate();
  }

  #start(): void {
    const shared = new SharedArrayBuffer(PROGRESS.length * 4);
    this.#progress = new Int32Array(shared);
    this.#progress[PROGRESS.run] = IDLE;
    this.#steps = 0;
    this.#stillMs = 0;
    const worker = new Worker(new URL('./function-worker.ts', import.meta.url), {
      workerData: { progress: shared, lowPriority: this.#lowPriority } satisfies FunctionWorkerData,
      resourceLimits: { stackSizeMb: STACK_MB, maxOldGenerationSizeMb: HEAP_MB },
    });
    this.#worker = worker;
    worker.on('message', (answer: FunctionAnswer) => this.#answered(answer));
    worker.on('error', (error) => this.#ended(error));
    worker.on('exit', () => this.#ended(null));
    for (const { id, functions, limits } of this.#specs.values()) {
      this.#post({ kind: 'load', sandbox: id, functions, limits });
    }
    this.#watch = setInterval(() => this.#look(), WATCH_MS);
    this.#watch.unref();
  }

  #post(request: FunctionRequest, transfer: ArrayBuffer[] = []): void {
    this.#worker!.postMessage(request, transfer);
  }

  /** Asks for the messages from `run.from` on, up to where it is stuck or to the end. */
  #request(id: number, run: Run): void {
    const { input, sandbox, sliceMs } = run;
    const to = run.stuck?.at ?? input.to;
    const start = run.from === 0 ? 0 : input.ends[run.from - 1]!;
    const ends = new Int32Array(to - run.from);
    for (let i = 0; i < ends.length; i++) ends[i] = input.ends[run.from + i]! - start;
    const bytes = new ArrayBuffer(ends.at(-1)!);
    input.bytes.copy(new Uint8Array(bytes), 0, start, start + bytes.byteLength);
    this.#post({ kind: 'run', run: id, sandbox, bytes, ends, sliceMs }, [bytes, ends.buffer]);
  }

  #answered(answer: FunctionAnswer): void {
    if (answer.kind === 'loaded') {
      this.#loading.get(answer.sandbox)?.resolve(answer.failure);
      this.#loading.delete(answer.sandbox);
    } else this.#partCame(answer);
  }

  #partCame(part: RunPart): void {
    const run = this.#runs.get(part.run);
    if (run === undefined) return;
    for (const outcome of readPart(part)) run.outcomes.push(outcome);
    if (!part.last) return;
    const reached = run.input.from + run.outcomes.length;
    if (run.stuck !== null && reached === run.stuck.at) run.outcomes.push(run.stuck.outcome);
    this.#runs.delete(part.run);
    run.resolve(run.outcomes);
  }

  /** A thread that is at the same message for longer than any limit allows has to be ended. */
  #look(): void {
    const steps = Atomics.load(this.#progress, PROGRESS.steps);
    const still = steps === this.#steps && Atomics.load(this.#progress, PROGRESS.run) !== IDLE;
    this.#steps = steps;
    // Counted in looks: when this thread was held up, the other one may have been, too.
    this.#stillMs = still ? this.#stillMs + WATCH_MS : 0;
    let callMs = 0;
    for (const { limits } of this.#specs.values()) callMs = Math.max(callMs, limits.callMs);
    if (this.#stillMs > callMs * WALL_FACTOR + GRACE_MS) this.#replace('timeout');
  }

  #ended(error: Error | null): void {
    if (this.#worker === null) return;
    const run = Atomics.load(this.#progress, PROGRESS.run);
    if (run !== IDLE) {
      this.#replace('memory');
      return;
    }
    // Not of any message: it could not even start, or a bug. Asked again, it starts again.
    this.#release();
    this.#failAll(new MillraceError('internal', { detail: 'The thread of the functions ended.', cause: error }));
  }

  #replace(kind: 'timeout' | 'memory'): void {
    const at = Atomics.load(this.#progress, PROGRESS.run);
    const message = Atomics.load(this.#progress, PROGRESS.message);
    void this.#release()?.terminate();
    const timeout = kind === 'timeout';
    const failure = {
      kind,
      stage: null,
      name: '',
      text: timeout ? 'it could not be interrupted, and its thread was ended.' : 'its thread ran out of memory.',
      line: null,
      column: null,
    };
    this.#onReplaced(timeout ? 'a function could not be interrupted' : 'a function used up the memory');
    if (at === LOADING) {
      // Which of those that are being loaded is not known: they are all told, and whoever is right tries again.
      for (const [id, { resolve }] of this.#loading) {
        resolve({ type: this.#specs.get(id)?.functions[0]?.type ?? 'transform', failure });
      }
      this.#loading.clear();
    }
    const stuck = this.#runs.get(at);
    if (stuck !== undefined) {
      const index = Math.max(stuck.input.from + stuck.outcomes.length, stuck.from + message);
      stuck.stuck = { at: index, outcome: { kind: 'failed', failure, micros: 0 } };
    }
    if (this.#runs.size === 0 && this.#loading.size === 0) return;
    this.#start();
    for (const [id, run] of this.#runs) this.#again(id, run);
  }

  #again(id: number, run: Run): void {
    run.from = run.input.from + run.outcomes.length;
    if (run.stuck === null || run.from < run.stuck.at) {
      this.#request(id, run);
      return;
    }
    this.#runs.delete(id);
    run.outcomes.push(run.stuck.outcome);
    run.resolve(run.outcomes);
  }

  #release(): Worker | null {
    const worker = this.#worker;
    this.#worker = null;
    if (this.#watch !== null) clearInterval(this.#watch);
    this.#watch = null;
    worker?.removeAllListeners();
    // What it still says on its way out is nobody's business.
    worker?.on('error', () => {});
    return worker;
  }

  #failAll(error: MillraceError): void {
    for (const { reject } of this.#loading.values()) reject(error);
    this.#loading.clear();
    for (const { reject } of this.#runs.values()) reject(error);
    this.#runs.clear();
  }
}
