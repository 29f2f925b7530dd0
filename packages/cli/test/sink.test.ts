/** `millrace sink` and `millrace dead-letters` against a running process with a webhook that refuses some messages. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { clientOf, launch, type Running, run } from './cli-process.ts';

const WAIT = { timeout: 30_000, interval: 50 };
let db: TestDatabase;
let dir: string;
let running: Running;
let env: Record<string, string>;
let endpoint: Server;
const seen: number[] = [];
/** Rows that the endpoint refuses. */
const refused = new Set<number>();

beforeAll(async () => {
  endpoint = createServer(async (request, response) => {
    let body = '';
    for await (const part of request) body += part;
    const { id } = (JSON.parse(body) as { record: { id: number } }).record;
    if (!refused.has(id)) seen.push(id);
    response.writeHead(refused.has(id) ? 422 : 200).end();
  });
  await new Promise<void>((resolve) => endpoint.listen(0, '127.0.0.1', resolve));
  const { port } = endpoint.address() as AddressInfo;
  db = await createDatabase();
  await db.sql('CREATE TABLE items (id int PRIMARY KEY, v int)');
  dir = mkdtempSync(join(tmpdir(), 'millrace-cli-sink-'));
  const config = join(dir, 'millrace.yaml');
  writeFileSync(
    config,
    `databases:
  - name: shop
    url: ${db.url}
    slot: { name: ${db.name}, create_if_not_exists: true }
    publication: { name: mine, create_if_not_exists: true }
http_endpoints:
  - name: local
    url: http://127.0.0.1:${port}
sinks:
  - name: keeps
    database: shop
    destination: { type: webhook, http_endpoint: local, batch: false }
    retry: { min_ms: 600000, max_ms: 600000 }
  - name: gives-up
    database: shop
    destination: { type: webhook, http_endpoint: local, batch: false }
    retry: { min_ms: 10, max_ms: 10 }
    max_retry_count: 1
  - name: stream
    database: shop
    destination: { type: s2, basin: shop-streams, stream: items }
  - name: off
    database: shop
    status: disabled
    destination: { type: s2, basin: shop-streams, stream: off }
`,
  );
  const flags = ['--port', '0', '--webhooks-allow-private'];
  running = launch(['start', '--config', config, '--data', join(dir, 'data'), ...flags]);
  env = await clientOf(running);
  await running.stderrUntil((text) => text.includes('gives-up: running'));
}, 60_000);

afterAll(async () => {
  running.child.kill('SIGTERM');
  await running.finished;
  endpoint.closeAllConnections();
  endpoint.close();
  await db.drop();
  rmSync(dir, { recursive: true, force: true });
});

const json = async (...args: string[]) => {
  const { code, stdout, stderr } = await run([...args, '--json'], env);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout);
};
/** What `sink show` asks; without a process for each look. */
const show = async (sink: string) => {
  const headers = { authorization: `Bearer ${env['S2_ACCESS_TOKEN']}` };
  const answer = await fetch(`${env['MILLRACE_ENDPOINT']}/api/sinks/${sink}/delivery`, { headers });
  return (await answer.json()) as Record<string, unknown>;
};

test('a message that blocks its group is found, tried again and skipped; the sinks are listed', async () => {
  refused.add(1).add(2);
  await db.sql('INSERT INTO items VALUES (1, 0)');
  // Groups do not wait for each other: the letters' order is that of their last tries.
  await vi.waitFor(async () => expect(await show('gives-up')).toMatchObject({ messages_dead_lettered: 1 }), WAIT);
  await db.sql('INSERT INTO items VALUES (2, 0), (3, 0)');
  await vi.waitFor(async () => expect(await show('keeps')).toMatchObject({ blocked_groups: 2 }), WAIT);
  const failing = await json('sink', 'messages', 'keeps', '--failing', '--show-keys');
  expect(failing).toMatchObject([
    { table: 'public.items', keys: ['1'], state: 'failing', tries: 1, error: { code: 'sink_refused' } },
    { keys: ['2'] },
  ]);
  expect((await json('sink', 'messages', 'keeps'))[0]).not.toHaveProperty('keys');
  refused.delete(1);
  expect(await run(['sink', 'redeliver', 'keeps', failing[0].id], env)).toMatchObject({ code: 0 });
  await vi.waitFor(async () => expect(await show('keeps')).toMatchObject({ blocked_groups: 1 }), WAIT);
  expect(seen).toContain(1);
  expect((await run(['sink', 'skip', 'keeps', failing[1].id], env)).stdout).toContain('skipped');
  expect(await json('sink', 'show', 'keeps')).toMatchObject({
    messages_pending: 0,
    messages_skipped: 1,
    messages_delivered: 2,
  });
  const nowhere = await run(['dead-letters', 'list', 'nope'], env);
  expect(nowhere).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('No sink "nope". There is: keeps, gives-up, stream, off.'),
  });
  const unknown = await run(['sink', 'skip', 'keeps', 'nothing'], env);
  expect(unknown.code).toBe(1);
  expect(unknown.stderr).toContain('No such message');
  const lines = (await run(['sink', 'list'], env)).stdout;
  expect(lines).toMatch(/^keeps .*webhook .*running/m);
  expect(lines).toMatch(/^stream .* s2 /m);
}, 60_000);

test('what was given up is listed, shown, sent again and thrown away', async () => {
  await vi.waitFor(async () => expect(await show('gives-up')).toMatchObject({ messages_dead_lettered: 2 }), WAIT);
  const [first, second] = await json('dead-letters', 'list', 'gives-up', '--table', 'items', '--code', 'sink_refused');
  expect(first).toMatchObject({ action: 'insert', table: 'items', tries: 2, error: { code: 'sink_refused' } });
  expect(first).not.toHaveProperty('message');
  const whole = await json('dead-letters', 'show', 'gives-up', String(second.seq_num));
  expect(whole.message).toMatchObject({ record: { id: 2 }, action: 'insert' });
  const before = seen.length;
  expect(await json('dead-letters', 'replay', 'gives-up', '--to-seq', String(first.seq_num))).toMatchObject({
    matched: 1,
    delivered: 1,
  });
  expect(seen.slice(before)).toEqual([1]);
  // Refused again: another letter in place of the first.
  expect(await json('dead-letters', 'replay', 'gives-up')).toMatchObject({ matched: 1, given_up: 1 });
  const left = await json('dead-letters', 'list', 'gives-up');
  expect(left).toHaveLength(1);
  expect(left[0].seq_num).toBeGreaterThan(second.seq_num);
  expect((await run(['dead-letters', 'purge', 'gives-up'], env)).code).toBe(2);
  expect(await json('dead-letters', 'purge', 'gives-up', '--all')).toEqual({ purged: 1 });
  expect(await json('dead-letters', 'list', 'gives-up')).toEqual([]);
}, 60_000);

test('a sink is paused, resumed and rewound while it runs; one into a stream is paused as well, not rewound', async () => {
  refused.clear();
  const { stdout } = await run(['sink', 'pause', 'gives-up'], env);
  expect(stdout).toMatch(/^state +paused$/m);
  expect(await json('sink', 'pause', 'stream')).toMatchObject({ state: 'paused', operator: 'paused' });
  const delivered = (await show('stream')).messages_delivered;
  const before = seen.length;
  await db.sql('INSERT INTO items VALUES (10, 0)');
  await vi.waitFor(() => expect(seen.slice(before)).toEqual([10]), WAIT);
  expect((await show('stream')).messages_delivered).toBe(delivered);
  await json('sink', 'resume', 'stream');
  await json('sink', 'resume', 'gives-up');
  await vi.waitFor(() => expect(seen.slice(before)).toEqual([10, 10]), WAIT);
  const more = { messages_delivered: (delivered as number) + 1 };
  await vi.waitFor(async () => expect(await show('stream')).toMatchObject(more), WAIT);
  const from = new Date(Date.now() + 1).toISOString();
  await new Promise((resolve) => setTimeout(resolve, 20));
  await db.sql('INSERT INTO items VALUES (11, 0)');
  await vi.waitFor(() => expect(seen.slice(before)).toEqual([10, 10, 11, 11]), WAIT);
  await vi.waitFor(async () => expect(await show('gives-up')).toMatchObject({ messages_pending: 0 }), WAIT);
  await json('sink', 'rewind', 'gives-up', '--time', from);
  await vi.waitFor(() => expect(seen.slice(before)).toEqual([10, 10, 11, 11, 11]), WAIT);
  expect((await run(['sink', 'rewind', 'gives-up'], env)).code).toBe(2);
  const ahead = await run(['sink', 'rewind', 'gives-up', '--lsn', 'FF/0'], env);
  expect(ahead).toMatchObject({ code: 1, stderr: expect.stringMatching(/^rewind_ahead: .*Name an earlier place/s) });
  const stream = await run(['sink', 'rewind', 'stream', '--beginning'], env);
  expect(stream.code).toBe(1);
  expect(stream.stderr).toMatch(/A sink into a stream .*max_retry_count/);
  const off = await run(['sink', 'resume', 'off'], env);
  expect(off).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('by the configuration. Say status: active there'),
  });
}, 60_000);

test('a token for workers is made, listed and revoked', async () => {
  const cli = (...args: string[]) => run(['consume-token', ...args], env);
  const issued = await cli(
    'issue',
    'worker',
    '--sink',
    'keeps',
    '--sink',
    'stream',
    '--sink-prefix',
    'gives',
    '--expires-in',
    '1h',
  );
  expect(issued).toEqual({ code: 0, stderr: '', stdout: expect.stringMatching(/^mr_\S{43}\n$/) });
  const other = await run(['sink', 'list', '--token', issued.stdout.trim()], env);
  expect(other).toMatchObject({ code: 1, stderr: expect.stringMatching(/^permission_denied: /) });
  expect((await cli('list')).stdout).toMatch(/^worker {2}keeps, stream, "gives"\* {2}expires \S+Z\n$/);
  expect(await cli('revoke', 'worker')).toEqual({ code: 0, stdout: '', stderr: "✓ Consume token 'worker' revoked\n" });
  expect((await cli('list')).stdout).toBe('');
});
