import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { settled } from './backfills.ts';
import { eventually, type Message, type Millrace, startMillrace } from './millrace.ts';

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

const done = (m: Millrace) =>
  eventually('the backfill completes', () => m.lines.some((line) => line.includes('complete')));

/** The table as the messages leave it, and what is wrong with their order. */
function replay(messages: Message[], key: (m: Message) => string) {
  const rows = new Map<string, Message>();
  const faults: string[] = [];
  for (const message of messages) {
    const id = key(message);
    const before = rows.get(id);
    const version = (m: Message) => Number(m.record['version']);
    if (message.action === 'delete') rows.delete(id);
    else {
      if (before !== undefined && version(before) > version(message)) faults.push(`${id}: ${message.action} went back`);
      rows.set(id, message);
    }
  }
  return { rows, faults };
}

test('a backfill under writers leaves the table as it is, with no stale row after a newer change', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, version bigint, pad text); CREATE SEQUENCE versions;
    INSERT INTO t SELECT i, nextval('versions'), repeat('p', 200) FROM generate_series(1, 5000) i`);
  millrace = await startMillrace(db); // The slot and the log exist before; the backfill is the second sink's.
  const { dataDir } = millrace;
  await millrace.stop();
  let writing = true;
  let writes = 0;
  const writer = async (seed: number) => {
    for (let i = 0; writing; i++) {
      const id = ((seed * 7919 + i * 104729) % 5200) + 1;
      const held = i % 5 === 0 ? `SELECT pg_sleep(0.004);` : '';
      if (i % 7 === 0) await db.sql(`BEGIN; DELETE FROM t WHERE id = ${id}; ${held} COMMIT`);
      else if (i % 11 === 0) await db.sql(`BEGIN; UPDATE t SET version = 0 WHERE id = ${id}; ROLLBACK`);
      else {
        await db.sql(`BEGIN; INSERT INTO t VALUES (${id}, nextval('versions'), 'n') ON CONFLICT (id)
          DO UPDATE SET version = nextval('versions'), pad = 'u'; ${held} COMMIT`);
      }
      writes++;
    }
  };
  const writers = [1, 2, 3].map(writer);
  millrace = await startMillrace(db, { dataDir, sinks: [{ name: 'filled', initial_backfill: true }] });
  await done(millrace);
  writing = false;
  await Promise.all(writers);
  await db.sql(`INSERT INTO t VALUES (99999, 999999999, 'end')`);
  let messages: Message[] = [];
  await eventually('the last change arrives', async () => {
    messages = await millrace!.messages();
    return messages.at(-1)?.record['id'] === 99999;
  });
  const { rows, faults } = replay(messages, (m) => String(m.record['id']));
  expect(faults).toEqual([]);
  const actual = await db.sql(`SELECT id, version FROM t ORDER BY id`);
  const rebuilt = [...rows.values()].map((m) => `${m.record['id']}:${m.record['version']}`).sort();
  expect(rebuilt).toEqual(actual.map((row) => `${row.id}:${row.version}`).sort());
  expect(writes).toBeGreaterThan(50);
  expect(messages.filter((m) => m.action === 'read').length).toBeGreaterThan(1000);
}, 60_000);

test('a backfill reads every kind of key in order: composite, negative, text, enum, uuid', async () => {
  await db.sql(`CREATE TYPE mood AS ENUM ('sad', 'ok', 'glad');
    CREATE TABLE a (n numeric, s text, PRIMARY KEY (s, n)); INSERT INTO a SELECT i - 300, chr(65 + i % 40) || '''\\' FROM generate_series(1, 600) i;
    CREATE TABLE b (m mood PRIMARY KEY); INSERT INTO b VALUES ('sad'), ('glad'), ('ok');
    CREATE TABLE c (u uuid PRIMARY KEY); INSERT INTO c SELECT gen_random_uuid() FROM generate_series(1, 350);
    CREATE TABLE d (t timestamptz PRIMARY KEY); INSERT INTO d SELECT now() - i * interval '1 hour 0.000001 s' FROM generate_series(1, 250) i`);
  millrace = await startMillrace(db, { sinks: [{ initial_backfill: true }] });
  const messages = await millrace.atLeast(600 + 3 + 350 + 250);
  const count = (table: string) =>
    new Set(messages.filter((m) => m.metadata.table_name === table).map((m) => JSON.stringify(m.record))).size;
  expect(['a', 'b', 'c', 'd'].map(count)).toEqual([600, 3, 350, 250]);
  expect(messages).toHaveLength(1203);
  expect(messages.every((m) => m.action === 'read' && m.changes === null)).toBe(true);
  expect(new Set(messages.map((m) => m.metadata.idempotency_key)).size).toBe(1203);
});

test('no two rows have one idempotency key, whatever is in the columns of their key', async () => {
  await db.sql(`CREATE TABLE t (a text, b text, c timestamptz, v text, PRIMARY KEY (a, b, c)); SET TIME ZONE 'UTC';
    INSERT INTO t SELECT replace(a, '/', chr(92)), replace(b, '/', chr(92)), '2026-01-01' FROM (VALUES ('x:y', 'z'), ('x', 'y:z'),
      ('x/', 'y:z'), ('x/:y', 'z'), ('x/', ':y:z'), ('x/:', 'y:z'), ('', ':x'), (':', 'x')) AS v (a, b)`);
  const sinks = [{ name: 'plain' }, { name: 'masked', columns: { mask: ['v'] } }];
  millrace = await startMillrace(db, { sinks: sinks.map((sink) => ({ ...sink, initial_backfill: true })) });
  for (const { name } of sinks) {
    const keys = (await millrace.atLeast(8, name)).map((m) => m.metadata.idempotency_key);
    expect(new Set(keys).size).toBe(8);
  }
  const messages = await millrace.messages('plain');
  const plain = messages.find(({ record }) => record['a'] === 'x' && record['b'] === 'y:z')!;
  expect(Buffer.from(plain.metadata.idempotency_key, 'base64').toString()).toMatch(
    /^[^:]+:x:y\\:z:2026-01-01 00\\:00\\:00\+00$/,
  );
});

test('rows of partitions that are published one by one have idempotency keys of their own, whatever their keys are', async () => {
  await db.sql(`CREATE TABLE t (id int NOT NULL, k int) PARTITION BY LIST (k); CREATE TABLE t1 PARTITION OF t (PRIMARY KEY (id)) FOR VALUES IN (1);
    CREATE TABLE t2 PARTITION OF t (PRIMARY KEY (id)) FOR VALUES IN (2); INSERT INTO t VALUES (1, 1), (1, 2);
    CREATE PUBLICATION millrace FOR TABLE t`);
  millrace = await startMillrace(db, {
    publication: { create_if_not_exists: false },
    sinks: [{ initial_backfill: true }],
  });
  const messages = await millrace.atLeast(2);
  expect(messages.map(({ metadata }) => metadata.record_pks)).toEqual([['1'], ['1']]);
  expect(new Set(messages.map((m) => m.metadata.idempotency_key)).size).toBe(2);
});

test('a backfill that was stopped goes on after the last row delivered', async () => {
  await db.sql(
    `CREATE TABLE t (id int PRIMARY KEY, pad text); INSERT INTO t SELECT i, repeat('p', 2000) FROM generate_series(1, 20000) i`,
  );
  const sinks = [{ initial_backfill: true }];
  millrace = await startMillrace(db, { sinks });
  const { dataDir } = millrace;
  for (let stops = 0; stops < 4; stops++) {
    const held: Message[] = await millrace.messages();
    if (held.length === 20_000) break;
    await millrace.atLeast(held.length + 1);
    await millrace.stop();
    millrace = await startMillrace(db, { dataDir, sinks });
  }
  await settled(millrace);
  const messages = await millrace.messages();
  expect(messages.map((m) => m.record['id'])).toEqual(Array.from({ length: 20000 }, (_, i) => i + 1));
  await millrace.stop();
  // Complete is complete: a further start reads nothing.
  millrace = await startMillrace(db, { dataDir, sinks });
  await db.sql(`INSERT INTO t VALUES (0, '')`);
  expect((await millrace.atLeast(20001)).at(-1)).toMatchObject({ action: 'insert', record: { id: 0 } });
}, 60_000);

test('a row read and the same row streamed give the same bytes (I10)', async () => {
  await db.sql(`CREATE TYPE pair AS (a int, b text); CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TABLE t (id int PRIMARY KEY, b bool, i8 bigint, f8 float8, n numeric, m money, by bytea, ts timestamp, tz timestamptz, d date,
      ti time, ttz timetz, iv interval, j json, jb jsonb, ia int[], ta text[], r int4range, mr nummultirange, p pair, dm positive, bt bit(3),
      ip inet, pt point, x xml, tv tsvector, u uuid, c char(5))`);
  millrace = await startMillrace(db, { sinks: [{ name: 'streamed' }] });
  await db.sql(`INSERT INTO t VALUES (1, true, 9223372036854775807, 'NaN', 'NaN', 12.5, '\\x00ff', 'infinity', '-infinity', '0044-03-15 BC',
    '01:02:03.456', '01:02:03.5+05:30', '-100:00:00.5', '{"a" :  1.0e2}', '{"b": [1, 2.50]}', '[0:1]={1,NULL}', ARRAY['a"b','c,d',NULL,''],
    '[1,5)', '{[1,2],(3,)}', '(1,"x y")', 5, B'101', '10.0.0.1/8', '(1,2)', '<a>1</a>', 'a:1 b:2', '00000000-0000-0000-0000-000000000001', 'ab')`);
  const [streamed] = await millrace.atLeast(1, 'streamed');
  expect(streamed!.action).toBe('insert');
  const { dataDir } = millrace;
  const record = (body: string) => body.slice(0, body.indexOf(',"changes":'));
  const [first] = await millrace.bodies('streamed');
  await millrace.stop();
  millrace = await startMillrace(db, { dataDir, sinks: [{ name: 'read', initial_backfill: true }] });
  await millrace.atLeast(1, 'read');
  const [second] = await millrace.bodies('read');
  expect(record(second!)).toBe(record(first!));
});
