/**
 * What differs from one major of Postgres to the next, seen from the messages: which columns and rows a publication has.
 * A backfill must agree with the stream on every one of them. Run on all by `npm run test:matrix`.
 */

import { MillraceError } from '@millrace/core/error';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { chosenMajor } from '@millrace/testkit/postgres-majors';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually, type Millrace, startMillrace } from './millrace.ts';

const MAJOR = chosenMajor();
const since = (major: number) => test.skipIf(MAJOR < major);

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

/** The records of `insert`, streamed, and of a backfill afterwards. */
async function bothWays(insert: string, rows: number): Promise<{ streamed: string[]; read: string[] }> {
  const publication = { create_if_not_exists: false };
  millrace = await startMillrace(db, { publication, sinks: [{ name: 'streamed' }] });
  await db.sql(insert);
  await millrace.atLeast(rows, 'streamed');
  const recordsOf = async (stream: string) =>
    (await millrace!.bodies(stream)).map((body) => body.slice(0, body.indexOf(',"changes":'))).sort();
  const streamed = await recordsOf('streamed');
  const { dataDir } = millrace;
  await millrace.stop();
  const sinks = [{ name: 'streamed' }, { name: 'read', initial_backfill: true }];
  millrace = await startMillrace(db, { dataDir, publication, sinks });
  await millrace.atLeast(rows, 'read');
  return { streamed, read: await recordsOf('read') };
}

test('a generated column is in neither, unless the publication says so', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, doubled int GENERATED ALWAYS AS (id * 2) STORED, v text);
    CREATE PUBLICATION millrace FOR TABLE t`);
  const { streamed, read } = await bothWays(`INSERT INTO t VALUES (1, DEFAULT, 'a')`, 1);
  expect(streamed).toEqual(['{"record":{"id":1,"v":"a"}']);
  expect(read).toEqual(streamed);
});

since(18)('a stored generated column is in both when the publication publishes it, a virtual one never', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, doubled int GENERATED ALWAYS AS (id * 2) STORED,
      tripled int GENERATED ALWAYS AS (id * 3) VIRTUAL, v text);
    CREATE PUBLICATION millrace FOR TABLE t WITH (publish_generated_columns = stored)`);
  const { streamed, read } = await bothWays(`INSERT INTO t VALUES (1, DEFAULT, DEFAULT, 'a')`, 1);
  expect(streamed).toEqual(['{"record":{"id":1,"doubled":2,"v":"a"}']);
  expect(read).toEqual(streamed);
});

since(15)('a column list of the publication holds for both', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, secret text, v text, w text);
    CREATE PUBLICATION millrace FOR TABLE t (id, w, v)`);
  const { streamed, read } = await bothWays(`INSERT INTO t VALUES (1, 'hidden', 'a', 'b')`, 1);
  expect(streamed).toEqual(['{"record":{"id":1,"v":"a","w":"b"}']);
  expect(read).toEqual(streamed);
});

since(15)('a row filter of the publication holds for both', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE PUBLICATION millrace FOR TABLE t WHERE (id % 2 = 0)`);
  const { streamed, read } = await bothWays(`INSERT INTO t SELECT i, 'v' FROM generate_series(1, 6) AS i`, 3);
  expect(streamed).toEqual([2, 4, 6].map((id) => `{"record":{"id":${id},"v":"v"}`));
  expect(read).toEqual(streamed);
});

since(15)('a publication of a schema takes its tables, and those that come later', async () => {
  await db.sql(`CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY); CREATE TABLE public.u (id int PRIMARY KEY);
    CREATE PUBLICATION millrace FOR TABLES IN SCHEMA s`);
  const insert = `INSERT INTO s.t VALUES (1); INSERT INTO public.u VALUES (2);
    CREATE TABLE s.later (id int PRIMARY KEY); INSERT INTO s.later VALUES (3)`;
  const { streamed, read } = await bothWays(insert, 2);
  expect(streamed).toEqual(['{"record":{"id":1}', '{"record":{"id":3}']);
  expect(read).toEqual(streamed);
});

test('a dropped column, and one that came with a default, are the same in both', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, gone text, v text); INSERT INTO t VALUES (1, 'x', 'a');
    ALTER TABLE t DROP COLUMN gone; ALTER TABLE t ADD COLUMN n int DEFAULT 7; CREATE PUBLICATION millrace FOR TABLE t`);
  const { streamed, read } = await bothWays('UPDATE t SET v = v', 1);
  expect(streamed).toEqual(['{"record":{"id":1,"v":"a","n":7}']);
  expect(read).toEqual(streamed);
});

test('a publication that is dropped stops capture, and nothing behind that is acknowledged', async () => {
  // Up to 17 the walsender ends with an error, since 18 it goes on without the changes, with a warning.
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION millrace FOR TABLE t`);
  millrace = await startMillrace(db, { publication: { create_if_not_exists: false } });
  await db.sql('INSERT INTO t VALUES (1)');
  await millrace.atLeast(1);
  await db.sql('DROP PUBLICATION millrace');
  const [before] = await db.sql<{ lsn: string }>('SELECT pg_current_wal_insert_lsn() AS lsn');
  await db.sql('INSERT INTO t VALUES (2)');
  const reason = () => {
    const { state, pipeline } = millrace!.server.databases[0]!;
    if (state.kind === 'failed') return state.error.code;
    const capture = pipeline?.capture.state;
    return capture !== undefined && 'error' in capture && capture.error instanceof MillraceError && capture.error.code;
  };
  await eventually('capture says why', () => reason() === 'pg_publication_missing');
  const [slot] = await db.sql<{ kept: boolean }>(
    `SELECT confirmed_flush_lsn <= '${before!.lsn}' AS kept FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
  );
  expect(slot).toEqual({ kept: true });
  expect(await millrace.messages()).toHaveLength(1);
});
