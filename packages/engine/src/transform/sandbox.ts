/**
 * One QuickJS machine with the functions of one sink in it: WebAssembly with a memory of its own, so that nothing a
 * function does reaches another sink, let alone this process. One call after the other, each with a deadline.
 *
 * It runs in a thread of its own (function-worker.ts): what cannot be interrupted there is ended with the thread.
 */
import { randomBytes } from 'node:crypto';
import { assert } from '@millrace/core/assert';
import { RELEASE_SYNC } from 'quickjs-emscripten';
import { hasLongDigits, markLargeIntegers } from './exact-numbers.ts';
import type { CodeType, CompiledFunction } from './function-source.ts';
import { messageRanges, splitMessage } from './json-bytes.ts';
import { copyTo, FRAME_BYTES, type Sight, sightOf, writeCall } from './sandbox-call.ts';
import { SANDBOX_PRELUDE } from './sandbox-prelude.ts';

export interface SandboxLimits {
  /** Of a message through all functions of its sink, and of the first evaluation of a function's code. */
  readonly callMs: number;
  /** Of everything a sink's functions hold, with what runs them (about 8 MB). No less than 16 MiB. */
  readonly memoryBytes: number;
  /** Of everything that is made of one message. */
  readonly resultBytes: number;
}

/** At most one of each type. */
export type SandboxFunctions = readonly CompiledFunction[];

/** Why a call gave no answer. `text` may quote values of the row: see function-failure.ts for who may see it. */
export interface SandboxFailure {
  readonly kind: 'failed' | 'refused' | 'timeout' | 'memory' | 'size';
  readonly stage: CodeType | null;
  /** Class of the error, as the function says. */
  readonly name: string;
  readonly text: string;
  readonly line: number | null;
  readonly column: number | null;
}

type Instance = Awaited<ReturnType<typeof load>>;
type Pointer = number;

const STACK_BYTES_MAX = 512 * 1024;
/** Deadlines count time on the processor where the clock on the wall is ahead of it; this far ahead they end anyway. */
export const WALL_FACTOR = 4;
/** How often the processor's clock is asked once the one on the wall has passed the deadline. */
const PROCESSOR_CHECK_MS = 5;
/** A message above this may not fit into the machine. */
const LARGE_BYTES = 64 * 1024;
const ROUTE_BYTES_MAX = 64 * 1024;
const PRELUDE = '<millrace>';

const LF = 0x0a;
const CODE_FILTERED = 0x66;
const CODE_UNTOUCHED = 0x75;
const CODE_MADE = 0x6d;

/** The answer of a call lies in the sandbox's memory until the next call. */
export interface SandboxAnswer {
  readonly kind: 'filtered' | 'untouched' | 'made';
  /** JSON of the route; empty: there is no routing function. Of `made`: bodies, each after a line feed. */
  readonly bytes: Buffer;
  /** Where the route ends in `bytes`. */
  readonly routeEnd: number;
}

export class Sandbox {
  readonly #functions: SandboxFunctions;
  readonly #limits: SandboxLimits;
  /** What marks an integer as one that was too large. Nobody can guess it; whoever knows it harms only his own numbers. */
  readonly #mark = `~${randomBytes(12).toString('hex')}:`;
  #machine: Machine | null = null;
  #fresh = true;

  constructor(functions: SandboxFunctions, limits: SandboxLimits) {
    this.#functions = functions;
    this.#limits = limits;
  }

  /** Evaluates the functions' code. null: it can be called. Otherwise what is wrong, and with which of them. */
  async open(): Promise<{ readonly type: CodeType; readonly failure: SandboxFailure } | null> {
    const machine = await Machine.make(this.#limits, this.#mark);
    for (const compiled of this.#functions) {
      const failure = machine.use(compiled);
      if (failure !== null) return { type: compiled.type, failure };
    }
    this.#machine = machine;
    this.#fresh = true;
    return null;
  }

  /** Nothing has run in it yet that could have left something behind. */
  get isFresh(): boolean {
    return this.#fresh;
  }

  /** Whether `run` may be called; otherwise `open` has to be, again. */
  get isOpen(): boolean {
    return this.#machine !== null;
  }

  /** One message through all functions. After a failure that left the machine in doubt it is not open any more. */
  run(bytes: Buffer, start: number, end: number): SandboxAnswer | SandboxFailure {
    const machine = this.#machine;
    assert(machine !== null, 'a sandbox is open when it is called');
    const marked = hasLongDigits(bytes, start, end) ? markLargeIntegers(bytes, start, end, this.#mark) : null;
    const answer =
      marked === null ? machine.run(bytes, start, end, false) : machine.run(marked, 0, marked.length, true);
    if (!machine.sound) this.#machine = null;
    else this.#fresh = false;
    return answer;
  }
}

/** Not among the types of Node. */
declare const WebAssembly: {
  readonly Memory: new (size: { readonly initial: number; readonly maximum: number }) => object;
};

const PAGE_BYTES = 65_536;
/** The library asks for no less than this much more at once, and gives up where that is beyond the limit. */
const GROWTH_MIN = 1.05;
/** What the library is built for: it cannot start with less. */
const PAGES_MIN = 256;

function pagesFor(memoryBytes: number): number {
  return Math.max(PAGES_MIN, Math.floor(memoryBytes / PAGE_BYTES));
}

/** The library's own limit counts allocations, not their bytes, in WebAssembly: memory that cannot grow is what holds. */
async function load(memoryBytes: number) {
  const imported = await RELEASE_SYNC.importModuleLoader();
  const loader = imported as unknown as (options?: object) => Promise<EmscriptenModule>;
  const Bindings = await RELEASE_SYNC.importFFI();
  const module = await loader({
    wasmMemory: new WebAssembly.Memory({ initial: PAGES_MIN, maximum: pagesFor(memoryBytes) }),
  });
  // biome-ignore lint/suspicious/noExplicitAny: its pointer types are brands that no constructor makes.
  const ffi = new Bindings(module as never) as any as Bindings;
  return { module, ffi };
}

/** What is used of the library's lowest layer; the layers above it copy every text twice. */
interface EmscriptenModule {
  readonly HEAPU8: Uint8Array;
  callbacks: Record<string, (...args: never[]) => unknown>;
  _malloc(size: number): Pointer;
  _free(pointer: Pointer): void;
}

interface Bindings {
  QTS_NewRuntime(): Pointer;
  QTS_RuntimeSetMaxStackSize(runtime: Pointer, bytes: number): void;
  QTS_RuntimeEnableInterruptHandler(runtime: Pointer): void;
  QTS_NewContext(runtime: Pointer, intrinsics: number): Pointer;
  QTS_Eval(context: Pointer, code: Pointer, length: number, file: string, detect: number, flags: number): Pointer;
  QTS_ResolveException(context: Pointer, value: Pointer): Pointer;
  QTS_FreeValuePointer(context: Pointer, value: Pointer): void;
  QTS_FreeCString(context: Pointer, text: Pointer): void;
  QTS_NewString(context: Pointer, text: Pointer): Pointer;
  QTS_GetString(context: Pointer, value: Pointer): Pointer;
  QTS_GetProp(context: Pointer, object: Pointer, name: Pointer): Pointer;
  QTS_Call(context: Pointer, callee: Pointer, self: Pointer, count: number, args: Pointer): Pointer;
  QTS_GetUndefined(): Pointer;
  QTS_IsJobPending(runtime: Pointer): number;
  QTS_ExecutePendingJob(runtime: Pointer, count: number, context: Pointer): Pointer;
}

const CALLS = ['use', 'sight', 'run', 'runMarked', 'failure', 'stageNow'] as const;
const ALL_INTRINSICS = 0;
const EVAL_GLOBAL = 0;
const EVAL_MODULE = 1;

/** The instance and its one context. Thrown away when something inside it was cut off. */
class Machine {
  /** False: a call was cut off, or memory ran out: what is left inside may be anything. */
  sound = true;
  readonly #instance: Instance;
  readonly #limits: SandboxLimits;
  readonly #runtime: Pointer;
  readonly #context: Pointer;
  readonly #undefined: Pointer;
  /** Room for three arguments, and one pointer that the library writes. */
  readonly #slots: Pointer;
  #view: Uint32Array = new Uint32Array(0);
  readonly #ranges = messageRanges();
  #calls: Readonly<Record<(typeof CALLS)[number], Pointer>>;
  #sight: Sight = sightOf([]);
  #input: Pointer = 0;
  #inputBytes = 0;
  #answer = Buffer.alloc(0);
  #deadline = Number.POSITIVE_INFINITY;
  #wallEnd = Number.POSITIVE_INFINITY;
  #processorStart = 0;
  #timedOut = false;

  static async make(limits: SandboxLimits, mark: string): Promise<Machine> {
    return new Machine(await load(limits.memoryBytes), limits, mark);
  }

  private constructor(instance: Instance, limits: SandboxLimits, mark: string) {
    this.#instance = instance;
    this.#limits = limits;
    const { module, ffi } = instance;
    module.callbacks = {
      shouldInterrupt: () => (this.#isOver() ? 1 : 0),
      callFunction: () => 0,
      freeHostRef: () => {},
      loadModuleSource: () => 0,
      normalizeModule: () => 0,
    };
    this.#runtime = ffi.QTS_NewRuntime();
    ffi.QTS_RuntimeSetMaxStackSize(this.#runtime, STACK_BYTES_MAX);
    ffi.QTS_RuntimeEnableInterruptHandler(this.#runtime);
    this.#context = ffi.QTS_NewContext(this.#runtime, ALL_INTRINSICS);
    this.#undefined = ffi.QTS_GetUndefined();
    this.#slots = module._malloc(16);
    const prelude = this.#evaluate(SANDBOX_PRELUDE, PRELUDE, EVAL_GLOBAL);
    assert(this.#exceptionOf(prelude) === 0, 'the prelude of a sandbox is valid');
    const argument = this.#string(mark);
    const api = this.#call(prelude, argument);
    assert(this.#exceptionOf(api) === 0, 'the prelude of a sandbox runs');
    const calls = CALLS.map((name) => [name, this.#property(api, name)]);
    this.#calls = Object.fromEntries(calls) as Record<(typeof CALLS)[number], Pointer>;
  }

  /** Evaluates the code and takes its function. */
  use(compiled: CompiledFunction): SandboxFailure | null {
    this.#start();
    try {
      const space = this.#evaluate(compiled.javascript, compiled.type, EVAL_MODULE);
      const exception = this.#exceptionOf(space);
      if (exception !== 0) return this.#describe(exception, compiled);
      const names = this.#evaluate(JSON.stringify(compiled.exports), PRELUDE, EVAL_GLOBAL);
      const problem = this.#call(this.#calls.use, this.#string(compiled.type), names, space);
      const thrown = this.#exceptionOf(problem);
      if (thrown !== 0) return this.#describe(thrown, compiled);
      const text = this.#textOf(problem);
      const unfinished = this.#runJobs(compiled.type);
      if (unfinished !== null) return unfinished;
      this.#sight = sightOf(JSON.parse(this.#textOf(this.#call(this.#calls.sight))) as (string[] | null)[]);
      return text === '' ? null : { ...NOWHERE, kind: 'refused', stage: compiled.type, name: '', text };
    } catch (error) {
      return this.#broken(error, compiled.type);
    } finally {
      this.#stop();
    }
  }

  run(bytes: Buffer, start: number, end: number, marked: boolean): SandboxAnswer | SandboxFailure {
    this.#start();
    try {
      return this.#run(bytes, start, end, marked);
    } catch (error) {
      return this.#broken(error, this.#stage());
    } finally {
      this.#stop();
    }
  }

  #run(bytes: Buffer, start: number, end: number, marked: boolean): SandboxAnswer | SandboxFailure {
    const { ffi } = this.#instance;
    const context = this.#context;
    const callee = marked ? this.#calls.runMarked : this.#calls.run;
    const count = this.#argumentsOf(bytes, start, end);
    const result = ffi.QTS_Call(context, callee, this.#undefined, count, this.#slots);
    this.#freeArguments(count);
    if (ffi.QTS_IsJobPending(this.#runtime) !== 0) {
      const unfinished = this.#runJobs(null);
      if (unfinished !== null) return unfinished;
    }
    const exception = this.#exceptionOf(result);
    if (exception !== 0) {
      // The prelude catches whatever can be caught.
      this.sound = false;
      return this.#describe(exception, null);
    }
    const pointer = ffi.QTS_GetString(context, result);
    if (pointer === 0) return this.#outOfMemory(this.#stage());
    const answer = this.#read(pointer);
    ffi.QTS_FreeCString(context, pointer);
    ffi.QTS_FreeValuePointer(context, result);
    const parsed = this.#parse(answer);
    if (!this.#timedOut) return parsed;
    // A generator on the way can make an interruption one that can be caught.
    return 'bytes' in parsed ? this.#cutOff(null) : { ...parsed, ...this.#cutOff(parsed.stage), ...placeOnly(parsed) };
  }

  /** What the functions can see of the message, as `run` of the prelude takes it, in the slots. Returns how many. */
  #argumentsOf(bytes: Buffer, start: number, end: number): number {
    const ranges = this.#ranges;
    splitMessage(bytes, start, end, ranges);
    this.#reserveInput(end - start + FRAME_BYTES);
    const { module } = this.#instance;
    const large = end - start > LARGE_BYTES;
    const size = writeCall(module.HEAPU8, this.#input, bytes, ranges, this.#sight);
    const text = this.#stringAt(this.#input, size, large);
    this.#slotsView()[0] = text;
    if (ranges[6]! < 0) return 1;
    // For the clock and for chance.
    const metadataEnd = copyTo(module.HEAPU8, this.#input, bytes, ranges[6]!, ranges[7]!);
    const metadata = this.#stringAt(this.#input, metadataEnd - this.#input, large);
    this.#slotsView()[1] = metadata;
    return 2;
  }

  #stringAt(pointer: Pointer, size: number, large: boolean): Pointer {
    const { module, ffi } = this.#instance;
    module.HEAPU8[pointer + size] = 0;
    const text = ffi.QTS_NewString(this.#context, pointer);
    if (large && this.#exceptionOf(text) !== 0) throw new NoMemory();
    return text;
  }

  #freeArguments(count: number): void {
    const slots = this.#slotsView();
    for (let i = 0; i < count; i++) this.#instance.ffi.QTS_FreeValuePointer(this.#context, slots[i]!);
  }

  /** The library's memory moves when it grows. */
  #slotsView(): Uint32Array {
    const { buffer } = this.#instance.module.HEAPU8;
    if (this.#view.buffer !== buffer) this.#view = new Uint32Array(buffer, this.#slots, 3);
    return this.#view;
  }

  #parse(answer: Buffer): SandboxAnswer | SandboxFailure {
    switch (answer[0]) {
      case CODE_FILTERED:
        return { kind: 'filtered', bytes: answer, routeEnd: 0 };
      case CODE_UNTOUCHED:
        if (answer.length > ROUTE_BYTES_MAX) return this.#tooLarge('routing', answer.length, ROUTE_BYTES_MAX);
        return { kind: 'untouched', bytes: answer.subarray(1), routeEnd: answer.length - 1 };
      case CODE_MADE: {
        const { resultBytes } = this.#limits;
        if (answer.length > resultBytes) return this.#tooLarge('transform', answer.length, resultBytes);
        const lineEnd = answer.indexOf(LF);
        const routeEnd = (lineEnd < 0 ? answer.length : lineEnd) - 1;
        if (routeEnd > ROUTE_BYTES_MAX) return this.#tooLarge('routing', routeEnd, ROUTE_BYTES_MAX);
        return { kind: 'made', bytes: answer.subarray(1), routeEnd };
      }
      default: {
        const [stage, name, text, stack] = JSON.parse(answer.toString('utf8', 1)) as [string, string, string, string];
        return this.#failure(stageOf(stage), name, text, stack);
      }
    }
  }

  #failure(stage: CodeType | null, name: string, text: string, stack: string): SandboxFailure {
    if (name === 'InternalError' && text === 'out of memory') return this.#outOfMemory(stage, stack);
    // Without the room for an error, null is thrown.
    const limit = pagesFor(this.#limits.memoryBytes) * PAGE_BYTES;
    const full = this.#instance.module.HEAPU8.length * GROWTH_MIN + PAGE_BYTES > limit;
    if (name === 'thrown' && text === 'object null' && full) return this.#outOfMemory(stage);
    const kind = name === 'refused' ? 'refused' : 'failed';
    return { kind, stage, name, text, ...placeIn(stack, stage) };
  }

  /** What is left of an error that came through where nothing catches: cut off, out of memory, or not compiled. */
  #describe(exception: Pointer, compiled: CompiledFunction | null): SandboxFailure {
    const type = compiled?.type ?? null;
    const timedOut = this.#timedOut;
    this.#stop();
    this.#start();
    const described = this.#call(this.#calls.failure, exception);
    const stage = type ?? this.#stage();
    if (this.#exceptionOf(described) !== 0) return timedOut ? this.#cutOff(stage) : this.#outOfMemory(stage);
    const [, name, text, stack] = JSON.parse(this.#textOf(described)) as [string, string, string, string];
    if (timedOut) return { ...this.#cutOff(stage), ...placeIn(stack, stage) };
    return this.#failure(stage, name, text, stack);
  }

  #cutOff(stage: CodeType | null): SandboxFailure {
    this.sound = false;
    return { ...NOWHERE, kind: 'timeout', stage, name: '', text: `it took longer than ${this.#limits.callMs} ms.` };
  }

  #outOfMemory(stage: CodeType | null, stack = ''): SandboxFailure {
    this.sound = false;
    const text = `it used more than ${this.#limits.memoryBytes} bytes.`;
    return { kind: 'memory', stage, name: '', text, ...placeIn(stack, stage) };
  }

  #tooLarge(stage: CodeType, size: number, max: number): SandboxFailure {
    return {
      ...NOWHERE,
      kind: 'size',
      stage,
      name: '',
      text: `it returned ${size} bytes of JSON; ${max} is the limit.`,
    };
  }

  /** The machine itself gave up: its stack is deeper than the thread's, its memory cannot grow. */
  #broken(error: unknown, stage: CodeType | null): SandboxFailure {
    this.sound = false;
    if (error instanceof RangeError) {
      return { ...NOWHERE, kind: 'failed', stage, name: 'RangeError', text: 'values are nested too deeply.' };
    }
    if (error instanceof NoMemory || (error instanceof Error && error.name === 'RuntimeError'))
      return this.#outOfMemory(stage);
    throw error;
  }

  #stage(): CodeType | null {
    try {
      const stage = this.#call(this.#calls.stageNow);
      return this.#exceptionOf(stage) === 0 ? stageOf(this.#textOf(stage)) : null;
    } catch {
      // The machine is thrown away; only a name is lost.
      this.sound = false;
      return null;
    }
  }

  #start(): void {
    const now = performance.now();
    this.#timedOut = false;
    this.#deadline = now + this.#limits.callMs;
    this.#wallEnd = now + this.#limits.callMs * WALL_FACTOR;
    this.#processorStart = -1;
  }

  #stop(): void {
    this.#deadline = Number.POSITIVE_INFINITY;
  }

  /** Asked by the machine every few thousand steps. A thread that gets no processor is not a function that runs away. */
  #isOver(): boolean {
    const now = performance.now();
    if (this.#processorStart < 0) this.#processorStart = processorMs();
    if (now < this.#deadline) return false;
    if (now < this.#wallEnd && processorMs() - this.#processorStart < this.#limits.callMs) {
      this.#deadline = now + PROCESSOR_CHECK_MS;
      return false;
    }
    this.#timedOut = true;
    return true;
  }

  /** What was left for later by promises; nothing of it can change the answer, but it has to end. */
  #runJobs(type: CodeType | null): SandboxFailure | null {
    const { ffi } = this.#instance;
    while (ffi.QTS_IsJobPending(this.#runtime) !== 0) {
      const done = ffi.QTS_ExecutePendingJob(this.#runtime, 1, this.#slots + 20);
      const exception = this.#exceptionOf(done);
      if (this.#timedOut || this.#isOver()) return this.#cutOff(type ?? this.#stage());
      // Nothing else comes through: a promise keeps what was thrown.
      if (exception !== 0) return this.#outOfMemory(type ?? this.#stage());
      ffi.QTS_FreeValuePointer(this.#context, done);
    }
    return null;
  }

  #exceptionOf(value: Pointer): Pointer {
    return this.#instance.ffi.QTS_ResolveException(this.#context, value);
  }

  #evaluate(code: string, file: string, flags: number): Pointer {
    const { module, ffi } = this.#instance;
    const bytes = Buffer.from(code);
    const pointer = module._malloc(bytes.length + 1);
    module.HEAPU8.set(bytes, pointer);
    module.HEAPU8[pointer + bytes.length] = 0;
    const value = ffi.QTS_Eval(this.#context, pointer, bytes.length, file, 0, flags);
    module._free(pointer);
    return value;
  }

  #string(text: string): Pointer {
    const bytes = Buffer.from(text);
    return this.#bytesAsString(bytes, 0, bytes.length);
  }

  #bytesAsString(bytes: Buffer, start: number, end: number): Pointer {
    const { module, ffi } = this.#instance;
    const size = end - start + 1;
    this.#reserveInput(size);
    module.HEAPU8.set(bytes.subarray(start, end), this.#input);
    module.HEAPU8[this.#input + size - 1] = 0;
    return ffi.QTS_NewString(this.#context, this.#input);
  }

  #reserveInput(size: number): void {
    if (size <= this.#inputBytes) return;
    const { module } = this.#instance;
    if (this.#input !== 0) module._free(this.#input);
    this.#inputBytes = Math.max(size, 2 * this.#inputBytes, 4096);
    this.#input = module._malloc(this.#inputBytes);
    if (this.#input === 0) throw new NoMemory();
  }

  #call(callee: Pointer, first: Pointer = 0, second: Pointer = 0, third: Pointer = 0): Pointer {
    const { ffi } = this.#instance;
    const slots = this.#slotsView();
    slots[0] = first;
    slots[1] = second;
    slots[2] = third;
    const count = third !== 0 ? 3 : second !== 0 ? 2 : first !== 0 ? 1 : 0;
    return ffi.QTS_Call(this.#context, callee, this.#undefined, count, this.#slots);
  }

  #property(object: Pointer, name: string): Pointer {
    return this.#instance.ffi.QTS_GetProp(this.#context, object, this.#string(name));
  }

  #textOf(value: Pointer): string {
    const { ffi } = this.#instance;
    const pointer = ffi.QTS_GetString(this.#context, value);
    if (pointer === 0) return '';
    const text = this.#read(pointer).toString('utf8');
    ffi.QTS_FreeCString(this.#context, pointer);
    ffi.QTS_FreeValuePointer(this.#context, value);
    return text;
  }

  /** A copy, in a buffer that the next call uses again. */
  #read(pointer: Pointer): Buffer {
    const heap = this.#instance.module.HEAPU8;
    const size = heap.indexOf(0, pointer) - pointer;
    if (size > this.#answer.length) this.#answer = Buffer.allocUnsafeSlow(Math.max(size, 2 * this.#answer.length));
    this.#answer.set(heap.subarray(pointer, pointer + size));
    return this.#answer.subarray(0, size);
  }
}

function placeOnly({ line, column }: SandboxFailure) {
  return { line, column };
}

/** The machine has no room for the message itself. */
class NoMemory extends Error {}

/** Of this thread. */
function processorMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}

const NOWHERE = { line: null, column: null };

function stageOf(text: string): CodeType | null {
  return text === 'filter' || text === 'transform' || text === 'routing' ? text : null;
}

/** The innermost place in the function's own code: `at name (filter:3:12)`, or `at filter:3:12` of what does not compile. */
function placeIn(stack: string, stage: CodeType | null): { line: number | null; column: number | null } {
  if (stage === null) return NOWHERE;
  const match = new RegExp(`[( ]${stage}:(\\d+)(?::(\\d+))?`).exec(stack);
  if (match === null) return NOWHERE;
  return { line: Number(match[1]), column: match[2] === undefined ? null : Number(match[2]) };
}
