/** A function tried on messages, one by one, with all that it did: for `millrace function test` and the management API. */
import { parseTableName } from '@millrace/api/config';
import { MillraceError } from '@millrace/core/error';
import { parseExactJson } from '@millrace/core/exact-json';
import { functionError, functionFailureOf } from '@millrace/engine/transform/function-failure';
import type { RunOutcome } from '@millrace/engine/transform/function-messages';
import { type FunctionPool, startFunctionPool } from '@millrace/engine/transform/function-pool';
import {
  type CompiledFunction,
  compileFunction,
  type FunctionDefinition,
} from '@millrace/engine/transform/function-source';
import { madeMessage } from '@millrace/engine/transform/functions';
import { compilePath } from '@millrace/engine/transform/path-function';
import { syntheticMessages } from './synthetic-messages.ts';

/** What became of one message. It holds values of the row, for whoever asked. */
export interface Trial {
  readonly input: unknown;
  /** `passed`, `filtered`: of a filter. `made`: of a transform or path. `routed`: of a routing function. */
  readonly outcome: 'passed' | 'filtered' | 'made' | 'routed' | 'failed';
  /** Of `made`: what is sent, none or several; a text where it is sent as such. */
  readonly output?: readonly TrialOutput[];
  /** Of `routed`: what it returned. */
  readonly route?: unknown;
  /** Where the sink says something to what was returned: the whole route, or what is wrong with it. */
  readonly resolved_route?: unknown;
  readonly error?: TrialError;
  /** In the sandbox, with reading and writing JSON. */
  readonly micros: number;
}

export interface TrialOutput {
  readonly body: unknown;
  readonly json: boolean;
}

export interface TrialError {
  readonly code: string;
  readonly summary: string;
  /** What the function itself said. */
  readonly text?: string;
  readonly line?: number;
  readonly column?: number;
}

/** The whole route, or what is wrong with it. */
export type ResolveRoute = (route: Readonly<Record<string, unknown>>, message: unknown) => unknown | MillraceError;

export interface TrialOptions {
  readonly pool: FunctionPool;
  readonly definition: FunctionDefinition;
  readonly messages: readonly string[];
  readonly resolveRoute?: ResolveRoute | undefined;
  readonly signal: AbortSignal;
}

/** Throws function_invalid. */
export async function tryFunction(options: TrialOptions): Promise<Trial[]> {
  const { definition, messages, pool, signal } = options;
  if (messages.length === 0) return [];
  if (definition.type === 'path') return tryPath(definition, messages);
  if (definition.type === 'enrichment') {
    throw new MillraceError('function_invalid', {
      detail: `"${definition.name}" is an enrichment: SQL, which runs on the database.`,
      hint: 'Try it there: `psql`, with arrays of primary keys for $1, $2 and so on.',
    });
  }
  const compiled = compileFunction(definition);
  const loaded = await pool.load([compiled]);
  const bytes = Buffer.from(messages.join(''));
  const ends = new Int32Array(messages.length);
  messages.forEach((text, i) => {
    ends[i] = (i === 0 ? 0 : ends[i - 1]!) + Buffer.byteLength(text);
  });
  const trials: Trial[] = [];
  try {
    while (trials.length < messages.length) {
      const input = { bytes, ends, from: trials.length, to: messages.length };
      for (const outcome of await loaded.run(input, signal)) {
        trials.push(trialOf(outcome, compiled, messages[trials.length]!, options.resolveRoute));
      }
    }
    return trials;
  } finally {
    loaded.close();
  }
}

const ALONE_TIMEOUT_MS = 60_000;

/** Without a server: on these messages, or on made-up ones. */
export async function tryConfigured(
  definition: FunctionDefinition,
  messages: readonly string[] | null,
  table: string | undefined,
): Promise<Trial[]> {
  const pool = startFunctionPool({ threads: 1 });
  const { schema, name } = table === undefined ? { schema: 'public', name: 'example' } : parseTableName(table);
  const given = messages ?? syntheticMessages({ schema, name, columns: null, primaryKey: [] });
  try {
    return await tryFunction({ pool, definition, messages: given, signal: AbortSignal.timeout(ALONE_TIMEOUT_MS) });
  } finally {
    await pool.close();
  }
}

function tryPath(definition: FunctionDefinition, messages: readonly string[]): Trial[] {
  const path = compilePath(definition);
  return messages.map((text) => {
    const begun = performance.now();
    const { body, json } = path(Buffer.from(text), 0, Buffer.byteLength(text));
    const micros = Math.round((performance.now() - begun) * 1000);
    return { input: parseExactJson(text), outcome: 'made', output: [outputOf(body, json)], micros };
  });
}

function trialOf(
  outcome: RunOutcome,
  compiled: CompiledFunction,
  message: string,
  resolveRoute: ResolveRoute | undefined,
): Trial {
  const input = parseExactJson(message);
  const micros = Math.round(outcome.micros);
  switch (outcome.kind) {
    case 'filtered':
      return { input, outcome: 'filtered', micros };
    case 'untouched': {
      if (outcome.route === null) return { input, outcome: 'passed', micros };
      const route = JSON.parse(outcome.route) as Record<string, unknown>;
      if (resolveRoute === undefined) return { input, outcome: 'routed', route, micros };
      const resolved = resolveRoute(route, input);
      if (resolved instanceof MillraceError) {
        return { input, outcome: 'failed', route, error: errorOf(resolved), micros };
      }
      return { input, outcome: 'routed', route, resolved_route: resolved, micros };
    }
    case 'made': {
      const output = outcome.bodies.map((one) => madeMessage(one, null)).map(({ body, json }) => outputOf(body, json));
      return { input, outcome: 'made', output, micros };
    }
    case 'failed':
      return { input, outcome: 'failed', error: errorOf(functionError(outcome.failure, [compiled])), micros };
  }
}

function outputOf(body: Buffer, json: boolean): TrialOutput {
  const text = body.toString('utf8');
  return { body: json ? parseExactJson(text) : text, json };
}

function errorOf(error: MillraceError): TrialError {
  const said = functionFailureOf(error);
  return {
    code: error.code,
    summary: error.message,
    ...(said !== null && { text: said.message }),
    ...(said?.line != null && { line: said.line }),
    ...(said?.column != null && { column: said.column }),
  };
}
