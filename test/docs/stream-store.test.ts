import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseResourceSpec } from '@millrace/api/resource-spec';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { run, type StoreProcess, startStore } from '../../packages/cli/test/cli-process.ts';
import { markdownFile, ROOT } from './markdown.ts';

/** What docs/stream-store.md shows is run against a real store, in the order of the page. */

const page = markdownFile('docs/stream-store.md');
let store: StoreProcess;
let dir: string;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'millrace-docs-'));
  store = await startStore();
});

afterAll(async () => {
  await store?.[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

/** Times are different each time. */
function timeless(text: string): string {
  return text.replaceAll(/\b1\d{12}\b/g, 'MS').replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME');
}

async function output(command: string, args: readonly string[], input: string): Promise<string> {
  const child = spawn(command, args, {
    cwd: command === 'bash' ? dir : ROOT,
    env: { PATH: process.env.PATH, XDG_CONFIG_HOME: dir, NO_COLOR: '1', ...store.env },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let text = '';
  let problems = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (problems += chunk));
  child.stdin.end(input);
  const [code] = await once(child, 'close');
  expect(code, problems).toBe(0);
  return text;
}

test.skipIf(!existsSync('/usr/bin/curl'))(
  'its shell blocks do what they show',
  async () => {
    const main = join(ROOT, 'packages/cli/src/main.ts');
    const command = `millrace() { ${JSON.stringify(process.execPath)} ${JSON.stringify(main)} "$@"; }`;
    const blocks = page.blocks.flatMap((block, at) =>
      block.info === 'sh run' ? [{ script: block.text, shown: page.blocks[at + 1] }] : [],
    );
    expect(blocks.length).toBe(3);
    for (const { script, shown } of blocks) {
      expect(shown?.info).toBe('text output');
      const text = script.replaceAll('http://127.0.0.1:8080', store.url);
      const printed = await output('bash', ['-euo', 'pipefail'], `${command}\n${text}`);
      expect(timeless(printed).trim()).toBe(timeless(shown!.text).trim());
    }
  },
  120_000,
);

test('its TypeScript does what it says', async () => {
  const [block] = page.blocks.filter(({ info }) => info === 'ts run');
  const code = block!.text.replace('http://127.0.0.1:8080', store.url);
  const printed = await output(
    process.execPath,
    ['--no-warnings', '--input-type=module-typescript', '--eval', code],
    '',
  );
  expect(printed).toContain('durable: 0 to 1\n');
  expect(printed).toMatch(/^0 \[ \[ 'type', 'order-placed' \] \] \{"id":1\}$/m);
  expect(printed).toMatch(/^1 \[\] \{"id":2\}$/m);
}, 60_000);

test('its file of basins and streams is one', () => {
  const [block] = page.blocks.filter(({ info }) => info === 'json spec');
  const { basins } = parseResourceSpec(block!.text, 'shop.json');
  expect(basins[0]!.streams).toHaveLength(2);
});

test('a record of an encrypted stream comes back with its key only', async () => {
  const env = store.env;
  await run(['create-basin', 'secret-streams', '--stream-cipher', 'aes-256-gcm', '--create-stream-on-append'], env);
  const key = Buffer.alloc(32, 7).toString('base64');
  await run(['append', 's2://secret-streams/letters', '-k', key], env, 'for few eyes\n');
  const read = (...flags: string[]) => run(['read', 's2://secret-streams/letters', '-n', '1', ...flags], env);
  expect((await read('-k', key)).stdout).toBe('for few eyes\n');
  expect((await read()).stderr).toMatch(/^bad_header: /);
  expect((await read('-k', Buffer.alloc(32).toString('base64'))).stderr).toMatch(/^decryption_failed: /);
}, 60_000);
