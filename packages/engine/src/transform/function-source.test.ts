import { describe, expect, test } from 'vitest';
import { CODE_BYTES_MAX, compileFunction, sourceProblem } from './function-source.ts';

const compile = (code: string, type: 'filter' | 'transform' | 'routing' = 'transform') =>
  compileFunction({ name: 'f', type, code });
const problem = (code: string, type: 'filter' | 'transform' | 'routing' = 'transform') =>
  sourceProblem({ name: 'f', type, code });

describe('the form of a function', () => {
  test.each([
    ['export function transform() {}', ['transform', 'default'], 0],
    ['const a = 1;\nexport default () => a', ['transform', 'default'], 0],
    ['class A {} export default () => new A()', ['transform', 'default'], 0],
    ['const f = () => 1; export { f as transform }', ['transform', 'default'], 0],
    ['function transform(a, b) { return b }', ['default'], 0],
    ['const helper = 1;\nconst transform = () => helper;', ['default'], 0],
    ['(a, b) => b;', ['default'], 16],
    ['function (a, b) { return b }', ['default'], 16],
    ['// why\n(a: string, b: { c: number }) => b.c // done', ['default'], 16],
  ])('%s', (code, exports, columnShift) => {
    expect(compile(code)).toMatchObject({ exports, columnShift });
  });

  test('keeps every position but that of its first line', () => {
    const code = '(action: string, record: Record<string, number>) =>\n  (record as any).price';
    const { javascript } = compile(code);
    const [first, second] = javascript.split('\n');
    expect(first!.indexOf('record')).toBe(16 + code.indexOf('record'));
    expect(second!.indexOf('.price')).toBe(code.split('\n')[1]!.indexOf('.price'));
  });

  test('knows routing by two names', () => {
    expect(compile('function route() {}', 'routing').javascript).toContain('route as default');
    expect(compile('function routing() {}', 'routing').javascript).toContain('routing as default');
  });
});

describe('code that cannot run is refused', () => {
  test('with the line and column of its mistake', () => {
    expect(problem('function transform(a) {\n  return a.;\n}')).toMatchObject({ line: 2 });
    expect(problem('(a b) => a')).toMatchObject({ line: 1, column: 4 });
    expect(problem('enum A { x }\nexport default () => A.x')).toMatchObject({
      line: 1,
      text: expect.stringContaining('Only TypeScript that can be erased'),
    });
  });

  test('when it is Elixir, with the form to write it in', () => {
    const elixir = [
      'def transform(action, record, changes, metadata) do\n  record\nend',
      'def transform(_action, record, _, _), do: record["id"]',
      'record |> Map.get("id")',
      'defp helper(x) do\n  x\nend\ndef transform(a, r, c, m) do\n  if a == "insert" do\n r\n end\nend',
    ];
    for (const code of elixir) {
      expect(problem(code)?.text, code).toContain(
        'function transform(action, record, changes, metadata) { return record; }',
      );
    }
    expect(problem('def route(a, r, c, m) do\n  %{topic: "x"}\nend', 'routing')?.text).toContain('function route(');
  });

  test('when it has no function, is empty, or too long', () => {
    expect(problem('const a = 1;\nconst b = 2;')?.text).toContain('no `function transform(action');
    expect(problem(' \n')?.text).toContain('no code');
    expect(problem(`() => "${'x'.repeat(CODE_BYTES_MAX)}"`)?.text).toContain('larger than');
  });

  test('as function_invalid that names function, file, line and column', () => {
    expect(() => compileFunction({ name: 'f', type: 'filter', code: 'export default (a) => {', file: 'a.ts' })).toThrow(
      /^A function cannot be used as it is\. The filter function "f" at a\.ts:1: /,
    );
  });
});

test('stripping types says nothing on stderr, and other warnings are still said', async () => {
  const warned: string[] = [];
  const listen = (warning: Error) => warned.push(warning.message);
  process.on('warning', listen);
  compile('(a: string) => a');
  process.emitWarning('another one', 'ExperimentalWarning');
  await new Promise((resolve) => setImmediate(resolve));
  process.off('warning', listen);
  expect(warned).toEqual(['another one']);
});
