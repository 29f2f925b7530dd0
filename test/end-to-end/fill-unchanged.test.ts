import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually, type Message, type Millrace, startMillrace } from './millrace.ts';

let db: TestDatabase;
let millrace: Millrace | null = null;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  millrace = null;
  await db.drop();
});

const big = (mark: string, size = 5000) => mark.repeat(size / mark.length);
const TABLE = `CREATE TABLE docs (id int PRIMARY KEY, n int, body text, tags text[], data jsonb);
  ALTER TABLE docs ALTER body SET STORAGE EXTERNAL, ALTER tags SET STORAGE EXTERNAL, ALTER data SET STORAGE EXTERNAL`;
const FILL = { name: 'filled', fill_unchanged: true };

function bodies(messages: readonly Message[]): unknown[] {
  return messages.map(({ record }) => (record as { body?: string }).body?.slice(0, 2));
}

test('large values that an update left alone are those of the position, also for rows from before', async () => {
  await db.sql(TABLE);
  await db.sql('INSERT INTO docs VALUES (1, 0, $1, $2, $3)', [big('old'), [big('tag')], JSON.stringify([big('json')])]);
  millrace = await startMillrace(db, { sinks: [FILL] });
  await eventually('the index has read the table', () => millrace!.server.pipelines[0]!.rowIndex!.filled);
  await db.sql('UPDATE docs SET n = 1');
  await db.sql('UPDATE docs SET body = $1', [big('new')]);
  await db.sql('UPDATE docs SET n = 2');
  await db.sql('UPDATE docs SET id = 9');
  await db.sql('UPDATE docs SET body = NULL, n = 3');
  const messages = await millrace.atLeast(5, 'filled');
  expect(bodies(messages)).toEqual(['ol', 'ne', 'ne', 'ne', undefined]);
  for (const { record, metadata } of messages) {
    expect(record).toMatchObject({ tags: [big('tag')], data: [big('json')] });
    expect(metadata).not.toHaveProperty('unchanged_columns');
  }
  expect(messages[4]!.record.body).toBeNull();
});

test('a sink that was stopped gets the values of its positions, not those that came later', async () => {
  await db.sql(TABLE);
  const sinks = (status: string) => [{ ...FILL, status }, { name: 'other' }];
  millrace = await startMillrace(db, { sinks: sinks('paused') });
  const { dataDir } = millrace;
  for (const mark of ['a1', 'b2', 'c3', 'd4']) {
    if (mark === 'a1') await db.sql('INSERT INTO docs (id, n, body) VALUES (1, 0, $1)', [big(mark)]);
    else await db.sql('UPDATE docs SET body = $1', [big(mark)]);
    await db.sql('UPDATE docs SET n = n + 1');
  }
  await db.sql('DELETE FROM docs');
  await db.sql('INSERT INTO docs (id, n, body) VALUES (1, 0, $1)', [big('e5')]);
  await millrace.atLeast(10, 'other');
  await millrace.stop();
  millrace = await startMillrace(db, { dataDir, sinks: sinks('active') });
  const messages = await millrace.atLeast(10, 'filled');
  expect(bodies(messages)).toEqual(['a1', 'a1', 'b2', 'b2', 'c3', 'c3', 'd4', 'd4', undefined, 'e5']);
});

test('without a sink that asks for it there is no index', async () => {
  await db.sql(TABLE);
  millrace = await startMillrace(db, { sinks: [{ name: 'plain' }] });
  expect(millrace.server.pipelines[0]!.rowIndex).toBeNull();
});

test('a table that is made later is filled as well, and a renamed column keeps its values', async () => {
  await db.sql(TABLE);
  millrace = await startMillrace(db, { sinks: [FILL] });
  await db.sql(
    'CREATE TABLE later (id int PRIMARY KEY, n int, body text); ALTER TABLE later ALTER body SET STORAGE EXTERNAL',
  );
  await db.sql('INSERT INTO later VALUES (1, 0, $1)', [big('xy')]);
  await db.sql('UPDATE later SET n = 1');
  await db.sql('ALTER TABLE later RENAME body TO text');
  await db.sql('UPDATE later SET n = 2');
  const messages = await millrace.atLeast(3, 'filled');
  expect(messages.map(({ record }) => (record.body ?? record.text) === big('xy'))).toEqual([true, true, true]);
});
