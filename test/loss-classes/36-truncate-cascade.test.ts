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
  const messages = await killedAfterEachMessage(db, 8, { actions }, async () => {
    await db.sql(`BEGIN; INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); INSERT INTO c VALUES (1);
      TRUNCATE a CASCADE; INSERT INTO a VALUES (2); COMMIT`);
    await db.sql(`TRUNCATE c`);
  });
  expect(what(messages)).toEqual([
    ...['0 insert a', '1 insert b', '2 insert c'],
    ...['3 truncate a', '4 truncate b', '5 truncate c', '6 insert a', '0 truncate c'],
  ]);
  expect(messages.slice(3, 6).map((m) => m.metadata['cascade'])).toEqual([true, true, true]);
});

test('a sink of one table is shown the truncate that reached it by cascade', async () => {
  await db.sql(`CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a)`);
  const messages = await killedAfterEachMessage(db, 4, { actions }, async () => {
    await db.sql(`INSERT INTO a VALUES (1); TRUNCATE a CASCADE; INSERT INTO b SELECT id FROM a`);
    await db.sql(`INSERT INTO a VALUES (2)`);
  });
  expect(what(messages)).toEqual(['0 insert a', '1 truncate a', '2 truncate b', '0 insert a']);
});
