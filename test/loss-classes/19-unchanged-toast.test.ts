// Class 19: a large value that an update did not touch is not sent, and arrives as null or empties the destination.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { managerOf, settled } from '../end-to-end/backfills.ts';
import { eventually, type Message, type Millrace, startMillrace } from '../end-to-end/millrace.ts';

const TEXT = 'x'.repeat(4000);
const LARGE = ['t', 'j', 'b', 'a'];

let db: TestDatabase;
let millrace: Millrace;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`CREATE TABLE docs (t text, id int PRIMARY KEY, n int, j jsonb, b bytea, a text[], u text);
    ALTER TABLE docs ALTER t SET STORAGE EXTERNAL, ALTER j SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL,
      ALTER a SET STORAGE EXTERNAL, ALTER u SET STORAGE EXTERNAL`);
});
afterEach(async () => {
  await millrace.remove();
  await db.drop();
});

const insert = `INSERT INTO docs VALUES (repeat('x', 4000), 1, 1, jsonb_build_object('k', repeat('x', 4000)),
  repeat('x', 4000)::bytea, ARRAY[repeat('x', 4000), NULL], NULL)`;
const WHOLE = {
  t: TEXT,
  j: { k: TEXT },
  b: `\\x${Buffer.from(TEXT).toString('hex')}`,
  a: [TEXT, null],
};

/** What a consumer has that keeps rows by merging what it is given: it knows nothing of TOAST. */
function merged(messages: readonly Message[]): Record<string, unknown> {
  return Object.assign({}, ...messages.map(({ record }) => record));
}

test('every type of it is absent and named, null stays null, and who merges has the row of Postgres', async () => {
  millrace = await startMillrace(db, { sinks: [{}, { name: 'marked', unchanged_toast: 'marker' }] });
  await db.sql(insert);
  await db.sql(`UPDATE docs SET n = 2`);
  // Inserted and updated in one transaction, so in one batch.
  await db.sql(`BEGIN; ${insert.replace('4000), 1, 1', '4000), 7, 1')}; UPDATE docs SET n = 3 WHERE id = 7; COMMIT`);
  await db.sql(`UPDATE docs SET t = NULL WHERE id = 1`);
  const messages = await millrace.atLeast(5, 'sink');
  expect(messages[1]!.record).toEqual({ id: 1, n: 2, u: null });
  expect(messages[1]!.metadata['unchanged_columns']).toEqual(LARGE);
  expect(messages[4]!.record).toEqual({ t: null, id: 1, n: 2, u: null });
  const of = (id: number) => messages.filter(({ record }) => record['id'] === id);
  expect(merged(of(7))).toEqual({ ...WHOLE, id: 7, n: 3, u: null });
  expect(merged(of(1))).toEqual({ ...WHOLE, t: null, id: 1, n: 2, u: null });
  const marked = await millrace.atLeast(5, 'marked');
  const marks = Object.fromEntries(LARGE.map((name) => [name, 'unchanged_toast']));
  expect(marked[1]!.record).toEqual({ ...marks, id: 1, n: 2, u: null });
  expect(millrace.lines.filter((line) => line.includes('toast_columns_detected'))).toHaveLength(2);
});

test('under full replica identity it is whole', async () => {
  await db.sql(`ALTER TABLE docs REPLICA IDENTITY FULL`);
  millrace = await startMillrace(db);
  await db.sql(`${insert}; UPDATE docs SET n = 2`);
  const [, update] = await millrace.atLeast(2);
  expect(update!.record).toEqual({ ...WHOLE, id: 1, n: 2, u: null });
  expect(update!.changes).toEqual({ n: 1 });
  expect(update!.metadata).not.toHaveProperty('unchanged_columns');
});

test('a row that comes into a row filter by its update lacks what the update did not touch, and says so', async () => {
  const [{ major }] = await db
    .sql<{ major: number }>(`SELECT current_setting('server_version_num')::int / 10000 AS major`)
    .then((rows) => rows as [{ major: number }]);
  // Row filters came with Postgres 15; before, the update is one.
  await db.sql(`ALTER TABLE docs DROP CONSTRAINT docs_pkey; ALTER TABLE docs ADD PRIMARY KEY (id, n);
    CREATE PUBLICATION filtered FOR TABLE docs${major >= 15 ? ' WHERE (n > 1)' : ''}`);
  millrace = await startMillrace(db, { publication: { name: 'filtered' } });
  await db.sql(`${insert}`);
  await db.sql(`UPDATE docs SET n = 2`);
  const last = (await millrace.atLeast(major >= 15 ? 1 : 2)).at(-1)!;
  expect(last.action).toBe(major >= 15 ? 'insert' : 'update');
  expect(last.record).toEqual({ id: 1, n: 2, u: null });
  expect(last.metadata['unchanged_columns']).toEqual(LARGE);
});

test('a row that a backfill read before such an update is read again after it, not left out as stale', async () => {
  await db.sql(insert);
  millrace = await startMillrace(db);
  const other = new pg.Client(db.config);
  await other.connect();
  try {
    // While this is open nobody can read the large values: the chunk waits after its snapshot was taken.
    const [{ name, indexes }] = await db.sql(`SELECT reltoastrelid::regclass AS name,
        ARRAY(SELECT indexrelid FROM pg_index WHERE indrelid = reltoastrelid) AS indexes
      FROM pg_class WHERE oid = 'docs'::regclass`);
    await other.query(`BEGIN; REINDEX TABLE ${name}`);
    await managerOf(millrace).create([{ table: { schema: 'public', name: 'docs' } }]);
    await eventually('the chunk waits', async () => {
      const waiting = await db.sql('SELECT FROM pg_locks WHERE relation = ANY ($1) AND NOT granted', [indexes]);
      return waiting.length > 0;
    });
    await db.sql('UPDATE docs SET n = 2');
    await millrace.atLeast(1);
    await other.query('COMMIT');
  } finally {
    await other.end();
  }
  await settled(millrace);
  const messages = await millrace.messages();
  expect(messages.map(({ action, record }) => [action, record['n']])).toEqual([
    ['update', 2],
    ['read', 2],
  ]);
  expect(messages[0]!.metadata['unchanged_columns']).toEqual(LARGE);
  expect(merged(messages)).toEqual({ ...WHOLE, id: 1, n: 2, u: null });
});
