/**
 * A function of the configuration as code that a sandbox can run: its form found, TypeScript stripped with every
 * position kept, what cannot run refused with its line. Nothing of it is executed here.
 *
 * Forms, by the type of the function (filter: `filter`, transform: `transform`, routing: `route` or `routing`):
 *
 *   module       export function transform(action, record, changes, metadata) { ... }   or   export default ...
 *   declaration  function transform(action, record, changes, metadata) { ... }          helpers may stand beside it
 *   expression   (action, record, changes, metadata) => ...                             or   function (...) { ... }
 */
import { stripTypeScriptTypes } from 'node:module';
import { MillraceError } from '@millrace/core/error';

/** The types that are code. `path` and `enrichment` are none. */
export type CodeType = 'filter' | 'transform' | 'routing';

/** What is run where a function stands in the configuration. */
export interface FunctionDefinition {
  readonly name: string;
  readonly type: CodeType | 'path' | 'enrichment';
  /** Of a path: in place of `path`. */
  readonly code?: string | undefined;
  readonly path?: string | undefined;
  /** Where the code was read from, for messages. */
  readonly file?: string | undefined;
}

/** An ECMAScript module, with positions as in the code of the user but for what was put in front of its first line. */
export interface CompiledFunction {
  readonly name: string;
  readonly type: CodeType;
  readonly file: string | null;
  readonly javascript: string;
  /** Exports to look at, in this order. */
  readonly exports: readonly string[];
  readonly columnShift: number;
  /** Names of classes that the code declares: an error of such a class may be named without showing a value. */
  readonly classes: readonly string[];
}

export interface FunctionProblem {
  readonly text: string;
  /** From 1. */
  readonly line: number | null;
  readonly column: number | null;
}

export const CODE_BYTES_MAX = 256 * 1024;

const NAMES: Readonly<Record<CodeType, readonly string[]>> = {
  filter: ['filter'],
  transform: ['transform'],
  routing: ['route', 'routing'],
};
const SIGNATURE = '(action, record, changes, metadata)';
const EXPORT = /(?:^|[;}\s])export\s+(?:default|function|async|const|let|var|class)\b|(?:^|[;}\s])export\s*\{/;
const EXPRESSION_OPEN = 'export default (';

/** Throws function_invalid. */
export function compileFunction(definition: FunctionDefinition): CompiledFunction {
  const result = tryCompile(definition);
  if ('problem' in result) throw invalidFunction(definition, result.problem);
  return result.compiled;
}

/** What is wrong with it as it stands, without running it; null: nothing. */
export function sourceProblem(definition: FunctionDefinition): FunctionProblem | null {
  const result = tryCompile(definition);
  return 'problem' in result ? result.problem : null;
}

export function invalidFunction(
  { name, type, file }: Pick<FunctionDefinition, 'name' | 'type' | 'file'>,
  { text, line, column }: FunctionProblem,
): MillraceError {
  const place = line === null ? '' : ` at ${placeName(file)}:${line}${column === null ? '' : `:${column}`}`;
  return new MillraceError('function_invalid', {
    detail: `The ${type} function "${name}"${place}: ${text}`,
    hint: 'See docs/functions.md for the forms a function can have.',
  });
}

export function placeName(file: string | null | undefined): string {
  return file ?? 'code';
}

function tryCompile(definition: FunctionDefinition): { compiled: CompiledFunction } | { problem: FunctionProblem } {
  const { name, code, file } = definition;
  const type = definition.type;
  if (type === 'path' || type === 'enrichment') return { problem: problem(`a ${type} function has no code.`) };
  if (code === undefined || code.trim() === '') return { problem: problem('there is no code.') };
  if (Buffer.byteLength(code) > CODE_BYTES_MAX) {
    return { problem: problem(`the code is larger than ${CODE_BYTES_MAX} bytes.`) };
  }
  const names = NAMES[type];
  const declared = names.find((one) => declarationOf(one).test(code));
  const form = EXPORT.test(code) ? 'module' : declared !== undefined ? 'declaration' : 'expression';
  const source = form === 'expression' ? `${EXPRESSION_OPEN}${code.replace(/;(\s*)$/, ' $1')}\n)` : code;
  const columnShift = form === 'expression' ? EXPRESSION_OPEN.length : 0;
  const stripped = strip(source, columnShift);
  if ('problem' in stripped) {
    if (looksLikeElixir(code)) return { problem: elixirProblem(names[0]!) };
    if (form === 'expression' && !('problem' in strip(code, 0))) {
      return { problem: problem(`there is no \`function ${names[0]}${SIGNATURE}\` and no \`export default\`.`) };
    }
    return stripped;
  }
  const javascript =
    form === 'declaration' ? `${stripped.javascript}\nexport { ${declared} as default };` : stripped.javascript;
  const exports = form === 'module' ? [...names, 'default'] : ['default'];
  const classes = [...code.matchAll(/\bclass\s+([A-Za-z_$][\w$]{0,63})/g)].map((match) => match[1]!);
  return { compiled: { name, type, file: file ?? null, javascript, exports, columnShift, classes } };
}

function problem(text: string, line: number | null = null, column: number | null = null): FunctionProblem {
  return { text, line, column };
}

function declarationOf(name: string): RegExp {
  return new RegExp(`^[ \\t]*(?:(?:async\\s+)?function\\s*\\*?\\s*${name}\\b|(?:const|let|var)\\s+${name}\\b)`, 'm');
}

function strip(source: string, columnShift: number): { javascript: string } | { problem: FunctionProblem } {
  try {
    return { javascript: quietly(() => stripTypeScriptTypes(source)) };
  } catch (error) {
    const { code, message, stack = '' } = error as Error & { code?: string };
    // Node puts the place in front of the stack: `:line`, the line, and a caret below its column.
    const [place = '', , carets = ''] = stack.split('\n');
    const line = /^[^\n]*:(\d+)$/.exec(place)?.[1];
    const caret = carets.indexOf('^');
    const column = caret < 0 ? null : caret + 1 - (line === '1' ? columnShift : 0);
    const hint = code === 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX' ? ' Only TypeScript that can be erased is taken.' : '';
    return { problem: problem(`${message}.${hint}`, line === undefined ? null : Number(line), column) };
  }
}

/** Stripping types is stable in all but name in the Node that comes along; its warning would be ours to explain. */
function quietly<T>(work: () => T): T {
  const { emitWarning } = process;
  process.emitWarning = ((...args: Parameters<typeof emitWarning>) => {
    if (args[1] !== ('ExperimentalWarning' as unknown)) emitWarning.apply(process, args);
  }) as typeof emitWarning;
  try {
    return work();
  } finally {
    process.emitWarning = emitWarning;
  }
}

/** Asked only of what is no TypeScript. */
function looksLikeElixir(code: string): boolean {
  return (
    /^\s*defp?\s+\w+.*(?:\bdo\s*$|,\s*do:)/m.test(code) || /\|>/.test(code) || /\bdo\s*$[\s\S]*^\s*end\b/m.test(code)
  );
}

function elixirProblem(name: string): FunctionProblem {
  const body = { filter: 'return record.price > 0;', route: 'return {};' }[name] ?? 'return record;';
  return problem(
    `this is Elixir, and functions are TypeScript or JavaScript. Write \`function ${name}${SIGNATURE} { ${body} }\`; ` +
      'record["price"] and metadata.table_name are the same in both.',
  );
}
