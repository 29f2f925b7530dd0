import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type Finished, launch, run, type StoreProcess, startStore } from './cli-process.ts';

/** apply, diff and --init-file: what a store is to hold, said in a file. */

vi.setConfig({ testTimeout: 90_000 });

let store: StoreProcess;
let dir: string;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'millrace-apply-'));
  store = await startStore();
});

afterAll(async () => {
  await store?.[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

const cli = (...args: string[]): Promise<Finished> => run(args, store.env);

function specFile(name: string, spec: unknown): string {
  const file = join(dir, name);
  writeFileSync(file, typeof spec === 'string' ? spec : JSON.stringify(spec));
  return file;
}

const SPEC = {
  basins: [
    {
      name: 'applied-basin',
      config: { create_stream_on_append: true, default_stream_config: { retention_policy: '1h' } },
      streams: [{ name: 'orders', config: { retention_policy: '90days' } }, { name: 'a/b' }],
    },
  ],
};

test('apply makes what is missing, changes what differs and leaves the rest, and a dry run says so before', async () => {
  const file = specFile('shop.json', SPEC);
  expect(await cli('apply', '-f', file, '--dry-run')).toEqual({
    stdout: `+ basin applied-basin
    default_stream_config.retention_policy: 1h
    stream_cipher: none
    create_stream_on_append: true
    create_stream_on_read: false
+ stream s2://applied-basin/orders
    storage_class: express
    retention_policy: 90days
    timestamping.mode: client-prefer
    timestamping.uncapped: false
    delete_on_empty.min_age: off
+ stream s2://applied-basin/a/b
    storage_class: express
    retention_policy: 1h
    timestamping.mode: client-prefer
    timestamping.uncapped: false
    delete_on_empty.min_age: off
`,
    stderr: '',
    code: 0,
  });
  expect((await cli('ls')).stdout).toBe('');

  const outcome = (basin: string, orders: string, other: string): Finished => ({
    stdout: '',
    stderr: `basin applied-basin (${basin})\nstream s2://applied-basin/orders (${orders})\nstream s2://applied-basin/a/b (${other})\n✓ Done\n`,
    code: 0,
  });
  expect(await cli('apply', '-f', file)).toEqual(outcome('created', 'created', 'created'));
  const unchanged = 'config unchanged';
  expect(await cli('apply', '-f', file)).toEqual(outcome(unchanged, unchanged, unchanged));

  await cli(
    'reconfigure-stream',
    's2://applied-basin/orders',
    '--timestamping-mode',
    'arrival',
    '--retention-policy',
    '2d',
  );
  await cli('reconfigure-basin', 'applied-basin', '--create-stream-on-read', 'true');
  const preview = await cli('apply', '-f', file, '--dry-run');
  expect(preview.stdout).toBe(`~ basin applied-basin
    create_stream_on_read: true → false
~ stream s2://applied-basin/orders
    retention_policy: 2days → 90days
    timestamping.mode: arrival → client-prefer
= stream s2://applied-basin/a/b
`);
  expect(await cli('apply', '-f', file)).toEqual(outcome('config updated', 'config updated', unchanged));
});

test('a file with mistakes changes nothing and names them all', async () => {
  const file = specFile('wrong.json', {
    basins: [{ name: 'wrong-basin', config: { create_streams: true }, streams: [{ nme: 'x' }] }],
  });
  const { stderr, code } = await cli('apply', '-f', file);
  expect(stderr).toContain(`${file}:1: basins[0].config.create_streams: unknown key`);
  expect(stderr).toContain(`${file}:1: basins[0].streams[0].nme: unknown key (did you mean "name"?)`);
  expect(stderr).toContain('(spec_invalid)');
  expect(code).toBe(1);
  expect((await cli('list-basins', '--prefix', 'wrong')).stdout).toBe('');
  expect((await cli('apply')).stderr).toContain('give the file with -f FILE');
});

test('diff shows the settings that differ, and tells it in its exit code when asked', async () => {
  await cli('apply', '-f', specFile('diff.json', SPEC));
  await cli('create-basin', 'diff-basin');
  await cli('create-stream', 's2://diff-basin/a', '--retention-policy', '1h');
  await cli('create-stream', 's2://diff-basin/b', '--timestamping-uncapped');
  const text = 'retention_policy: 1h → 7days\ntimestamping.uncapped: false → true\n';
  const pair = ['s2://diff-basin/a', 's2://diff-basin/b'];
  expect(await cli('diff', ...pair)).toEqual({ stdout: text, stderr: '', code: 0 });
  expect(await cli('diff', ...pair, '--exit-code')).toEqual({ stdout: text, stderr: '', code: 1 });
  expect(await cli('diff', pair[0]!, pair[0]!, '--exit-code')).toEqual({ stdout: '', stderr: '', code: 0 });
  const json = await cli('diff', 'diff-basin', 'applied-basin', '-o', 'json');
  expect(JSON.parse(json.stdout)).toEqual({
    resource: 'basin',
    left: 'diff-basin',
    right: 'applied-basin',
    differences: [
      { field: 'create_stream_on_append', left: 'false', right: 'true' },
      { field: 'default_stream_config.retention_policy', left: null, right: '1h' },
    ],
  });
  await cli('issue-access-token', 'one', '--basins-prefix', '', '--ops', 'list-basins');
  await cli('issue-access-token', 'two', '--basins-prefix', 'x', '--ops', 'list-basins,create-basin');
  const tokens = await cli('diff', 'one', 'two', '-r', 'access-token');
  expect(tokens.stdout).toBe('scope.basins.prefix:  → x\nscope.ops: list-basins → create-basin, list-basins\n');
  expect((await cli('diff', 'one', 'none', '-r', 'access-token')).stderr).toMatch(/^access_token_not_found: /);
  expect((await cli('diff', 'diff-basin', pair[0]!)).code).toBe(2);
});

test('--init-file makes the same at the start, again at the next one, and refuses to start with a wrong file', async () => {
  const data = join(dir, 'init');
  const file = specFile('init.json', SPEC);
  const start = () => launch(['store', '--port', '0', '--data', data, '--no-auth'], { MILLRACE_INIT_FILE: file });
  const first = start();
  try {
    const url = /http:\S+/.exec(await first.stdoutUntil((text) => text.includes('\n')))![0];
    const listed = await run(['list-streams', 'applied-basin', '--endpoint', url]);
    expect(listed.stdout).toBe('s2://applied-basin/a/b\ns2://applied-basin/orders\n');
    const lines = await first.stderrUntil((text) => text.includes('orders created'));
    expect(lines).toContain('basin applied-basin created');
    await run(['reconfigure-stream', 's2://applied-basin/orders', '--retention-policy', '1d', '--endpoint', url]);
  } finally {
    first.child.kill('SIGTERM');
    await first.finished;
  }
  const second = start();
  try {
    const url = /http:\S+/.exec(await second.stdoutUntil((text) => text.includes('\n')))![0];
    expect(await second.stderrUntil((text) => text.includes('updated'))).not.toContain('created');
    const config = await run(['get-stream-config', 's2://applied-basin/orders', '--endpoint', url]);
    expect(config.stdout).toMatch(/^retention_policy +90days$/m);
  } finally {
    second.child.kill('SIGTERM');
    await second.finished;
  }
  const wrong = await run([
    'store',
    '--port',
    '0',
    '--data',
    data,
    '--init-file',
    specFile('bad.json', '{"basins": 1}'),
  ]);
  expect(wrong.stderr).toContain('(spec_invalid)');
  expect(wrong.code).toBe(1);
  const both = await run(['store', '--port', '0', '--data', data, '--init-file', join(dir, 'nowhere.json')]);
  expect(both.stderr).toContain('(spec_unreadable)');
});

test('--schema prints a JSON Schema that editors take', async () => {
  const { stdout } = await run(['apply', '--schema']);
  expect(JSON.parse(stdout)).toMatchObject({ type: 'object', additionalProperties: false });
});
