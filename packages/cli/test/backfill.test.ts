import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { clientOf, launch, type Running, run } from './cli-process.ts';

let db: TestDatabase;
let dir: string;
let running: Running;
let env: Record<string, string>;

beforeAll(async () => {
  db = await createDatabase();
  await db.sql(`CREATE TABLE items (id int PRIMARY KEY, kind text);
    INSERT INTO items SELECT i, CASE WHEN i % 2 = 0 THEN 'even' ELSE 'odd' END FROM generate_series(1, 400) i`);
  dir = mkdtempSync(join(tmpdir(), 'millrace-cli-backfill-'));
  const config = join(dir, 'millrace.yaml');
  writeFileSync(
    config,
    `databases:
  - name: shop
    url: ${db.url}
    slot: { name: ${db.name}, create_if_not_exists: true }
    publication: { name: mine, create_if_not_exists: true }
sinks:
  - name: items
    database: shop
    source: { include_tables: [items] }
    destination: { type: s2, basin: shop-streams, stream: items }
`,
  );
  running = launch(['start', '--config', config, '--data', join(dir, 'data'), '--port', '0']);
  env = await clientOf(running);
  await running.stderrUntil((text) => text.includes('items: running'));
}, 60_000);

afterAll(async () => {
  running.child.kill('SIGTERM');
  await running.finished;
  await db.drop();
  rmSync(dir, { recursive: true, force: true });
});

test('a backfill is started and watched to its end', async () => {
  const started = await run(['backfill', 'start', 'items', 'items', '--where', "kind = 'even'", '--watch'], env);
  expect(started).toMatchObject({ code: 0 });
  expect(started.stdout).toMatch(/^[\w-]{36} {2}public\.items +completed +█+ 100% {2}200 rows\n$/);
  const listed = await run(['backfill', 'list', 'items', '--json'], env);
  expect(JSON.parse(listed.stdout)).toMatchObject([
    { state: 'completed', where: "kind = 'even'", rows_ingested_count: 200 },
  ]);
}, 60_000);

test('a backfill is paused, resumed, cancelled and shown', async () => {
  const started = await run(['backfill', 'start', 'items', '--paused', '--key', '7', '--key', '["8"]', '--json'], env);
  const { id } = JSON.parse(started.stdout);
  expect((await run(['backfill', 'show', 'items', id], env)).stdout).toMatch(/\nstate +paused\n.*\nkeys_count +2\n/s);
  expect((await run(['backfill', 'resume', 'items', id], env)).stdout).toContain(id);
  expect((await run(['backfill', 'show', 'items', id, '--watch'], env)).stdout).toContain('2 rows');
  const second = JSON.parse((await run(['backfill', 'start', 'items', '--paused', '--json'], env)).stdout);
  expect((await run(['backfill', 'cancel', 'items', second.id], env)).stdout).toContain('cancelled');
  const watched = await run(['backfill', 'show', 'items', second.id, '--watch'], env);
  expect(watched).toMatchObject({ code: 1, stderr: expect.stringContaining('was cancelled') });
}, 60_000);

test('what is wrong is said by field, with exit code 1', async () => {
  const wrong = await run(['backfill', 'start', 'items', 'items', '--sort', 'size', '--from', '3'], env);
  expect(wrong).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('sort_column: is not a column of the table'),
  });
  expect(await run(['backfill', 'list', 'nothing'], env)).toMatchObject({ code: 1 });
}, 60_000);
