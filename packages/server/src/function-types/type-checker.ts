/**
 * Functions checked against the types of their tables, by the TypeScript of the user's project. A function that says no
 * types of its own gets those of the tables that its sinks read; positions are those of its code.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Config, FunctionConfig } from '@millrace/api/config';
import { MillraceError } from '@millrace/core/error';
import { compileFunction } from '@millrace/engine/transform/function-source';
import { tableFilter } from '../table-filter.ts';
import { type DeclarationOptions, routeTypeName, typeDeclarations, typeNames } from './type-declarations.ts';

export interface TypeProblem {
  readonly name: string;
  readonly file: string | null;
  readonly line: number;
  readonly column: number;
  readonly text: string;
}

interface Checked {
  readonly config: FunctionConfig;
  readonly text: string;
  /** What was put into the user's lines: on `line` from `column` on, this many characters. */
  readonly inserted: readonly Insertion[];
  readonly lines: number;
}

interface Insertion {
  readonly line: number;
  readonly column: number;
  readonly length: number;
}

const OUTPUT_BYTES_MAX = 16 * 1_048_576;

/** `from`: a directory of the project whose TypeScript is taken. */
export async function checkTypes(config: Config, source: DeclarationOptions, from: string): Promise<TypeProblem[]> {
  const compiler = compilerOf(from);
  const names = typeNames(source.tables);
  const functions = config.functions.filter(({ type }) => type !== 'path' && type !== 'enrichment');
  const directory = mkdtempSync(join(tmpdir(), 'millrace-types-'));
  try {
    writeFileSync(join(directory, 'millrace.d.ts'), typeDeclarations(source));
    const checked = functions.map((one, i) => {
      const made = checkedFile(one, argumentsType(config, one, source, names));
      writeFileSync(join(directory, `f${i}.ts`), made.text);
      return made;
    });
    const files = checked.map((_, i) => `f${i}.ts`);
    const output = await compile(compiler, directory, ['millrace.d.ts', ...files]);
    return problemsIn(output, checked);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function compilerOf(from: string): string {
  try {
    const manifest = createRequire(join(from, 'package.json')).resolve('typescript/package.json');
    const { bin } = JSON.parse(readFileSync(manifest, 'utf8')) as { bin: { tsc: string } };
    return join(dirname(manifest), bin.tsc);
  } catch (cause) {
    throw new MillraceError('function_invalid', {
      detail: `There is no TypeScript in ${from} to check types with.`,
      hint: 'Install it in the project: npm install --save-dev typescript',
      cause,
    });
  }
}

/** Of the tables that reach the function. */
function argumentsType(
  { sinks }: Config,
  { name }: FunctionConfig,
  { tables }: DeclarationOptions,
  names: ReadonlyMap<string, string>,
): string {
  const users = sinks.filter(({ functions }) => Object.values(functions).some((one) => one?.name === name));
  const filters = users.map(({ source }) => tableFilter(source));
  const reached = tables.filter(
    (table) => filters.length === 0 || filters.some((takes) => takes(table.schema, table.name)),
  );
  const union = reached.map((table) => `${names.get(`${table.schema}.${table.name}`)}Arguments`).join(' | ');
  return union === '' ? 'AnyArguments' : union;
}

function checkedFile(config: FunctionConfig, args: string): Checked {
  const { name, code, file } = config;
  const type = config.type as 'filter' | 'transform' | 'routing';
  // Throws where it is no code at all.
  const compiled = compileFunction({ name, type, code, file: file ?? undefined });
  const edits = new Edits(code);
  const plain = typeParameters(edits, config, args);
  // What has types of its own is believed; what has none and destructures gets them from where it is assigned.
  const wanted = functionType(config, plain ? null : args);
  if (compiled.columnShift > 0) {
    edits.replace(0, 0, `const __function: ${wanted} = (`);
    edits.replace(code.replace(/;?\s*$/, '').length, code.length, '\n);\nexport default __function;\n');
    return edits.result(config);
  }
  const exported = /^([ \t]*)export[ \t]+default[ \t]+(?!class\b|[A-Za-z_$][\w$]*[ \t]*;?[ \t]*$)/m.exec(code);
  if (exported !== null) {
    edits.replace(exported.index, exported.index + exported[0].length, `${exported[1]}const __function: ${wanted} = `);
    edits.replace(code.length, code.length, '\n;export default __function;\n');
    return edits.result(config);
  }
  const declared = new RegExp(`\\b(?:function|const|let|var)[ \\t]+(${namesOf(config)})\\b`).exec(code)?.[1];
  const check = declared === undefined ? '' : `void (${declared} satisfies ${functionType(config, null)});\n`;
  edits.replace(code.length, code.length, `\nexport {};\n${check}`);
  return edits.result(config);
}

function namesOf({ type }: FunctionConfig): string {
  return type === 'routing' ? 'route|routing' : type;
}

/**
 * Parameters that are names without types get those of the tables: `(action, record)` becomes
 * `(...[action, record]: Arguments)`, in which an action says what record and changes are. False: nothing was to be done.
 */
function typeParameters(edits: Edits, config: FunctionConfig, args: string): boolean {
  const header = new RegExp(
    `(?:\\bfunction[ \\t]+(?:${namesOf(config)})[ \\t]*|^\\s*(?:function\\s*\\w*\\s*)?|\\bexport[ \\t]+default[ \\t]+(?:function\\s*\\w*\\s*)?` +
      `|\\b(?:const|let|var)[ \\t]+(?:${namesOf(config)})[ \\t]*=[ \\t]*(?:function\\s*\\w*\\s*)?)\\(([\\w$,\\s]*)\\)`,
  ).exec(edits.code);
  if (header === null) return /\([^)]*:/.test(edits.code);
  const names = header[1]!;
  if (names.trim() === '') return true;
  const start = header.index + header[0].length - names.length - 1;
  edits.replace(start, start, '...[');
  edits.replace(start + names.length, start + names.length, `]: ${args}`);
  return true;
}

/** `args` null: whatever arguments, only what it returns. */
function functionType({ type, sinkType }: FunctionConfig, args: string | null): string {
  const route = (sinkType === null ? undefined : routeTypeName(sinkType)) ?? 'Record<string, unknown>';
  const result = { filter: 'boolean', routing: route }[type as string] ?? 'unknown';
  return args === null ? `(...args: any) => ${result}` : `FunctionOf<${args}, ${result}>`;
}

/** Replacements in a text, and where its places went. */
class Edits {
  readonly code: string;
  readonly #made: { from: number; to: number; text: string }[] = [];

  constructor(code: string) {
    this.code = code;
  }

  replace(from: number, to: number, text: string): void {
    this.#made.push({ from, to, text });
    this.#made.sort((a, b) => a.from - b.from);
  }

  result(config: FunctionConfig): Checked {
    let text = '';
    let at = 0;
    const inserted: Insertion[] = [];
    for (const one of this.#made) {
      text += this.code.slice(at, one.from) + one.text;
      at = one.to;
      inserted.push({ ...placeOf(this.code, one.from), length: one.text.length - (one.to - one.from) });
    }
    return { config, text: text + this.code.slice(at), inserted, lines: this.code.split('\n').length };
  }
}

function placeOf(code: string, index: number): { line: number; column: number } {
  const before = code.slice(0, index);
  return { line: before.split('\n').length, column: index - before.lastIndexOf('\n') };
}

/** What it prints; it ends with an error where it found something. */
function compile(compiler: string, directory: string, files: readonly string[]): Promise<string> {
  const options = ['--noEmit', '--strict', '--target', 'es2023', '--lib', 'es2023', '--module', 'esnext'];
  const more = ['--moduleDetection', 'force', '--types', '', '--skipLibCheck', '--pretty', 'false'];
  const args = [compiler, ...options, ...more, '--ignoreConfig', ...files];
  return new Promise((resolve, reject) => {
    const at = { cwd: directory, maxBuffer: OUTPUT_BYTES_MAX };
    execFile(process.execPath, args, at, (error, stdout, stderr) => {
      if (error !== null && typeof error.code !== 'number') reject(error);
      else if (/error TS(?:5\d{3}|6\d{3}|18003)\b/.test(stdout) || stderr.trim() !== '') {
        const detail = `TypeScript could not check them: ${(stderr || stdout).trim().split('\n')[0]}`;
        reject(new MillraceError('function_invalid', { detail }));
      } else resolve(stdout);
    });
  });
}

function problemsIn(output: string, checked: readonly Checked[]): TypeProblem[] {
  const problems: TypeProblem[] = [];
  for (const [, index, lineText, columnText, text] of output.matchAll(
    /^f(\d+)\.ts\((\d+),(\d+)\): error (TS\d+: .*(?:\n {2}.*)*)/gm,
  )) {
    const { config, inserted, lines } = checked[Number(index)]!;
    const { name, file } = config;
    const line = Math.min(Number(lineText), lines);
    let column = Number(lineText) > lines ? 1 : Number(columnText);
    for (const one of inserted) {
      if (one.line !== line || column < one.column) continue;
      column = column >= one.column + one.length ? column - one.length : one.column;
    }
    problems.push({ name, file, line, column: Math.max(1, column), text: text! });
  }
  return problems;
}
