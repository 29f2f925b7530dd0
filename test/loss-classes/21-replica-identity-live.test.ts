// Class 21: the replica identity is taken away or weakened while changes flow, and what follows is lost in silence.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually, type Millrace, startMillrace } from '../end-to-end/millrace.ts';

let db: TestDatabase;
let millrace: Millrace;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace.remove();
  await db.drop();
});

const noted = (kind: string) => eventually(kind, () => millrace.lines.some((line) => line.includes(kind)));
const line = (kind: string) => millrace.lines.find((text) => text.includes(kind));

test.each([
  ['set to nothing', 'ALTER TABLE t REPLICA IDENTITY NOTHING', 'ALTER TABLE "public"."t" REPLICA IDENTITY DEFAULT;'],
  [
    'the index dropped',
    'CREATE UNIQUE INDEX i ON t (code); ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i',
    'ALTER TABLE "public"."t" REPLICA IDENTITY DEFAULT;',
  ],
  [
    'the primary key dropped',
    'ALTER TABLE t DROP CONSTRAINT t_pkey',
    'ALTER TABLE "public"."t" REPLICA IDENTITY FULL;',
  ],
])(
  '%s: Postgres refuses the change, we name the table and the SQL, and after it all flows on',
  async (_, away, mend) => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY, code int NOT NULL, n int)`);
    millrace = await startMillrace(db);
    await db.sql(`INSERT INTO t VALUES (1, 1, 1); UPDATE t SET n = 2`);
    await millrace.atLeast(2);
    await db.sql(away);
    await db.sql(`INSERT INTO t VALUES (2, 2, 2)`);
    await expect(db.sql(`UPDATE t SET n = 3 WHERE id = 1`)).rejects.toThrow('does not have a replica identity');
    await expect(db.sql(`DELETE FROM t WHERE id = 2`)).rejects.toThrow('does not have a replica identity');
    await noted('replica_identity_missing');
    expect(line('replica_identity_missing')).toContain(mend);
    await db.sql(mend);
    await db.sql(`UPDATE t SET n = 3 WHERE id = 1; DELETE FROM t WHERE id = 2`);
    const messages = await millrace.atLeast(5);
    expect(messages.map((m) => [m.action, m.record['id']])).toEqual([
      ['insert', 1],
      ['update', 1],
      ['insert', 2],
      ['update', 1],
      ['delete', 2],
    ]);
  },
);

test('full identity taken away: what is no longer known is said to be so, and the key stays known', async () => {
  await db.sql(`CREATE TABLE t (v text, id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY FULL`);
  millrace = await startMillrace(db, { sinks: [{ schema_changes: true }] });
  await db.sql(`INSERT INTO t VALUES ('a', 1); UPDATE t SET v = 'b'`);
  await db.sql(`ALTER TABLE t REPLICA IDENTITY DEFAULT; UPDATE t SET v = 'c'; UPDATE t SET id = 2; DELETE FROM t`);
  const messages = await millrace.atLeast(7);
  expect(messages.map((m) => [m.action, m.changes])).toEqual([
    ['schema', null],
    ['insert', null],
    ['update', { v: 'a' }],
    ['schema', { version: 1, replica_identity: 'full' }],
    ['update', {}],
    ['update', { id: 1 }],
    ['delete', null],
  ]);
  expect(messages[6]!.record).toEqual({ v: null, id: 2 });
  await noted('replica_identity_changed');
  expect(line('replica_identity_changed')).toContain('ALTER TABLE "public"."t" REPLICA IDENTITY FULL;');
});

test('a table of FOR ALL TABLES without a key is named before anybody looks for the reason', async () => {
  millrace = await startMillrace(db);
  await db.sql(`CREATE TABLE keyless (v text); INSERT INTO keyless VALUES ('a')`);
  await expect(db.sql(`UPDATE keyless SET v = 'b'`)).rejects.toThrow('does not have a replica identity');
  await noted('replica_identity_missing');
  expect((await millrace.atLeast(1))[0]!.metadata.record_pks).toEqual([]);
});
