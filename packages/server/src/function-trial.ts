/** A function tried on messages, one by one, with all that it did: for `millrace function test` and the management API. */
import { type Config, type FunctionConfig, parseTableName, type SinkConfig } from '@millrace/api/config';
import { MillraceError } from '@millrace/core/error';
import { parseExactJson } from '@millrace/core/exact-json';
import { type EnrichmentOptions, withEnrichment } from '@millrace/engine/transform/enrichment';
import { functionError, functionFailureOf } from '@millrace/engine/transform/function-failure';
import type { RunOutcome } from '@millrace/engine/transform/function-messages';
import { type FunctionLimits, type FunctionPool, startFunctionPool } from '@millrace/engine/transform/function-pool';
import {
  type CompiledFunction,
  compileFunction,
  type FunctionDefinition,
} from '@millrace/engine/transform/function-source';
import { madeMessage } from '@millrace/engine/transform/functions';
import { compilePath } from '@millrace/engine/transform/path-function';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { enrichmentOf, functionLimitsOf } from './sink-assembly.ts';
import { syntheticMessages } from './synthetic-messages.ts';

/** What became of one message. It holds values of the row, for whoever asked. */
export interface Trial {
  /** With its enrichment, where the sink has one. */
  readonly input: unknown;
  /**
   * `passed`, `filtered`: of a filter. `made`: of a transform or path. `routed`: of a routing function. `enriched`: of an
   * enrichment.
   */
  readonly outcome: 'passed' | 'filtered' | 'made' | 'routed' | 'enriched' | 'failed';
  /** Of `made`: what is sent, none or several; a text where it is sent as such. */
  readonly output?: readonly TrialOutput[];
  /** Of `routed`: what it returned. */
  readonly route?: unknown;
  /** Where the sink says something to what was returned: the whole route, or what is wrong with it. */
  readonly resolved_route?: unknown;
  readonly error?: TrialError;
  /** In the sandbox, with reading and writing JSON. Of an enrichment: of the query for all messages. */
  readonly micros: number;
  /** Where the sink has an enrichment in front of the function: of its query for all messages. */
  readonly enrichment_micros?: number;
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
  /** Of the sink, which comes before the function; or the one that is tried. Absent: there is none. */
  readonly enrichment?: EnrichmentOptions | undefined;
  /** Of the sink. */
  readonly limits?: FunctionLimits | undefined;
  readonly signal: AbortSignal;
}

/** Throws function_invalid. */
export async function tryFunction(options: TrialOptions): Promise<Trial[]> {
  const { definition, messages, enrichment, signal } = options;
  if (messages.length === 0) return [];
  if (definition.type === 'enrichment' && enrichment === undefined) {
    throw new MillraceError('function_invalid', {
      detail: `"${definition.name}" is an enrichment, and there is no database to ask.`,
      hint: 'Name a sink of the database it is for.',
    });
  }
  if (enrichment === undefined) return await tryCode(options);
  const { enriched, micros } = await tryEnrichment(enrichment, messages, signal);
  if (definition.type === 'enrichment') {
    return enriched.map((one) => ('error' in one ? { ...one, micros } : { ...made(one.text), micros }));
  }
  const whole = enriched.flatMap((one) => ('text' in one ? [one.text] : []));
  const tried = (await tryCode({ ...options, messages: whole })).values();
  return enriched.map((one) => {
    const trial = 'error' in one ? { ...one, micros: 0 } : tried.next().value!;
    return { ...trial, enrichment_micros: micros };
  });
}

function made(text: string): Pick<Trial, 'input' | 'outcome' | 'output'> {
  const body = parseExactJson(text);
  return { input: body, outcome: 'enriched', output: [{ body, json: true }] };
}

async function tryCode(options: TrialOptions): Promise<Trial[]> {
  const { definition, messages, pool, limits, signal } = options;
  if (messages.length === 0) return [];
  if (definition.type === 'path') return tryPath(definition, messages);
  const compiled = compileFunction(definition);
  const loaded = await pool.load([compiled], limits);
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

type Enriched =
  | { readonly text: string }
  | { readonly input: unknown; readonly outcome: 'failed'; readonly error: TrialError };

/** As the sink asks: once for all messages. What is enriched already, or cannot be, stays as it is. */
async function tryEnrichment(
  options: EnrichmentOptions,
  messages: readonly string[],
  signal: AbortSignal,
): Promise<{ enriched: Enriched[]; micros: number }> {
  const enriched: Enriched[] = messages.map((text) => ({ text }));
  const asked = messages.flatMap((text, i) => (isEnrichable(text) ? [i] : []));
  const bytesMax = Number.MAX_SAFE_INTEGER;
  const batch = new MessageBatch({ messagesMax: asked.length + 1, bytesMax, messageOverhead: 0 });
  asked.forEach((index, i) => {
    batch.body.bytes(Buffer.from(messages[index]!));
    batch.add(1n, i);
  });
  const processor = withEnrichment(null, { ...options, cache: null });
  const begun = performance.now();
  const failed = (index: number, error: MillraceError) => {
    enriched[index] = { input: parseExactJson(messages[index]!), outcome: 'failed', error: errorOf(error) };
  };
  try {
    for (let from = 0; from < asked.length; ) {
      for (const one of await processor.process(batch, from, signal)) {
        const index = asked[from++]!;
        if (one.kind === 'failed') failed(index, one.error);
        else if (one.kind === 'messages') enriched[index] = { text: one.messages[0]!.body.toString('utf8') };
      }
    }
  } catch (error) {
    if (!(error instanceof MillraceError)) throw error;
    // No row could be asked for.
    for (const index of asked) failed(index, error);
  } finally {
    await processor.close();
  }
  return { enriched, micros: Math.round((performance.now() - begun) * 1000) };
}

/** A message as a sink has it. Whoever gives one can leave anything out. */
function isEnrichable(text: string): boolean {
  const { metadata } = JSON.parse(text) as { readonly metadata?: Readonly<Record<string, unknown>> };
  const keys = metadata?.record_pks;
  return (
    text.includes('"enrichment":null,"database_name":') &&
    metadata?.enrichment === null &&
    typeof metadata.table_schema === 'string' &&
    typeof metadata.table_name === 'string' &&
    Array.isArray(keys) &&
    keys.every((key) => typeof key === 'string')
  );
}

const ALONE_TIMEOUT_MS = 60_000;

export interface AloneOptions {
  readonly config: Config;
  readonly function: FunctionConfig;
  /** null: made-up ones. */
  readonly messages: readonly string[] | null;
  readonly table: string | undefined;
  /** Default: the first that has the function. */
  readonly sink: string | undefined;
  /** False: the database is not asked. */
  readonly enrich: boolean;
}

/** Without a server: as the sink of the configuration would. */
export async function tryConfigured({ config, messages, table, enrich, ...asked }: AloneOptions): Promise<Trial[]> {
  const { name, type, code, file } = asked.function;
  const sink =
    config.sinks.find((one) => (asked.sink === undefined ? usesFunction(one, name) : one.name === asked.sink)) ?? null;
  const database = config.databases.find((one) => sink === null || one.name === sink.database);
  const own = type === 'enrichment' ? asked.function : (sink?.functions.enrichment ?? null);
  const enrichment =
    own === null || database === undefined || !enrich ? undefined : enrichmentOf(sink, own, database, null);
  const { schema, name: tableName } =
    table === undefined ? (sink?.source.includeTables?.[0] ?? EXAMPLE) : parseTableName(table);
  const given = messages ?? syntheticMessages({ schema, name: tableName, columns: null, primaryKey: [] });
  const pool = startFunctionPool({ threads: 1 });
  try {
    return await tryFunction({
      pool,
      definition: { name, type, code, file: file ?? undefined },
      messages: given,
      enrichment,
      limits: sink === null ? undefined : functionLimitsOf(sink),
      signal: AbortSignal.timeout(ALONE_TIMEOUT_MS),
    });
  } finally {
    await pool.close();
  }
}

const EXAMPLE = { schema: 'public', name: 'example' };

export function usesFunction({ functions }: SinkConfig, name: string): boolean {
  return Object.values(functions).some((one) => one?.name === name);
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
    ...(said?.told === false && { text: said.message }),
    ...(said?.line != null && { line: said.line }),
    ...(said?.column != null && { column: said.column }),
  };
}
