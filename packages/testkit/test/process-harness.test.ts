import { spawnSync } from 'node:child_process';
import { processMark } from '@millrace/embedded-postgres/process-table';
import { processHarness } from '@millrace/testkit/process-harness';
import { afterEach, expect, test } from 'vitest';

const script = `
  process.on('SIGTERM', () => { console.log('goodbye'); process.exit(7); });
  console.log('ready ' + process.env.MARK);
  console.error('a warning');
  setInterval(() => {}, 1000);
`;
const harness = processHarness({ args: ['-e', script], env: { MARK: 'blue' } });
afterEach(() => harness.kill());

test('waits for a line, of either stream, said before or after the call', async () => {
  harness.start();
  expect(await harness.waitForLine(/^ready/)).toBe('ready blue');
  expect(await harness.waitForLine((line) => line.includes('warn'), { stream: 'stderr' })).toBe('a warning');
  expect(await harness.waitForLine(/^ready/)).toBe('ready blue');
});

test('a process that ends tells its last words and how it ended', async () => {
  harness.start();
  await harness.waitForLine(/ready/);
  expect(await harness.kill('SIGTERM')).toEqual({ code: 7, signal: null });
  expect(harness.lines.at(-1)).toEqual({ stream: 'stdout', text: 'goodbye' });
  expect(harness.running).toBe(false);
});

test('waiting in vain ends with the process, and shows what it said', async () => {
  harness.start();
  await harness.waitForLine(/ready/);
  const vain = harness.waitForLine(/never/);
  await Promise.all([expect(vain).rejects.toThrow(/ended with SIGKILL[\s\S]*stdout: ready blue/), harness.kill()]);
  await expect(harness.waitForLine(/never/)).rejects.toThrow(/is not running/);
});

test('waiting in vain ends with the time', async () => {
  harness.start();
  await expect(harness.waitForLine(/never/, { timeoutMs: 20 })).rejects.toThrow(/after 20 ms/);
});

test('a restart is another process with the same arguments', async () => {
  harness.start();
  await harness.waitForLine(/ready/);
  const first = harness.pid;
  expect(await harness.restart()).toEqual({ code: null, signal: 'SIGKILL' });
  expect(await harness.waitForLine(/ready/)).toBe('ready blue');
  expect(harness.pid).not.toBe(first);
});

test('a program that does not exist is reported, not thrown', async () => {
  const missing = processHarness({ command: '/no/such/program', args: [] });
  missing.start();
  await expect(missing.waitForLine(/x/)).rejects.toThrow(/could not be started/);
});

test('no child outlives its killed parent', async () => {
  const source = new URL('../src/process-harness.ts', import.meta.url).href;
  const parent = spawnSync(
    process.execPath,
    [
      '--input-type=module-typescript',
      '-e',
      `import { processHarness } from ${JSON.stringify(source)};
       const child = processHarness({ args: ['-e', 'console.log("up"); setInterval(() => {}, 1000)'] });
       child.start();
       await child.waitForLine(/up/);
       console.log(child.pid);
       process.kill(process.pid, 'SIGKILL');`,
    ],
    { encoding: 'utf8' },
  );
  const pid = Number(parent.stdout.trim());
  expect(pid).toBeGreaterThan(0);
  await expect.poll(() => processMark(pid), { timeout: 30_000, interval: 10 }).toBeNull();
});
