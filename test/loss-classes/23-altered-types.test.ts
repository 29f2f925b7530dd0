// Class 23: an enum or composite type is altered, or two types share a name, and a cache of types answers wrongly.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Millrace, startMillrace } from '../end-to-end/millrace.ts';

let db: TestDatabase;
let millrace: Millrace;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace.remove();
  await db.drop();
});

test('a value added to an enum, renamed in it, and in arrays of it, is read as what it is', async () => {
  await db.sql(`CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[])`);
  millrace = await startMillrace(db);
  await db.sql(`INSERT INTO t VALUES (1, 'ok', '{ok}')`);
  await millrace.atLeast(1);
  await db.sql(`ALTER TYPE mood ADD VALUE 'so, so' BEFORE 'ok'`);
  await db.sql(`INSERT INTO t VALUES (2, 'so, so', '{"so, so",ok}')`);
  await db.sql(`ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'`);
  await db.sql(`INSERT INTO t VALUES (3, 'fine', '{fine,NULL}')`);
  await db.sql(`ALTER TYPE mood RENAME TO feeling; INSERT INTO t VALUES (4, 'fine', '{}')`);
  const messages = await millrace.atLeast(4);
  expect(messages.map(({ record }) => [record['m'], record['ms']])).toEqual([
    ['ok', ['ok']],
    ['so, so', ['so, so', 'ok']],
    ['fine', ['fine', null]],
    ['fine', []],
  ]);
});

test('an attribute added to a composite type is in the next value', async () => {
  await db.sql(`CREATE TYPE place AS (x int, y text); CREATE TABLE t (id int PRIMARY KEY, p place)`);
  millrace = await startMillrace(db);
  await db.sql(`INSERT INTO t VALUES (1, '(1,a)')`);
  await db.sql(`ALTER TYPE place ADD ATTRIBUTE z bool CASCADE; INSERT INTO t VALUES (2, '(2,b,t)')`);
  await db.sql(`ALTER TYPE place DROP ATTRIBUTE x; INSERT INTO t VALUES (3, '(c,f)')`);
  const messages = await millrace.atLeast(3);
  expect(messages.map(({ record }) => record['p'])).toEqual(['(1,a)', '(2,b,t)', '(c,f)']);
});

test('types of one name in two schemas are not taken for each other, also when one takes the place of the other', async () => {
  await db.sql(`CREATE SCHEMA a; CREATE SCHEMA b; CREATE DOMAIN a.amount AS int; CREATE DOMAIN b.amount AS text;
    CREATE TYPE a.level AS ENUM ('1'); CREATE DOMAIN b.level AS jsonb;
    CREATE TABLE t (id int PRIMARY KEY, m a.amount, n b.amount, o a.level, p b.level)`);
  millrace = await startMillrace(db);
  await db.sql(`INSERT INTO t VALUES (1, 7, '7', '1', '1')`);
  await millrace.atLeast(1);
  await db.sql(`ALTER TABLE t ALTER m TYPE b.amount, ALTER n TYPE a.amount USING n::int`);
  await db.sql(`INSERT INTO t VALUES (2, '7', 7, '1', '[1]')`);
  await db.sql(
    `ALTER TABLE t DROP m; DROP DOMAIN b.amount; CREATE DOMAIN b.amount AS bool; ALTER TABLE t ADD m b.amount`,
  );
  await db.sql(`INSERT INTO t (id, m) VALUES (3, true)`);
  const messages = await millrace.atLeast(3);
  expect(messages.map(({ record }) => record)).toEqual([
    { id: 1, m: 7, n: '7', o: '1', p: 1 },
    { id: 2, m: '7', n: 7, o: '1', p: [1] },
    { id: 3, n: null, o: null, p: null, m: true },
  ]);
});
