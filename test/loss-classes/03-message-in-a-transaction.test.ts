// Class 3: a logical message inside a transaction moves a reader's position past the row after it, which is lost when
// the reader is killed between the two.
import { DEFAULT_CONTENTS } from '@millrace/engine/decode/message-contents';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Message } from '../end-to-end/millrace.ts';
import { killedAfterEachMessage } from './one-message-lives.ts';

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
});
afterEach(() => db.drop());

const emit = (prefix: string, content: string) => `SELECT pg_logical_emit_message(true, '${prefix}', '${content}');`;
const work = async () => {
  await db.sql(`BEGIN; INSERT INTO t VALUES (1); ${emit('m', 'a')} INSERT INTO t VALUES (2);
    ${emit('sequin:transaction_annotations.set', '{"by": "ann"}')} ${emit('m', 'b')} ${emit('m', 'c')}
    INSERT INTO t VALUES (3); COMMIT`);
};
const what = (messages: readonly Message[]) =>
  messages.slice(0, -1).map((m) => `${m.metadata.commit_idx} ${m.record['id'] ?? m.record['content']}`);

test('killed between each pair of messages, a sink that takes them gets every row and every message once', async () => {
  const contents = { ...DEFAULT_CONTENTS, logicalMessages: 'all' as const };
  const messages = await killedAfterEachMessage(db, 6, { contents }, work);
  expect(what(messages)).toEqual(['0 1', '1 a', '2 2', '4 b', '5 c', '6 3']);
  // What was said of the transaction before the kill holds for what comes after it.
  expect(messages[5]!.metadata.transaction_annotations).toEqual({ by: 'ann' });
}, 60_000);

test('killed between each pair of rows, a sink that does not take messages gets every row once', async () => {
  const messages = await killedAfterEachMessage(db, 3, {}, work);
  expect(what(messages)).toEqual(['0 1', '2 2', '6 3']);
  expect(messages[2]!.metadata.transaction_annotations).toEqual({ by: 'ann' });
}, 60_000);
