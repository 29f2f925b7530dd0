/** `path` functions: one value of the message in its place, as Sequin has them. No code runs. */
import { MillraceError } from '@millrace/core/error';
import type { FunctionDefinition, FunctionProblem } from './function-source.ts';
import { findValue } from './json-bytes.ts';

const PATH_LENGTH_MAX = 1000;
const NULL = Buffer.from('null');

/** null: it can be used. */
export function pathProblem(path: string): FunctionProblem | null {
  const at = (text: string): FunctionProblem => ({ text, line: null, column: null });
  if (path === '') return at('there is no path.');
  if (path.length > PATH_LENGTH_MAX) return at(`the path is longer than ${PATH_LENGTH_MAX} characters.`);
  const [first, ...rest] = path.split('.');
  if (first === 'action') return rest.length === 0 ? null : at('action is a text and has no keys.');
  if (first !== 'record' && first !== 'changes' && first !== 'metadata') {
    return at('a path begins with record, changes, action or metadata, as in record.address.city.');
  }
  return rest.every((key) => key !== '') ? null : at('a path has a key after each dot.');
}

/** The value as it is sent: a text itself, everything else as JSON. What is not there is null. */
export type PathFunction = (body: Buffer, start: number, end: number) => { body: Buffer; json: boolean };

/** Throws function_invalid. */
export function compilePath({ name, path, code }: Pick<FunctionDefinition, 'name' | 'path' | 'code'>): PathFunction {
  const text = (path ?? code ?? '').trim();
  const problem = pathProblem(text);
  if (problem !== null) {
    throw new MillraceError('function_invalid', { detail: `The path function "${name}": ${problem.text}` });
  }
  const keys = text.split('.');
  return (bytes, start, end) => {
    const found = findValue(bytes, start, end, keys);
    if (found === null) return { body: NULL, json: true };
    const value = bytes.subarray(found.start, found.end);
    if (value[0] !== 0x22) return { body: Buffer.from(value), json: true };
    return { body: Buffer.from(JSON.parse(value.toString('utf8')) as string), json: false };
  };
}
