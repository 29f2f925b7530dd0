/** What the documentation says about roles and messages, tried on a real Postgres. */
import { createDatabase } from '@millrace/testkit/postgres';
import { expect, test } from 'vitest';
import { type Millrace, startMillrace } from '../end-to-end/millrace.ts';
import { inlineCode, markdownFile } from './markdown.ts';

function documentedMessage(): Record<string, unknown> {
  const [block] = markdownFile('docs/messages.md').blocks.filter(({ info }) => info === 'json message');
  return JSON.parse(block!.text);
}

/** Keys with their order, and the kind of each value. */
function shape(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(shape);
  if (typeof value !== 'object' || value === null) return value === null ? 'null' : typeof value;
  return Object.entries(value).map(([key, inner]) => [key, shape(inner)]);
}

test('a role with the SQL of docs/operating.md is enough, and the message is that of docs/messages.md', async () => {
  const [role] = markdownFile('docs/operating.md').blocks.filter(({ info }) => info === 'sql role');
  const db = await createDatabase();
  const name = `role_${db.name}`;
  let millrace: Millrace | undefined;
  try {
    await db.sql(`CREATE TABLE products (id serial PRIMARY KEY, name varchar(100), price decimal(10,2),
      inserted_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now());
      ALTER TABLE products REPLICA IDENTITY FULL; INSERT INTO products (name, price) VALUES ('Avocados (3 pack)', 5.99)`);
    // Roles belong to the server, which other tests share.
    await db.sql(role!.text.replaceAll('millrace', name).replaceAll('DATABASE shop', `DATABASE ${db.name}`));
    const url = new URL(db.url);
    url.username = name;
    url.password = 'choose one';
    const publication = { name, create_if_not_exists: false };
    const sinks = [{ name: 'products', source: { include_tables: ['public.products'] }, initial_backfill: true }];
    millrace = await startMillrace({ ...db, url: url.href }, { publication, sinks });
    await millrace.atLeast(1);
    await db.sql(`UPDATE products SET price = 6.49, updated_at = now()`);
    const [read, update] = await millrace.atLeast(2);
    expect(shape(update)).toEqual(shape(documentedMessage()));
    expect(read!.action).toBe('read');
    const { commit_lsn, commit_idx, idempotency_key } = documentedMessage()['metadata'] as Record<string, string>;
    expect(Buffer.from(idempotency_key!, 'base64').toString()).toBe(`${commit_lsn}:${commit_idx}`);
  } finally {
    await millrace?.remove();
    await db.sql(`DROP OWNED BY ${name}`).catch(() => {});
    await db.sql(`DROP ROLE IF EXISTS ${name}`);
    await db.drop();
  }
});

test('docs/messages.md explains every key of a message', () => {
  const keys = (value: unknown): string[] =>
    typeof value !== 'object' || value === null || Array.isArray(value)
      ? []
      : Object.entries(value).flatMap(([key, inner]) => [key, ...keys(inner)]);
  const { record, changes, ...rest } = documentedMessage();
  const explained = new Set(inlineCode(markdownFile('docs/messages.md')));
  expect([record, changes].every((part) => typeof part === 'object')).toBe(true);
  expect(['record', 'changes', ...keys(rest)].filter((key) => !explained.has(key))).toEqual([]);
});

test('the outbox, the shape of a table and the tables without an identity are as docs/messages.md shows them', async () => {
  const { blocks } = markdownFile('docs/messages.md');
  const block = (info: string) => blocks.find((each) => each.info === info)!.text;
  const db = await createDatabase();
  let millrace: Millrace | undefined;
  try {
    await db.sql(`CREATE TABLE orders (id int PRIMARY KEY, total numeric);
      CREATE TABLE products (id int PRIMARY KEY, name varchar(100)); CREATE TABLE keyless (v int);
      CREATE TABLE whole (v int); ALTER TABLE whole REPLICA IDENTITY FULL;
      CREATE TABLE parent (v int) PARTITION BY RANGE (v); CREATE TABLE part PARTITION OF parent DEFAULT`);
    const rows = await db.sql(block('sql keyless'));
    expect(rows.map(({ oid }) => oid).sort()).toEqual(['keyless', 'parent', 'part']);
    const sinks = [
      { name: 'events', actions: [], logical_messages: ['outbox'] },
      { name: 'shapes', schema_changes: true, source: { include_tables: ['products'] } },
    ];
    millrace = await startMillrace(db, { sinks });
    await db.sql(block('sql outbox'));
    const [event] = await millrace.atLeast(1, 'events');
    expect(event).toMatchObject(JSON.parse(block('json logical message')));
    await db.sql(`INSERT INTO products VALUES (1, 'a'); ALTER TABLE products RENAME name TO title`);
    await millrace.atLeast(2, 'shapes');
    await db.sql(`INSERT INTO products VALUES (2, 'b')`);
    expect((await millrace.atLeast(4, 'shapes'))[2]).toMatchObject(JSON.parse(block('json schema message')));
  } finally {
    await millrace?.remove();
    await db.drop();
  }
});
