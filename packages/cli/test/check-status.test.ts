import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { clientOf, launch, type Running, run } from './cli-process.ts';

let db: TestDatabase;
let dir: string;
let config: string;

beforeAll(async () => {
  db = await createDatabase();
  await db.sql(`CREATE TABLE items (id int PRIMARY KEY)`);
  dir = mkdtempSync(join(tmpdir(), 'millrace-cli-status-'));
  config = join(dir, 'millrace.yaml');
  writeFileSync(
    config,
    `databases:
  - name: shop
    url: ${db.url}
    slot: { name: ${db.name}, create_if_not_exists: true }
    publication: { name: mine }
sinks:
  - name: items
    database: shop
    source: { include_tables: [items] }
    destination: { type: s2, basin: shop-streams, stream: items }
`,
  );
});

afterAll(async () => {
  await db.drop();
  rmSync(dir, { recursive: true, force: true });
});

test('check ends with 1 and the SQL, then with 0; as JSON it says the same', async () => {
  const before = await run(['check', '--config', config]);
  expect(before.code).toBe(1);
  expect(before.stdout).toContain('✗ database shop');
  expect(before.stdout).toContain('      CREATE PUBLICATION "mine" FOR TABLE');
  expect(before.stdout).toMatch(/\n1 error, \d+ warnings?, \d+ notices?\n$/);
  await db.sql(`CREATE PUBLICATION mine FOR TABLE items WITH (publish_via_partition_root = true)`);
  const after = await run(['check', '--config', config, '--data', dir, '--change-log-max', '1MiB', '--json']);
  expect(after.code).toBe(0);
  const report = JSON.parse(after.stdout);
  expect(report.ok).toBe(true);
  expect(report.checked.map(({ kind, name }: { kind: string; name: string }) => `${kind} ${name}`)).toEqual([
    'database shop',
    'sink items',
    `data directory ${dir}`,
  ]);
  expect(before.stdout + after.stdout).not.toContain(db.config.password === 'postgres' ? '\x1b' : db.config.password);
}, 60_000);

test('status shows what runs, aligned, and its exit code is whether all flows', async () => {
  const running: Running = launch(['start', '--config', config, '--data', join(dir, 'data'), '--port', '0']);
  let url = '';
  try {
    const env = await clientOf(running);
    url = env.MILLRACE_ENDPOINT;
    await db.sql(`INSERT INTO items VALUES (1)`);
    let json = await run(['status', '--json'], env);
    for (let tries = 0; tries < 40 && json.code !== 0; tries++) json = await run(['status', '--json'], env);
    expect(json.code).toBe(0);
    const view = JSON.parse(json.stdout);
    expect(view).toMatchObject({ ready: true, reasons: [], databases: [{ name: 'shop', state: 'streaming' }] });
    const text = (await run(['status'], env)).stdout;
    const [first, , head, row] = text.split('\n');
    expect(first).toBe('✓ ready');
    expect(head).toMatch(/^DATABASE {2}STATE {6}HEALTH {2,}SLOT/);
    expect(row!.indexOf(db.name)).toBe(head!.indexOf('SLOT'));
    expect(text).toMatch(/\nitems {2}shop {6}running {2}\w+ +0 +\d\n/);

    const watching = launch(['status', '--watch', '--json'], env);
    const lines = await watching.stdoutUntil((all) => all.split('\n').length > 2);
    for (const line of lines.split('\n').slice(0, 2)) expect(JSON.parse(line)).toMatchObject({ ready: true });
    watching.child.kill('SIGINT');
    expect((await watching.finished).code).toBe(130);

    expect(await run(['status'], { ...env, S2_ACCESS_TOKEN: 'wrong' })).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('root token'),
    });
  } finally {
    running.child.kill('SIGTERM');
    await running.finished;
  }
  const gone = await run(['status'], { MILLRACE_ENDPOINT: url, S2_ACCESS_TOKEN: 'x' });
  expect(gone).toMatchObject({ code: 1, stderr: expect.stringContaining('millrace start') });
}, 90_000);
