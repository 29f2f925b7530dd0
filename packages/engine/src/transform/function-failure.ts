/**
 * A function that failed, for those who may see what about: the text of a user's error may quote values of the row.
 * Logs show the message of the MillraceError, which names function, line and class only (I11). The text is its cause's,
 * for the dead letter of that very message, the management API and `millrace function test`.
 */
import { type ErrorCode, MillraceError } from '@millrace/core/error';
import { type CompiledFunction, invalidFunction, placeName } from './function-source.ts';
import type { SandboxFailure } from './sandbox.ts';

/** The cause of function_failed, function_timeout and function_memory. */
export class FunctionFailure extends Error {
  override readonly name = 'FunctionFailure';
  readonly functionName: string;
  readonly line: number | null;
  readonly column: number | null;
  /** The message of the error says it too: it is ours, and quotes no row. */
  readonly told: boolean;

  constructor(text: string, functionName: string, line: number | null, column: number | null, told = false) {
    super(text);
    this.told = told;
    this.functionName = functionName;
    this.line = line;
    this.column = column;
  }
}

/** What the function said; null: the error is none of a function. May quote values of the row. */
export function functionFailureOf(error: unknown): FunctionFailure | null {
  for (let one = error; one instanceof Error; one = one.cause) if (one instanceof FunctionFailure) return one;
  return null;
}

export const CODES: Readonly<Record<SandboxFailure['kind'], ErrorCode>> = {
  failed: 'function_failed',
  refused: 'function_failed',
  size: 'function_failed',
  timeout: 'function_timeout',
  memory: 'function_memory',
};

const HINTS: Readonly<Record<SandboxFailure['kind'], string>> = {
  failed: 'Try it on the message: `millrace function test NAME`.',
  refused: 'What a function of each type returns is in docs/functions.md.',
  size: 'Return less, or several messages by messages([...]).',
  timeout: 'Look for a loop that does not end, or a regular expression that backtracks.',
  memory: 'Look for a loop that builds up an array or a text.',
};

const LANGUAGE_ERRORS = new Set([
  'Error',
  'EvalError',
  'RangeError',
  'ReferenceError',
  'SyntaxError',
  'TypeError',
  'URIError',
  'InternalError',
  'AggregateError',
]);

export function functionError(failure: SandboxFailure, functions: readonly CompiledFunction[]): MillraceError {
  const compiled = functions.find(({ type }) => type === failure.stage);
  const { line, column } = placeOf(failure, compiled);
  // Which of them it was is not known where a thread had to be ended.
  const suspects = compiled === undefined ? functions : [compiled];
  const name = suspects.map((one) => one.name).join(', ');
  const who = suspects.map((one) => `the ${one.type} function "${one.name}"`).join(' or ');
  const place = line === null ? '' : ` at ${placeName(compiled?.file)}:${line}${column === null ? '' : `:${column}`}`;
  const own = failure.kind === 'failed' ? ` (${classOf(failure.name, compiled)})` : `: ${failure.text}`;
  return new MillraceError(CODES[failure.kind], {
    detail: `${who.charAt(0).toUpperCase()}${who.slice(1)}${place}${own.replace(/\.?$/, '.')}`,
    hint: HINTS[failure.kind],
    cause: new FunctionFailure(textOf(failure), name, line, column, failure.kind !== 'failed'),
  });
}

/** Why a function cannot be used at all: it is not a matter of any row, so its text may be shown. */
export function loadError(failure: SandboxFailure, compiled: CompiledFunction): MillraceError {
  const { line, column } = placeOf(failure, compiled);
  const text = failure.kind === 'failed' ? `${failure.name}: ${failure.text}` : failure.text;
  return invalidFunction(
    { name: compiled.name, type: compiled.type, file: compiled.file ?? undefined },
    { text: importHint(text).replace(/\.?$/, '.'), line, column },
  );
}

function importHint(text: string): string {
  if (!/could not load module|module loader|loading module/i.test(text)) return text;
  return `${text}: a function is one file, and \`import type\` the only import it can have`;
}

function textOf({ kind, name, text }: SandboxFailure): string {
  return kind === 'failed' && name !== 'thrown' ? `${name}: ${text}` : text;
}

/** A class that the language or the function's code names; any other name could be made of a value. */
function classOf(name: string, compiled: CompiledFunction | undefined): string {
  if (LANGUAGE_ERRORS.has(name) || compiled?.classes.includes(name)) return name;
  return 'an error of its own';
}

function placeOf({ line, column }: SandboxFailure, compiled: CompiledFunction | undefined) {
  const shift = line === 1 ? (compiled?.columnShift ?? 0) : 0;
  return { line, column: column === null ? null : Math.max(1, column - shift) };
}
