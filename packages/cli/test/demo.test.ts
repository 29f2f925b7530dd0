import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { launch, run } from './cli-process.ts';

interface Message {
  readonly record: Record<string, unknown>;
  readonly changes: Record<string, unknown> | null;
  readonly action: string;
}

function messagesOf(stdout: string): Message[] {
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
}

test('demo --once shows the six rows and three changes, with how soon each was readable, and leaves nothing behind', async () => {
  const temporary = mkdtempSync(join(tmpdir(), 'millrace-demo-test-'));
  try {
    const { stdout, stderr, code } = await run(['demo', '--once'], { TMPDIR: temporary });
    expect(stderr).toMatch(/^⦿ \d+ bytes \(6 records in range 0\.\.=5\)$/m);
    const messages = messagesOf(stdout);
    expect(messages.map(({ action }) => action)).toEqual([...Array(6).fill('read'), 'update', 'insert', 'delete']);
    expect(messages[0]!.record).toMatchObject({ id: 1, name: 'Avocados (3 pack)', price: '5.99' });
    expect(messages[6]!.changes).toMatchObject({ price: '5.99' });
    expect(messages[8]!.record).toMatchObject({ id: 7, name: 'Heirloom Tomatoes (1 lb)' });
    expect(stderr).toMatch(
      /^✓ UPDATE products SET price = 6\.49, .+ -- readable (less than )?\d+ ms after the commit$/m,
    );
    expect(stderr).toMatch(/^✓ INSERT INTO products .+ -- readable /m);
    expect(stderr).toMatch(/^✓ DELETE FROM products WHERE id = 7; {2}-- readable /m);
    expect(code).toBe(0);
    expect(readdirSync(temporary)).toEqual([]);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}, 60_000);

test('the demo tells how to connect, what it tells works, and Ctrl-C ends it; with --data it goes on where it was', async () => {
  const data = mkdtempSync(join(tmpdir(), 'millrace-demo-test-'));
  const first = launch(['demo', '--data', data]);
  try {
    const stderr = await first.stderrUntil((text) => text.includes('Ctrl-C ends the demo'));
    const env = { S2_ACCESS_TOKEN: '', S2_ACCOUNT_ENDPOINT: '', S2_BASIN_ENDPOINT: '' };
    for (const [, name, value] of stderr.matchAll(/(S2_\w+)=(\S+)/g)) env[name as keyof typeof env] = value!;
    expect(stderr).toContain(`npx millrace read s2://millrace-demo/products`);
    const read = await run(['read', 's2://millrace-demo/products', '-n', '9'], env);
    expect(messagesOf(read.stdout)).toHaveLength(9);
    const forbidden = await run(['read', 's2://millrace-demo/products', '-n', '9'], { ...env, S2_ACCESS_TOKEN: 'no' });
    expect(forbidden.code).toBe(1);

    first.child.kill('SIGINT');
    const ended = await first.finished;
    expect(ended.code).toBe(0);
    expect(existsSync(data)).toBe(true);
    const before = messagesOf(ended.stdout).length;

    const second = await run(['demo', '--once', '--data', data]);
    expect(second.code).toBe(0);
    const messages = messagesOf(second.stdout);
    expect(messages).toHaveLength(before + 3);
    expect(messages.filter(({ action }) => action === 'read')).toHaveLength(6);
  } finally {
    first.child.kill('SIGKILL');
    await first.finished;
    rmSync(data, { recursive: true, force: true });
  }
}, 60_000);

test('a demo that cannot start says why, ends with code 1 and leaves nothing behind', async () => {
  const temporary = mkdtempSync(join(tmpdir(), 'millrace-demo-test-'));
  const taken = createServer().listen(0, '127.0.0.1');
  try {
    await once(taken, 'listening');
    const port = String((taken.address() as AddressInfo).port);
    const { stderr, stdout, code } = await run(['demo', '--once', '--port', port], { TMPDIR: temporary });
    expect(stderr).toContain('(port_in_use)');
    expect(stdout).toBe('');
    expect(code).toBe(1);
    expect(readdirSync(temporary)).toEqual([]);
  } finally {
    taken.close();
    rmSync(temporary, { recursive: true, force: true });
  }
}, 60_000);
