// Class 22: DDL in the same transaction as the rows around it; a row is read by the shape of another position.
import { DEFAULT_CONTENTS } from '@millrace/engine/decode/message-contents';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { killedAfterEachMessage } from './one-message-lives.ts';

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text)`);
});
afterEach(() => db.drop());

const work = async () => {
  await db.sql(`BEGIN; INSERT INTO t VALUES (1, 'one');
    ALTER TABLE t RENAME v TO w; INSERT INTO t VALUES (2, 'two');
    ALTER TABLE t ALTER w TYPE int USING 0; INSERT INTO t VALUES (3, 3);
    ALTER TABLE t DROP w; ALTER TABLE t ADD v bool; INSERT INTO t VALUES (4, true);
    ALTER TABLE t DROP v; ALTER TABLE t ADD v jsonb; INSERT INTO t VALUES (5, '{"a": 1}');
    ALTER TABLE t RENAME TO u; INSERT INTO u VALUES (6, '[6]'); COMMIT`);
  // And what the table became later is none of their business.
  await db.sql(`ALTER TABLE u DROP v; ALTER TABLE u ADD v date; ALTER TABLE u RENAME TO t`);
};
const ROWS = [
  ['t', { id: 1, v: 'one' }],
  ['t', { id: 2, w: 'two' }],
  ['t', { id: 3, w: 3 }],
  ['t', { id: 4, v: true }],
  ['t', { id: 5, v: { a: 1 } }],
  ['u', { id: 6, v: [6] }],
];

test('every row is read by the shape at its position, also after a kill in the middle of the transaction', async () => {
  const messages = await killedAfterEachMessage(db, ROWS.length, {}, work);
  expect(messages.slice(0, -1).map((m) => [m.metadata.table_name, m.record])).toEqual(ROWS);
}, 60_000);

test('killed between a shape and the row it is of, a sink of schema changes gets each of both once', async () => {
  const contents = { ...DEFAULT_CONTENTS, schemaChanges: true };
  const messages = await killedAfterEachMessage(db, 6, { contents }, async () => {
    await db.sql(`BEGIN; INSERT INTO t VALUES (1, 'one'); ALTER TABLE t ALTER v TYPE int USING 0; INSERT INTO t VALUES (2, 2);
      ALTER TABLE t DROP v; ALTER TABLE t ADD v bool; INSERT INTO t VALUES (3, true); COMMIT`);
  });
  const seen = messages.slice(0, -2).map((m) => (m.action === 'schema' ? m.record['version'] : m.record['v']));
  expect(seen).toEqual([1, 'one', 2, 2, 3, true]);
  const columns = messages.filter((m) => m.action === 'schema').map((m) => m.record['columns'] as { type: string }[]);
  expect(columns.map((list) => list.at(-1)!.type)).toEqual(['text', 'integer', 'boolean', 'integer']);
}, 60_000);
