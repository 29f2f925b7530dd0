/** The functions of a sink: filter, routing and transform in a sandbox, or a path, as what stands before delivery. */
import { assert } from '@millrace/core/assert';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import { functionError } from './function-failure.ts';
import type { RunOutcome } from './function-messages.ts';
import type { FunctionMeter } from './function-meter.ts';
import type { FunctionLimits, FunctionPool, LoadedFunctions } from './function-pool.ts';
import { type CompiledFunction, compileFunction, type FunctionDefinition } from './function-source.ts';
import { compilePath, type PathFunction } from './path-function.ts';
import type { Processed, ProcessedMessage, Processor } from './processor.ts';

/** null: the sink has none. */
export interface SinkFunctions {
  readonly filter?: FunctionDefinition | null;
  readonly routing?: FunctionDefinition | null;
  /** Of the type transform or path. */
  readonly transform?: FunctionDefinition | null;
}

export interface FunctionProcessorOptions {
  /** Not needed for a path alone. */
  readonly pool: FunctionPool;
  readonly functions: SinkFunctions;
  readonly limits?: FunctionLimits;
  /** Counts what they do. */
  readonly meter?: FunctionMeter | undefined;
}

/** Throws function_invalid. */
export async function createFunctionProcessor({
  pool,
  functions,
  limits,
  meter,
}: FunctionProcessorOptions): Promise<Processor> {
  const { filter, routing, transform } = functions;
  const code = [filter, routing, transform].filter((one) => one != null && one.type !== 'path') as FunctionDefinition[];
  const compiled = code.map(compileFunction);
  const path = transform?.type === 'path' ? compilePath(transform) : null;
  const loaded = compiled.length === 0 ? null : await pool.load(compiled, limits);
  return new FunctionProcessor(compiled, loaded, path, meter ?? null);
}

class FunctionProcessor implements Processor {
  readonly #compiled: readonly CompiledFunction[];
  readonly #loaded: LoadedFunctions | null;
  readonly #path: PathFunction | null;
  readonly #meter: FunctionMeter | null;
  /** Routes are alike for long stretches. */
  #routeText = '';
  #route: Readonly<Record<string, unknown>> = {};

  constructor(
    compiled: readonly CompiledFunction[],
    loaded: LoadedFunctions | null,
    path: PathFunction | null,
    meter: FunctionMeter | null,
  ) {
    this.#compiled = compiled;
    this.#meter = meter;
    this.#loaded = loaded;
    this.#path = path;
  }

  async process(batch: MessageBatch, from: number, signal: AbortSignal): Promise<readonly Processed[]> {
    assert(from < batch.count, 'there is something to process');
    const bytes = batch.body.buffer;
    if (this.#loaded === null) {
      const processed: Processed[] = [];
      for (let i = from; i < batch.count; i++) processed.push(this.#untouched(batch, i, null));
      return processed;
    }
    const outcomes = await this.#loaded.run({ bytes, ends: batch.ends, from, to: batch.count }, signal);
    this.#meter?.count(outcomes);
    return outcomes.map((outcome, i) => this.#processed(batch, from + i, outcome));
  }

  async close(): Promise<void> {
    this.#loaded?.close();
    this.#meter?.close();
  }

  #processed(batch: MessageBatch, index: number, outcome: RunOutcome): Processed {
    switch (outcome.kind) {
      case 'filtered':
        return FILTERED;
      case 'untouched':
        return this.#untouched(batch, index, this.#routeOf(outcome.route));
      case 'made': {
        const route = this.#routeOf(outcome.route);
        return { kind: 'messages', messages: outcome.bodies.map((body) => madeMessage(body, route)) };
      }
      case 'failed':
        return { kind: 'failed', error: functionError(outcome.failure, this.#compiled) };
    }
  }

  #untouched(batch: MessageBatch, index: number, route: ProcessedMessage['route']): Processed {
    const { buffer } = batch.body;
    const start = batch.start(index);
    const end = batch.ends[index]!;
    const made = this.#path?.(buffer, start, end) ?? { body: Buffer.from(buffer.subarray(start, end)), json: true };
    return { kind: 'messages', messages: [{ ...made, route }] };
  }

  #routeOf(text: string | null): ProcessedMessage['route'] {
    if (text === null) return null;
    if (text !== this.#routeText) {
      this.#route = Object.freeze(JSON.parse(text) as Record<string, unknown>);
      this.#routeText = text;
    }
    return this.#route;
  }
}

const FILTERED: Processed = { kind: 'filtered' };

/** A text is sent as it is, not as JSON. */
export function madeMessage(body: Buffer, route: ProcessedMessage['route']): ProcessedMessage {
  if (body[0] !== 0x22) return { body, json: true, route };
  return { body: Buffer.from(JSON.parse(body.toString('utf8')) as string), json: false, route };
}
