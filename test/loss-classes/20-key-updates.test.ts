// Class 20: an update of the primary key becomes an upsert of the new key, and the row of the old key stays for ever.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Message, type Millrace, startMillrace } from '../end-to-end/millrace.ts';

const SEED = Number(process.env['MILLRACE_TEST_SEED'] ?? 20_261_122);
const STEPS = 60;

let db: TestDatabase;
let millrace: Millrace;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace.remove();
  await db.drop();
});

/** A consumer that keeps rows by the key of the metadata, as docs/messages.md tells it to. */
function rowsByKey(messages: readonly Message[]): Map<string, Record<string, unknown>> {
  const rows = new Map<string, Record<string, unknown>>();
  for (const { action, record, metadata } of messages) {
    const old = metadata['old_record_pks'];
    if (old !== undefined) rows.delete(JSON.stringify(old));
    const key = JSON.stringify(metadata.record_pks);
    if (action === 'delete') rows.delete(key);
    else rows.set(key, record);
  }
  return rows;
}

test.each([
  ['default', ''],
  ['full', 'ALTER TABLE t REPLICA IDENTITY FULL'],
  ['index', 'CREATE UNIQUE INDEX whole ON t (b, a, n); ALTER TABLE t REPLICA IDENTITY USING INDEX whole'],
])(`a consumer by key ends with the rows of Postgres, under identity %s (seed ${SEED})`, async (_, identity) => {
  await db.sql(
    `CREATE TABLE t (b text NOT NULL, n int NOT NULL DEFAULT 0, a int NOT NULL, PRIMARY KEY (a, b)); ${identity}`,
  );
  millrace = await startMillrace(db);
  const random = seededRandom(SEED);
  const key = () => `(${random.integer(6)}, '${random.pick(['x', 'y', 'z"'])}')`;
  const steps: string[] = [];
  for (let i = 0; i < STEPS; i++) {
    const [from, to] = [key(), key()];
    steps.push(
      random.pick([
        `INSERT INTO t (a, b) VALUES ${from} ON CONFLICT DO NOTHING`,
        `INSERT INTO t (a, b) VALUES ${to} ON CONFLICT DO NOTHING`,
        `UPDATE t SET (a, b) = ${to}, n = n + 1 WHERE (a, b) = ${from} AND NOT EXISTS (SELECT FROM t WHERE (a, b) = ${to})`,
        `UPDATE t SET a = a + 100 WHERE (a, b) = ${from}`,
        `UPDATE t SET n = n + 1 WHERE a % 2 = 0`,
        `DELETE FROM t WHERE (a, b) = ${from}`,
      ]),
    );
  }
  // Keys beyond 100 may collide, and the step then does nothing.
  for (const step of steps) await db.sql(step).catch(() => {});
  await db.sql(`INSERT INTO t (a, b) VALUES (-1, 'end')`);
  await expect.poll(async () => (await millrace.messages()).at(-1)?.record['a'], { timeout: 40_000 }).toBe(-1);
  const messages = await millrace.messages();
  const moved = messages.filter((m) => m.metadata['old_record_pks'] !== undefined);
  expect(moved.length).toBeGreaterThan(3);
  for (const { action, metadata } of moved) {
    expect(action).toBe('update');
    expect(metadata['old_record_pks']).not.toEqual(metadata.record_pks);
  }
  const expected = await db.sql(`SELECT b, n, a FROM t ORDER BY a, b`);
  const found = [...rowsByKey(messages).values()].sort((p, q) =>
    p['a'] === q['a'] ? (String(p['b']) < String(q['b']) ? -1 : 1) : Number(p['a']) - Number(q['a']),
  );
  expect(found).toEqual(expected);
});

test('an index that does not cover the key says what it knows, and nothing false of the old key', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int);
    ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key`);
  millrace = await startMillrace(db);
  await db.sql(
    `INSERT INTO t VALUES (1, 'a', 1); UPDATE t SET code = 'b'; UPDATE t SET id = 2, code = 'c'; DELETE FROM t`,
  );
  const messages = await millrace.atLeast(4);
  expect(messages.map(({ changes }) => changes)).toEqual([null, { code: 'a' }, { code: 'b' }, null]);
  for (const { metadata } of messages) expect(metadata).not.toHaveProperty('old_record_pks');
  expect(messages[3]!.record).toEqual({ id: null, code: 'c', n: null });
});
