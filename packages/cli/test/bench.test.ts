import { AppendInput, AppendRecord, S2 } from '@s2-dev/streamstore';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { launch, run, type StoreProcess, startStore } from './cli-process.ts';

vi.setConfig({ testTimeout: 90_000 });

let store: StoreProcess;

beforeAll(async () => {
  store = await startStore();
  await run(['create-basin', 'bench-basin'], store.env);
});

afterAll(async () => {
  await store?.[Symbol.asyncDispose]();
});

function streams() {
  const s2 = new S2({ accessToken: store.rootToken, endpoints: { account: store.url, basin: store.url } });
  return s2.basin('bench-basin');
}

async function remaining(): Promise<number> {
  const { streams: listed } = await streams().streams.list({ prefix: 'bench/' });
  return listed.filter(({ deletedAt }) => deletedAt == null).length;
}

test('a run writes at the pace asked for, verifies what it reads twice, and leaves no stream behind', async () => {
  const args = ['bench', 'bench-basin', '-t', '2', '-d', '2s', '-w', '100ms', '-b', '4096'];
  const { stdout, stderr, code } = await run(args, store.env);
  expect(stderr).toMatch(
    /^s2:\/\/bench-basin\/bench\/[0-9a-f-]{36}\n✓ \d+ records verified, live and in the catch-up read\n$/,
  );
  const line = (name: string): string =>
    `${name}: [\\d.]+ MiB/s, \\d+ records/s \\(\\d+ bytes, \\d+ records in [\\d.]+ s\\)\n`;
  const latency = (name: string): string =>
    `${name} latency \\(n = \\d+\\)\n${['min', 'p50', 'p90', 'p99', 'max'].map((row) => `  ${row} +[\\d.]+ ms\n`).join('')}`;
  expect(stdout).toMatch(
    new RegExp(`^${line('Write')}${line('Read')}${line('Catchup')}\n${latency('Ack')}\n${latency('End-to-end')}$`),
  );
  const rate = Number(/^Write: ([\d.]+)/.exec(stdout)![1]);
  expect(rate).toBeLessThan(2.3);
  expect(code).toBe(0);
  expect(await remaining()).toBe(0);
});

test('a record that the run did not write is found, and the run ends with 1', async () => {
  const bench = launch(['bench', 'bench-basin', '-t', '1', '-d', '60s', '-w', '0s', '--json'], store.env);
  try {
    const stderr = await bench.stderrUntil((text) => text.includes('\n'));
    const name = /(bench\/\S+)/.exec(stderr)![1]!;
    const stream = streams().stream(name);
    await vi.waitFor(async () => expect((await stream.checkTail()).tail.seqNum).toBeGreaterThan(0), {
      timeout: 40_000,
    });
    await stream.append(AppendInput.create([AppendRecord.string({ body: 'foreign', timestamp: Date.now() })]));
    const { stdout, stderr: whole, code } = await bench.finished;
    expect(whole).toMatch(/verification_failed: live read: at record \d+: .*catch-up read: at record \d+: /);
    expect(JSON.parse(stdout).mismatches.length).toBeGreaterThanOrEqual(2);
    expect(code).toBe(1);
    expect(await remaining()).toBe(0);
  } finally {
    bench.child.kill('SIGKILL');
  }
});

test('Ctrl-C ends a run and deletes its stream', async () => {
  const bench = launch(['bench', 'bench-basin', '-d', '60s'], store.env);
  try {
    await bench.stderrUntil((text) => text.includes('\n'));
    await vi.waitFor(async () => expect(await remaining()).toBe(1), { timeout: 40_000 });
    bench.child.kill('SIGINT');
    const { stderr, code } = await bench.finished;
    expect(stderr).toContain('■ [ABORTED]');
    expect(code).toBe(130);
    expect(await remaining()).toBe(0);
  } finally {
    bench.child.kill('SIGKILL');
  }
});

test('a basin that is not there is said before anything runs', async () => {
  const { stderr, code } = await run(['bench', 'nowhere-at-all'], store.env);
  expect(stderr).toMatch(/^basin_not_found: /);
  expect(code).toBe(1);
});
