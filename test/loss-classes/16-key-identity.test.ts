/**
 * Loss class 16: the key of a row is spelt one way by the backfill and another way by the stream (uuid, numeric, bytea,
 * padded text), so that the two are not known to be the same row, and duplicates or stale rows pass. Here tables with
 * keys of every type give byte-equal keys by every way, and a backfill of several chunks goes on behind the right row.
 */
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Message, type Millrace, startMillrace } from '../end-to-end/millrace.ts';

/** More than a backfill reads at once at first. */
const ROWS = 130;

/** Type of the key, and SQL that makes a different one of each `i`, often such as another decoder would respell. */
const KEYS: readonly (readonly [type: string, sql: string])[] = [
  ['integer', '(i - 60) * 1000003'],
  ['oid', '(4294967295 - i)::oid'],
  ['numeric', `(i || '.50' || repeat('0', i % 3))::numeric`],
  ['numeric(12,4)', 'i / 7.0'],
  ['double precision', '(i - 60) / 3.0'],
  ['money', '(i * 1234.56)::numeric::money'],
  ['text', `chr(64 + i) || ' ''"\\' || i`],
  ['char(8)', `'c' || i`],
  ['bit(12)', 'i::bit(12)'],
  ['"char"', `chr(33 + i % 90)::"char"`],
  ['bytea', `decode(lpad(to_hex(i * 257), 8, '0'), 'hex')`],
  ['uuid', 'md5(i::text)::uuid'],
  ['date', `'2024-01-01'::date - i * 15000`],
  ['timetz', `('00:00:00.5'::time + i * interval '1 second')::text::timetz`],
  ['timestamptz', `'2024-03-31 00:30+00'::timestamptz + i * interval '1 hour 0.1 seconds'`],
  ['interval', `(i - 60) * interval '1 day 100 hours'`],
  ['inet', `('10.0.0.0/' || 8 + i % 24)::inet + i`],
  ['jsonb', `jsonb_build_object('n', i, 'a', 1.50)`],
  ['int4range', 'int4range(i, i + 5)'],
  ['text[]', `ARRAY['a,"b', i::text]`],
  ['mood', `(ARRAY['sad', 'so ''so', 'glad'])[1 + i % 3]::mood`],
  ['label', `('l' || i)::label`],
  ['citext', `('MiXed' || i)::citext`],
  ['ltree', `('a.b' || i)::ltree`],
];

let db: TestDatabase;
let millrace: Millrace | undefined;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await db.drop();
});

/** The keys of a table's messages, as bytes of the message. */
function keysOf(messages: readonly Message[], action: Message['action'], table: string): string[] {
  return messages
    .filter((message) => message.action === action && message.metadata.table_name === table)
    .map((message) => JSON.stringify(message.metadata.record_pks))
    .sort();
}

test('a key of every type is the same bytes in inserts, updates, deletes and reads', async () => {
  await db.sql(
    `CREATE TYPE mood AS ENUM ('sad', 'so ''so', 'glad'); CREATE DOMAIN label AS char(6); CREATE EXTENSION citext; CREATE EXTENSION ltree`,
  );
  const name = (i: number) => `k${i}`;
  await db.sql(KEYS.map(([type], i) => `CREATE TABLE ${name(i)} (id ${type} PRIMARY KEY, v int)`).join(';'));
  millrace = await startMillrace(db, { sinks: [{ name: 'streamed' }] });
  const inserts = KEYS.map(([, sql], i) => {
    return `INSERT INTO ${name(i)} SELECT ${sql}, i FROM generate_series(1, ${ROWS}) AS i ON CONFLICT DO NOTHING`;
  });
  await db.sql(inserts.join(';'));
  const counts = await db.sql<{ n: number }>(
    `${KEYS.map((_, i) => `SELECT ${i} AS i, count(*)::int AS n FROM ${name(i)}`).join(' UNION ALL ')} ORDER BY i`,
  );
  const total = counts.reduce((sum, { n }) => sum + n, 0);
  await millrace.atLeast(total, 'streamed');
  const { dataDir } = millrace;
  await millrace.stop();

  const sinks = [{ name: 'streamed' }, { name: 'read', initial_backfill: true }];
  millrace = await startMillrace(db, { dataDir, sinks });
  const read = await millrace.atLeast(total, 'read');
  await db.sql(KEYS.map((_, i) => `UPDATE ${name(i)} SET v = 0; DELETE FROM ${name(i)}`).join(';'));
  const streamed = await millrace.atLeast(3 * total, 'streamed');

  for (const [i, [type]] of KEYS.entries()) {
    const inserted = keysOf(streamed, 'insert', name(i));
    expect([type, inserted.length, new Set(inserted).size]).toEqual([type, counts[i]!.n, counts[i]!.n]);
    expect([type, keysOf(read, 'read', name(i))]).toEqual([type, inserted]);
    expect([type, keysOf(streamed, 'update', name(i))]).toEqual([type, inserted]);
    expect([type, keysOf(streamed, 'delete', name(i))]).toEqual([type, inserted]);
  }
  const padded = KEYS.findIndex(([type]) => type === 'char(8)');
  expect(keysOf(read, 'read', name(padded))).toContain('["c7      "]');
}, 60_000);

test('an update that moves a key names the old one as it was inserted', async () => {
  await db.sql(`CREATE TABLE t (a numeric, b char(4), c bytea, PRIMARY KEY (c, a, b))`);
  millrace = await startMillrace(db);
  await db.sql(`INSERT INTO t VALUES (1.50, 'x', '\\x00ff'); UPDATE t SET a = 1.5000`);
  await db.sql(`UPDATE t SET b = 'yy'`);
  const [insert, respelt, moved] = await millrace.atLeast(3);
  expect(insert!.metadata.record_pks).toEqual(['\\x00ff', '1.50', 'x   ']);
  // Equal numbers, other text: a key of its own, and the old one is named.
  expect(respelt!.metadata.record_pks).toEqual(['\\x00ff', '1.5000', 'x   ']);
  expect(respelt!.changes).toEqual({ a: '1.50' });
  expect(moved!.metadata.record_pks).toEqual(['\\x00ff', '1.5000', 'yy  ']);
  expect(moved!.changes).toEqual({ b: 'x   ' });
});
