/**
 * What the functions of sinks did and what it took, counted for metrics. The labels are names of the configuration: there
 * are as many counts as functions in sinks, and a closed sink has none.
 */
import { type ErrorCode, MillraceError } from '@millrace/core/error';
import { CODES } from './function-failure.ts';
import type { RunOutcome } from './function-messages.ts';
import type { CodeType } from './function-source.ts';

export interface MeteredFunction {
  readonly name: string;
  readonly type: CodeType | 'enrichment';
}

export interface FunctionCounts {
  readonly database: string;
  readonly sink: string;
  readonly function: string;
  readonly type: MeteredFunction['type'];
  /** Of an enrichment: queries. */
  readonly calls: number;
  /** Of all functions of code of the sink together, on its first: they run as one. */
  readonly seconds: number;
  readonly errors: ReadonlyMap<ErrorCode, number>;
  /** Cut off because a limit was reached. */
  readonly killed: { readonly time: number; readonly memory: number };
}

/** Of all sinks. */
export class FunctionMeters {
  readonly #open = new Set<FunctionMeter>();

  /** The functions in the order in which they are called. */
  open(database: string, sink: string, functions: readonly MeteredFunction[]): FunctionMeter {
    const meter = new FunctionMeter({ database, sink }, functions, () => this.#open.delete(meter));
    this.#open.add(meter);
    return meter;
  }

  /** One for each function of each sink. A sink that is being replaced may be there twice for a moment. */
  read(): FunctionCounts[] {
    const counts = new Map<string, Counted>();
    for (const meter of this.#open) {
      for (const one of meter.counted) {
        const key = JSON.stringify([one.database, one.sink, one.function, one.type]);
        const before = counts.get(key);
        counts.set(key, before === undefined ? one : sumOf(before, one));
      }
    }
    return [...counts.values()];
  }
}

interface Counted extends FunctionCounts {
  calls: number;
  seconds: number;
  readonly errors: Map<ErrorCode, number>;
  readonly killed: { time: number; memory: number };
}

/** Of one sink. */
export class FunctionMeter {
  readonly counted: readonly Counted[];
  readonly #close: () => void;

  constructor(
    labels: Pick<FunctionCounts, 'database' | 'sink'>,
    functions: readonly MeteredFunction[],
    close: () => void,
  ) {
    this.#close = close;
    this.counted = functions.map(({ name, type }) => ({
      ...labels,
      ...{ function: name, type, calls: 0, seconds: 0 },
      errors: new Map(),
      killed: { time: 0, memory: 0 },
    }));
  }

  /** Of messages that went through filter, routing and transform. */
  count(outcomes: readonly RunOutcome[]): void {
    let micros = 0;
    let filtered = 0;
    for (const outcome of outcomes) {
      micros += outcome.micros;
      if (outcome.kind === 'filtered') filtered++;
      else if (outcome.kind === 'failed') this.#countFailed(outcome.failure);
    }
    const passed = outcomes.length - filtered;
    for (const one of this.counted) {
      if (one.type !== 'enrichment') one.calls += one.type === 'filter' ? outcomes.length : passed;
    }
    const first = this.counted[0];
    if (first !== undefined) first.seconds += micros / 1e6;
  }

  /** Where it is not known which of them it was, it is the first. The ones after it were not called. */
  #countFailed({ kind, stage }: Extract<RunOutcome, { kind: 'failed' }>['failure']): void {
    const at = Math.max(
      0,
      this.counted.findIndex(({ type }) => type === stage),
    );
    this.#fail(this.counted[at], CODES[kind]);
    for (const after of this.counted.slice(at + 1)) after.calls--;
  }

  /** Of an enrichment. */
  countQuery(seconds: number, error: unknown): void {
    const one = this.counted[0];
    if (one === undefined) return;
    one.calls++;
    one.seconds += seconds;
    if (error !== null) this.#fail(one, error instanceof MillraceError ? error.code : 'internal');
  }

  #fail(one: Counted | undefined, code: ErrorCode): void {
    if (one === undefined) return;
    one.errors.set(code, (one.errors.get(code) ?? 0) + 1);
    if (code === 'function_timeout') one.killed.time++;
    if (code === 'function_memory') one.killed.memory++;
  }

  close(): void {
    this.#close();
  }
}

function sumOf(a: Counted, b: Counted): Counted {
  const errors = new Map(a.errors);
  for (const [code, count] of b.errors) errors.set(code, (errors.get(code) ?? 0) + count);
  const killed = { time: a.killed.time + b.killed.time, memory: a.killed.memory + b.killed.memory };
  return { ...a, calls: a.calls + b.calls, seconds: a.seconds + b.seconds, errors, killed };
}
