/** Whether the functions of a configuration can be used: compiled, evaluated, and tried on made-up messages. */
import type { Config, FunctionConfig } from '@millrace/api/config';
import { MillraceError } from '@millrace/core/error';
import { type FunctionPool, startFunctionPool } from '@millrace/engine/transform/function-pool';
import { compileFunction } from '@millrace/engine/transform/function-source';
import { compilePath } from '@millrace/engine/transform/path-function';
import { type TrialError, tryFunction } from './function-trial.ts';
import { syntheticMessages } from './synthetic-messages.ts';

export interface FunctionFinding {
  readonly name: string;
  /** `error`: it cannot be used. `warning`: it failed on a made-up message, which may be the message's fault. */
  readonly severity: 'error' | 'warning';
  readonly code: string;
  readonly text: string;
}

const TIMEOUT_MS = 30_000;

/** Throws function_invalid for the first that is new or changed and cannot be used. */
export async function requireFunctions(now: Config, next: Config, pool: FunctionPool): Promise<void> {
  const known = new Set(now.functions.map((one) => JSON.stringify(one)));
  for (const one of next.functions) if (!known.has(JSON.stringify(one))) await requireFunction(one, pool);
}

async function requireFunction({ name, type, code, file }: FunctionConfig, pool: FunctionPool): Promise<void> {
  if (type === 'enrichment') return;
  if (type === 'path') compilePath({ name, code });
  else (await pool.load([compileFunction({ name, type, code, file: file ?? undefined })])).close();
}

/** Everything there is to say about each of them, without a server. */
export async function checkFunctions(functions: readonly FunctionConfig[]): Promise<FunctionFinding[]> {
  if (functions.length === 0) return [];
  const pool = startFunctionPool({ threads: 1 });
  try {
    return await findingsOf(functions, pool);
  } finally {
    await pool.close();
  }
}

async function findingsOf(functions: readonly FunctionConfig[], pool: FunctionPool): Promise<FunctionFinding[]> {
  const findings: FunctionFinding[] = [];
  for (const config of functions) {
    try {
      await requireFunction(config, pool);
      const failure = await dryRun(config, pool);
      if (failure !== null) {
        const { code, summary, text } = failure;
        findings.push({
          name: config.name,
          severity: 'warning',
          code,
          text: text === undefined ? summary : `${summary} ${text}`,
        });
      }
    } catch (error) {
      if (!(error instanceof MillraceError)) throw error;
      findings.push({ name: config.name, severity: 'error', code: error.code, text: error.message });
    }
  }
  return findings;
}

async function dryRun({ name, type, code }: FunctionConfig, pool: FunctionPool): Promise<TrialError | null> {
  if (type === 'enrichment' || type === 'path') return null;
  const messages = syntheticMessages({ schema: 'public', name: 'example', columns: null, primaryKey: ['id'] });
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const trials = await tryFunction({ pool, definition: { name, type, code }, messages, signal });
  return trials.find(({ error }) => error !== undefined)?.error ?? null;
}
