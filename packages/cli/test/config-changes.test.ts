// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${VAR} is the syntax under test.

/** `millrace config plan`, `apply`, `export`, `validate`, `schema` and `interpolate`, as a person calls them. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { launch, type Running, run } from './cli-process.ts';

vi.setConfig({ testTimeout: 120_000, hookTimeout: 60_000 });

let dir: string;
let running: Running;
let env: Record<string, string>;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'millrace-config-cli-'));
  await start();
});

afterAll(async () => {
  running.child.kill('SIGTERM');
  await running.finished;
  rmSync(dir, { recursive: true, force: true });
});

/** Without a file: what was applied before. */
async function start(flags: readonly string[] = [], more: Record<string, string> = {}): Promise<void> {
  running = launch(['start', '--data', join(dir, 'data'), '--port', '0', ...flags], more);
  const stdout = await running.stdoutUntil((text) => text.includes('listening on'));
  const MILLRACE_ENDPOINT = /listening on (\S+)/.exec(stdout)![1]!;
  if (env === undefined) {
    const stderr = await running.stderrUntil((text) => text.includes('S2_ACCESS_TOKEN='));
    env = { S2_ACCESS_TOKEN: /S2_ACCESS_TOKEN=(\S+)/.exec(stderr)![1]! };
  }
  env = { ...env, MILLRACE_ENDPOINT };
}

async function stop(): Promise<string> {
  running.child.kill('SIGTERM');
  return (await running.finished).stderr;
}

function write(name: string, text: string): string {
  const file = join(dir, name);
  writeFileSync(file, text);
  return file;
}

const ENDPOINTS = `http_endpoints:
  - name: hook
    url: https://x.example
    encrypted_headers: { Token: "\${HOOK_TOKEN}", Other: literal-s3cret, Third: "\${file:third.txt}" }
functions:
  - name: paid
    type: filter
    file: paid.ts
users: [{ email: a@b.c, password: x }]
`;

test('a file with a variable, a file and a function of its own is planned, applied, exported, and runs again', async () => {
  write('third.txt', 'from-a-file\n');
  write(
    'paid.ts',
    'export function filter(action: string, record: { status: string }) {\n  return record.status === "paid";\n}\n',
  );
  const file = write('millrace.yaml', ENDPOINTS);
  const here = { ...env, HOOK_TOKEN: 'from-a-variable' };

  const plan = await run(['config', 'plan', file], here);
  expect(plan).toMatchObject({ code: 0, stderr: '' });
  expect(plan.stdout).toBe(`+ http_endpoint hook
    name: hook
    url: https://x.example
    encrypted_headers.Token: \${HOOK_TOKEN}
    encrypted_headers.Other: (redacted)
    encrypted_headers.Third: \${file:third.txt}

+ function paid
    name: paid
    type: filter
    code: 4 lines

! users: has no effect: there are no users here; make an access token for each with millrace issue-access-token

2 to create, 0 to change, 0 to delete.
`);
  const unapproved = await run(['config', 'apply', file], here);
  expect(unapproved).toMatchObject({ code: 2, stderr: expect.stringContaining('give --auto-approve') });
  const applied = await run(['config', 'apply', file, '--auto-approve'], here);
  expect(applied).toMatchObject({ code: 0, stderr: '✓ applied 2 changes\n' });

  const exported = await run(['config', 'export'], env);
  expect(exported.stdout).not.toContain('s3cret');
  expect(exported.stdout).toContain('Token: ${HOOK_TOKEN}');
  expect(exported.stdout).toContain('Other: ${kept:http_endpoints/hook/encrypted_headers.Other}');
  const all = join(dir, 'all.yaml');
  expect(await run(['config', 'export', '--show-sensitive', '-o', all], env)).toMatchObject({ code: 0, stdout: '' });
  const again = await run(['config', 'plan', write('exported.yaml', exported.stdout), '--prune'], env);
  expect(again.stdout).toBe('Nothing changes.\n');
  expect((await run(['config', 'plan', all, '--prune'], { ...env, HOOK_TOKEN: 'from-a-variable' })).stdout).toBe(
    'Nothing changes.\n',
  );

  const log = await stop();
  expect(log).not.toContain('s3cret');
  await start();
  expect((await run(['config', 'export'], env)).stdout).toBe(exported.stdout);
});

test('what a file lacks stays and is named, unless it is pruned', async () => {
  const file = write('less.yaml', 'http_endpoints: [{ name: other, url: "http://y.example" }]');
  const kept = await run(['config', 'plan', file], env);
  expect(kept.stdout).toContain(
    'Not in the file, and left as it is (--prune deletes it):\n  http_endpoint "hook"\n  function "paid"\n',
  );
  const pruned = JSON.parse((await run(['config', 'apply', file, '--prune', '--auto-approve', '--json'], env)).stdout);
  expect(pruned.resources).toEqual({ databases: [], http_endpoints: ['other'], functions: [], sinks: [] });
});

test('what cannot be is refused with its line, by the server and without one', async () => {
  const broken = write(
    'broken.yaml',
    'http_endpoints:\n  - name: a\n    ulr: x\nfunctions: [{ name: f, type: filter, code: "return {" }]\n',
  );
  const code = write('code.yaml', 'functions: [{ name: f, type: filter, code: "return {" }]\n');
  const [refused, offline, offlineCode, refusedCode, missing] = await Promise.all([
    run(['config', 'plan', broken], env),
    run(['config', 'validate', broken]),
    run(['config', 'validate', code]),
    run(['config', 'plan', code], env),
    run(['config', 'validate', join(dir, 'nowhere.yaml')]),
  ]);
  expect(refused.code).toBe(1);
  expect(refused.stderr).toContain('http_endpoints[0].ulr: line 3: unknown key (did you mean "url"?)');
  expect(offline.code).toBe(1);
  expect(offline.stderr).toContain('broken.yaml:3: http_endpoints[0].ulr: unknown key (did you mean "url"?)');
  expect(offlineCode.stderr).toContain('functions "f".code: ');
  expect(refusedCode.stderr).toContain('functions "f".code: ');
  expect(missing.stderr).toContain('there is no such file');
});

test('a file is checked, interpolated and described without a server', async () => {
  const file = join(dir, 'millrace.yaml');
  const HOOK_TOKEN = 'from-a-variable';
  const [valid, unset, expanded, schema] = await Promise.all([
    run(['config', 'validate', file], { HOOK_TOKEN }),
    run(['config', 'validate', file]),
    run(['config', 'interpolate', file], { HOOK_TOKEN }),
    run(['config', 'schema']),
  ]);
  expect(valid).toMatchObject({ code: 0, stdout: '' });
  expect(valid.stderr).toContain('is valid: 0 databases, 0 sinks, 1 function, 1 HTTP endpoint');
  expect(unset.stderr).toContain('HOOK_TOKEN is not set');
  expect(expanded.stdout).toContain('Token: from-a-variable');
  expect(expanded.stdout).toContain('Third: from-a-file\n');
  expect(JSON.parse(schema.stdout)).toMatchObject({ title: 'millrace.yaml' });
});

test('a start with a file says what it drops', async () => {
  await stop();
  await start(['--config', write('one.yaml', 'functions: [{ name: p, type: path, path: record }]')]);
  const log = await stop();
  expect(log).toContain('http_endpoint "other" was applied before and is not in the file: it does not run');
});
