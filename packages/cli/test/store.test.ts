import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { launch, run, startStore } from './cli-process.ts';

vi.setConfig({ testTimeout: 90_000 });

test('the store says in one line when it is ready, and /health agrees', async () => {
  await using store = await startStore();
  expect(await store.running.stdoutUntil(() => true)).toBe(
    `millrace store listening on ${store.url} (data in ${store.dir})\n`,
  );
  const health = await fetch(`${store.url}/health`);
  expect(health.status).toBe(200);
});

test('SIGTERM ends it with code 0, and a new one has the same streams and no new root token', async () => {
  await using store = await startStore();
  await run(['create-basin', 'lasting-basin', '--create-stream-on-append'], store.env);
  await run(['append', 's2://lasting-basin/x'], store.env, 'kept\n');
  store.running.child.kill('SIGTERM');
  expect((await store.running.finished).code).toBe(0);

  const second = launch(['store', '--port', '0', '--data', store.dir]);
  try {
    const line = await second.stdoutUntil((text) => text.includes('\n'));
    const env = { ...store.env, MILLRACE_ENDPOINT: /http:\S+/.exec(line)![0] };
    expect((await run(['read', 's2://lasting-basin/x', '-n', '1'], env)).stdout).toBe('kept\n');
    // As npm does it: the terminal's Ctrl-C and one passed on.
    second.child.kill('SIGINT');
    await setImmediate();
    second.child.kill('SIGINT');
    expect(await second.finished).toMatchObject({ stderr: expect.not.stringContaining('S2_ACCESS_TOKEN'), code: 0 });
  } finally {
    second.child.kill('SIGKILL');
  }
});

test('a second store on the same directory or port is refused with a code', async () => {
  await using store = await startStore();
  const directory = await run(['store', '--port', '0', '--data', store.dir]);
  expect(directory.stderr).toContain('(data_dir_locked)');
  expect(directory.code).toBe(1);
  const port = new URL(store.url).port;
  const taken = await run(['store', '--port', port, '--data', `${store.dir}/other`]);
  expect(taken.stderr).toContain('(port_in_use)');
  expect(taken.code).toBe(1);
});

test('with --no-auth no token is asked for', async () => {
  await using store = await startStore(['--no-auth']);
  const listed = await run(['list-basins'], { MILLRACE_ENDPOINT: store.url });
  expect(listed).toEqual({ stdout: '', stderr: '', code: 0 });
});

test('an environment variable of a flag says yes or no, and nothing else', async () => {
  await using store = await startStore([], { MILLRACE_NO_AUTH: 'false' });
  const refused = await run(['list-basins'], { MILLRACE_ENDPOINT: store.url });
  expect(refused.stderr).toMatch(/^authn: /);
  await using open = await startStore([], { MILLRACE_NO_AUTH: 'true' });
  expect((await run(['list-basins'], { MILLRACE_ENDPOINT: open.url })).code).toBe(0);
  const unclear = await run(['store', '--data', `${store.dir}/other`], { MILLRACE_NO_AUTH: 'maybe' });
  expect(unclear.stderr).toContain('MILLRACE_NO_AUTH has to be true or false.');
  expect(unclear.code).toBe(2);
});

// prlimit takes away the room to write while the store runs: like a full disk, for one process.
test.skipIf(!existsSync('/usr/bin/prlimit'))(
  'when writing fails, the append fails and the process ends with the coded error; what was acknowledged is there',
  async () => {
    await using store = await startStore();
    const uri = 's2://failing-disk/x';
    await run(['create-basin', 'failing-disk', '--create-stream-on-append'], store.env);
    expect((await run(['append', uri], store.env, 'acknowledged\n')).code).toBe(0);
    const limited = spawnSync('/usr/bin/prlimit', [`--pid=${store.running.child.pid}`, '--fsize=100:100']);
    expect(limited.status).toBe(0);

    const append = await run(['append', uri], store.env, 'lost\n');
    expect(append.stderr).not.toContain('[APPENDED]');
    expect(append.code).toBe(1);
    const ended = await store.running.finished;
    expect(ended.stderr).toContain('(storage_failed)');
    expect(ended.code).toBe(1);

    const again = launch(['store', '--port', '0', '--data', store.dir]);
    try {
      const line = await again.stdoutUntil((text) => text.includes('\n'));
      const env = { ...store.env, MILLRACE_ENDPOINT: /http:\S+/.exec(line)![0] };
      expect((await run(['read', uri, '-n', '5'], env)).stdout).toBe('acknowledged\n');
    } finally {
      again.child.kill('SIGKILL');
      await again.finished;
    }
  },
);

test('store status shows the files of a store that is open, and refuses a directory without one', async () => {
  await using store = await startStore();
  const status = await run(['store', 'status', '--data', store.dir, '--json']);
  expect(status.code).toBe(0);
  expect(JSON.parse(status.stdout)).toMatchObject({
    journals: { main: { segments: 1, firstSegment: 1 }, log: { segments: 1 } },
    packs: { count: 0 },
    generation: 0,
    leftovers: { count: 0 },
  });
  const text = await run(['store', 'status', '--data', store.dir]);
  expect(text.stdout).toMatch(/^main journal {2}1 segment \(1 to 1\), 64.0 MiB$/m);
  const nothing = await run(['store', 'status', '--data', `${store.dir}/nothing`]);
  expect(nothing).toMatchObject({ code: 1, stderr: expect.stringContaining('(data_dir_unusable)') });
});
