import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { type Finished, run } from './cli-process.ts';

vi.setConfig({ testTimeout: 60_000 });

function home(): { env: Record<string, string>; file: string } {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-config-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return { env: { XDG_CONFIG_HOME: dir }, file: join(dir, 'millrace', 'config.json') };
}

test('values are kept for later calls, in a file that only its owner can read, tokens masked in lists', async () => {
  const { env, file } = home();
  const config = (...args: string[]): Promise<Finished> => run(['config', ...args], env);
  expect(await config('list')).toEqual({ stdout: '', stderr: '', code: 0 });
  expect(await config('set', 'endpoint', 'http://127.0.0.1:1')).toMatchObject({ stderr: '✓ endpoint set\n', code: 0 });
  const token = 'mr_0123456789abcdefghij';
  const fromStdin = await run(['config', 'set', 'access_token', '-'], env, `${token}\n`);
  expect(fromStdin).toEqual({ stdout: '', stderr: '✓ access_token set\n', code: 0 });
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect((await config('list')).stdout).toBe('endpoint = http://127.0.0.1:1\naccess_token = mr_012****\n');
  expect((await config('get', 'access_token')).stdout).toBe(`${token}\n`);
  expect((await run(['list-basins'], env)).stderr).toMatch(/cannot reach http:\/\/127\.0\.0\.1:1\./);
  expect(await config('unset', 'access_token')).toMatchObject({ stderr: '✓ access_token unset\n', code: 0 });
  const gone = await config('get', 'access_token');
  expect(gone.stderr).toBe('not_set: access_token is not set.\n\nSet it: millrace config set access_token VALUE\n');
  expect(gone.code).toBe(1);
});

test('unknown keys, values and files are refused by name', async () => {
  const { env, file } = home();
  expect(await run(['config', 'set', 'acces_token', 'x'], env)).toMatchObject({
    stderr: expect.stringContaining('expected one of access_token, endpoint'),
    code: 2,
  });
  expect((await run(['config', 'set', 'compression', 'brotli'], env)).stderr).toContain('one of none, gzip, zstd');
  await run(['config', 'set', 'compression', 'zstd'], env);
  writeFileSync(file, '{"endpont": "x"}');
  const broken = await run(['list-basins'], env);
  expect(broken.stderr).toContain(`settings_invalid: ${file}: unknown key "endpont".`);
  expect(broken.code).toBe(1);
});
