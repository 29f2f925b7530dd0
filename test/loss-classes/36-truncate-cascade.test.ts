// Class 36: a TRUNCATE of several tables is shown as one event, or of one table only; the others keep their rows.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Message } from '../end-to-end/millrace.ts';
import { killedAfterEachMessage } from './one-message-lives.ts';

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(() => db.drop());

const actions = { insert: true, update: true, delete: true, truncate: true };
const what = (messages: readonly Message[]) =>
  messages.slice(0, -1).map((m) => `${m.metadata.commit_idx} ${m.action} ${m.metadata.table_name}`);

test('killed in the middle of a cascade, each table is truncated once, in order, and the row after it comes', async () => {
  await db.sql(`CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a);
    CREATE TABLE c (id int PRIMARY KEY REFERENCES b)`);
  const messages = await killedAfterEachMessage(db, 5, { actions }, async () => {
    await db.sql(`BEGIN; INSERT INTO a VALUES (1); TRUNCATE a CASCADE; INSERT INTO a VALUES (2); COMMIT`);
  });
  expect(what(messages)).toEqual(['0 insert a', '1 truncate a', '2 truncate b', '3 truncate c', '4 insert a']);
  expect(messages.slice(1, 4).map((m) => m.metadata['cascade'])).toEqual([true, true, true]);
}, 60_000);

test('tables of one truncate that do not fit into one batch are not shown again in the next', async () => {
  await db.sql(
    `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY)`,
  );
  const messages = await killedAfterEachMessage(db, 0, { actions }, async () => {
    await db.sql(`BEGIN; TRUNCATE a, b, c; INSERT INTO b VALUES (1); COMMIT`);
  });
  expect(what(messages)).toEqual(['0 truncate a', '1 truncate b', '2 truncate c', '3 insert b']);
});

test('tables that were truncated by cascade alone are named as well', async () => {
  await db.sql(`CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a)`);
  const messages = await killedAfterEachMessage(db, 0, { actions }, async () => {
    await db.sql(`INSERT INTO a VALUES (1); TRUNCATE a CASCADE; INSERT INTO b SELECT id FROM a`);
    await db.sql(`INSERT INTO a VALUES (2)`);
  });
  expect(what(messages)).toEqual(['0 insert a', '1 truncate a', '2 truncate b', '0 insert a']);
});
