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
  const wanted = functionType(config, args);
  const lines = code.split('\n').length;
  if (compiled.columnShift > 0) {
    const open = `const __function: ${wanted} = (`;
    const text = `${open}${code.replace(/;(\s*)$/, ' $1')}\n);\nexport default __function;\n`;
    return { config, text, inserted: [{ line: 1, column: 1, length: open.length }], lines };
  }
  const exported = /^([ \t]*)export[ \t]+default[ \t]+/m.exec(code);
  if (
    exported !== null &&
    !/^(?:class|[A-Za-z_$][\w$]*[ \t]*;?[ \t]*$)/m.test(code.slice(exported.index + exported[0].length))
  ) {
    const open = `${exported[1]}const __function: ${wanted} = `;
    const text = `${code.slice(0, exported.index)}${open}${code.slice(exported.index + exported[0].length)}\n;export default __function;\n`;
    const at = placeOf(code, exported.index);
    return { config, text, inserted: [{ ...at, length: open.length - exported[0].length }], lines };
  }
  return declared(config, args, lines);
}

/** Parameters without types of their own become those of the tables: `function f(...[a, b]: Arguments)`. */
function declared(config: FunctionConfig, args: string, lines: number): Checked {
  const { code } = config;
  const names = config.type === 'routing' ? 'route|routing' : config.type;
  const found = new RegExp(`\\bfunction[ \\t]+(${names})[ \\t]*\\(([\\w$,\\s]*)\\)`).exec(code);
  const last = names.split('|')[0]!;
  const wanted = functionType(config, 'never[]');
  const name = found?.[1] ?? last;
  const tail = `\nexport {};\nvoid (${name} satisfies ${wanted});\n`;
  if (found === null || found[2]!.trim() === '') return { config, text: `${code}${tail}`, inserted: [], lines };
  const start = found.index + found[0].length - found[2]!.length - 1;
  const end = start + found[2]!.length;
  const open = '...[';
  const text = `${code.slice(0, start)}${open}${code.slice(start, end)}]: ${args}${code.slice(end)}${tail}`;
  const inserted = [
    { ...placeOf(code, start), length: open.length },
    { ...placeOf(code, end), length: `]: ${args}`.length },
  ];
  return { config, text, inserted, lines };
}

function functionType({ type, sinkType }: FunctionConfig, args: string): string {
  switch (type) {
    case 'filter':
      return `FilterFunction<${args}>`;
    case 'routing':
      return `RouteFunction<${args}, ${(sinkType === null ? undefined : routeTypeName(sinkType)) ?? 'Record<string, unknown>'}>`;
    default:
      return `TransformFunction<${args}>`;
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
    for (const one of inserted.toReversed()) {
      if (one.line === line && column >= one.column + one.length) column -= one.length;
    }
    problems.push({ name, file, line, column: Math.max(1, column), text: text! });
  }
  return problems;
}
