/** What docs/postgres.md says about rights, tried on a real Postgres from which everybody else's rights are taken. */
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { settled } from '../end-to-end/backfills.ts';
import { eventually, type Millrace, type MillraceOptions, startMillrace } from '../end-to-end/millrace.ts';
import { markdownFile } from './markdown.ts';

// Servers start here, beside other tests.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 120_000 });

let db: TestDatabase;
let role: string;
let millrace: Millrace | undefined;
beforeEach(async () => {
  db = await createDatabase();
  role = `role_${db.name}`;
  await db.sql(`CREATE TABLE products (id int PRIMARY KEY, name text); CREATE TABLE orders (id int PRIMARY KEY);
    INSERT INTO products VALUES (1, 'there before');
    REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE ALL ON DATABASE ${db.name} FROM PUBLIC`);
});
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await db.sql(`REASSIGN OWNED BY ${role} TO postgres; DROP OWNED BY ${role}`).catch(() => {});
  await db.sql(`DROP ROLE IF EXISTS ${role}`);
  await db.drop();
});

/** Runs the block, less the statements that begin with `without`. Roles belong to the server, which other tests share. */
async function grant(info: string, without?: string): Promise<void> {
  const [block] = markdownFile('docs/postgres.md').blocks.filter((one) => one.info === info);
  const statements = block!.text.split(';\n').filter((one) => without === undefined || !one.startsWith(without));
  await db.sql(statements.join(';\n').replaceAll('millrace', role).replaceAll('DATABASE shop', `DATABASE ${db.name}`));
}

function start(options: MillraceOptions = {}): Promise<Millrace> {
  const url = new URL(db.url);
  url.username = role;
  url.password = 'choose one';
  const publication = { name: role, create_if_not_exists: false };
  return startMillrace({ ...db, url: url.href }, { publication, ...options });
}

test('the rights of least privilege are enough for capture, backfill, taking over and repair', async () => {
  await grant('sql least-privilege');
  const options = { slot: { on_loss: 'repair' }, sinks: [{ initial_backfill: true }] };
  millrace = await start(options);
  const { dataDir } = millrace;
  await millrace.atLeast(1);
  // A row that comes before its table is read comes twice.
  await settled(millrace);
  await db.sql(`INSERT INTO products VALUES (2, 'streamed'); INSERT INTO orders VALUES (3)`);
  expect((await millrace.atLeast(3)).map(({ action, record }) => [action, record['id']])).toEqual([
    ['read', 1],
    ['insert', 2],
    ['insert', 3],
  ]);
  const index = millrace.server.pipelines[0]!.rowIndex!;
  await eventually('the row index is filled', () => index.filled);
  await millrace.stop();
  await db.sql(`SELECT pg_drop_replication_slot('${db.name}')`);
  await db.sql(`DELETE FROM products WHERE id = 1`);
  millrace = await start({ ...options, dataDir });
  expect((await millrace.atLeast(4))[3]).toMatchObject({ action: 'delete', record: { id: 1 } });
});

test('streaming needs no right to read a table', async () => {
  await grant('sql least-privilege', 'GRANT SELECT');
  millrace = await start();
  await db.sql(`INSERT INTO products VALUES (2, 'streamed')`);
  await millrace.atLeast(1);
});

test.each([
  ['GRANT CONNECT', 'GRANT CONNECT ON DATABASE'],
  ['REPLICATION', 'REPLICATION;'],
])('without %s it is refused, with the SQL that grants it', async (right, sql) => {
  await grant('sql least-privilege', right);
  if (right === 'REPLICATION') await db.sql(`ALTER ROLE ${role} NOREPLICATION`);
  await expect(start()).rejects.toMatchObject({
    code: 'pg_replication_denied',
    hint: expect.stringContaining(sql),
  });
});

test('a role that owns its tables makes the publication itself; one that may not is told what it lacks', async () => {
  await grant('sql publication-owner');
  const publication = {
    name: role,
    create_if_not_exists: true,
    init_sql: `CREATE PUBLICATION ${role} FOR TABLE public.products WITH (publish_via_partition_root = true)`,
  };
  millrace = await start({ publication });
  await db.sql(`INSERT INTO products VALUES (2, 'streamed')`);
  await millrace.atLeast(1);
  await expect(
    start({ publication: { name: 'everything', create_if_not_exists: true }, slot: { name: `${db.name}_2` } }),
  ).rejects.toMatchObject({ code: 'pg_privilege', hint: expect.stringContaining('Only a superuser') });
});
