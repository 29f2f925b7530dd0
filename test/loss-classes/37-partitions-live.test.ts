// Class 37: RELATION messages come again, or are stale, and partitions are attached and detached while changes flow.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Message, type Millrace, startMillrace } from '../end-to-end/millrace.ts';

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

const what = (messages: readonly Message[]) =>
  messages.map(
    (m) => `${m.action} ${m.metadata.table_name} ${m.record['id']} ${m.record['v']} ${m.metadata.record_pks}`,
  );

describe.each([
  ['publishing by root', true],
  ['publishing by partition', false],
])('%s', (_, viaRoot) => {
  test('a table is itself before it is attached and after it is detached, and its root in between, at any depth', async () => {
    // Another order of columns, a dropped one in between: positions in the tuple are the partition's own.
    await db.sql(`CREATE TABLE root (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
      CREATE TABLE middle (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
      CREATE TABLE leaf (gone int, v text, k int NOT NULL, id int NOT NULL, PRIMARY KEY (id, k)); ALTER TABLE leaf DROP gone;
      CREATE PUBLICATION all_tables FOR ALL TABLES WITH (publish_via_partition_root = ${viaRoot})`);
    millrace = await startMillrace(db, { publication: { name: 'all_tables' } });
    let rows = 0;
    const insert = async (table: string) => {
      rows++;
      await db.sql(`INSERT INTO ${table} (id, k, v) VALUES (${rows}, 1, 'r${rows}')`);
      await millrace!.atLeast(rows);
    };
    await insert('leaf');
    await db.sql(`ALTER TABLE middle ATTACH PARTITION leaf FOR VALUES IN (1)`);
    await insert('leaf');
    await insert('middle');
    await db.sql(`ALTER TABLE root ATTACH PARTITION middle FOR VALUES IN (1)`);
    await insert('root');
    await insert('leaf');
    await db.sql(`ALTER TABLE root DETACH PARTITION middle`);
    await insert('leaf');
    await db.sql(`ALTER TABLE middle DETACH PARTITION leaf`);
    await insert('leaf');
    expect(what(await millrace.messages())).toEqual(
      ['leaf', 'middle', 'middle', 'root', 'root', 'middle', 'leaf'].map(
        (table, i) => `insert ${table} ${i + 1} r${i + 1} ${i + 1},1`,
      ),
    );
  });

  test('a partition attached and written to in one transaction has the name of its root at once', async () => {
    await db.sql(`CREATE TABLE root (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
      CREATE TABLE p1 PARTITION OF root FOR VALUES FROM (0) TO (10); CREATE TABLE p2 (id int PRIMARY KEY, v text);
      CREATE PUBLICATION all_tables FOR ALL TABLES WITH (publish_via_partition_root = ${viaRoot})`);
    millrace = await startMillrace(db, { publication: { name: 'all_tables' } });
    await db.sql(`INSERT INTO root VALUES (1, 'a'); INSERT INTO p2 VALUES (11, 'b')`);
    await millrace.atLeast(2);
    await db.sql(`BEGIN; ALTER TABLE root ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20); INSERT INTO p2 VALUES (12, 'c');
      UPDATE root SET id = 13 WHERE id = 1; COMMIT`);
    expect(what(await millrace.atLeast(5)).slice(2)).toEqual([
      'insert root 12 c 12',
      'delete root 1 null 1',
      'insert root 13 a 13',
    ]);
  });
});

test('a RELATION that comes again and means the same changes nothing', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text)`);
  millrace = await startMillrace(db, { sinks: [{ schema_changes: true }] });
  for (let i = 1; i <= 4; i++) {
    await db.sql(`INSERT INTO t VALUES (${i}, 'x')`);
    // Each makes the server announce the table again.
    await db.sql(`ANALYZE t; ALTER TABLE t SET (fillfactor = ${90 + i}); CREATE INDEX ON t (v)`);
  }
  const { dataDir } = millrace;
  await millrace.atLeast(5);
  await millrace.stop();
  millrace = await startMillrace(db, { dataDir, sinks: [{ schema_changes: true }] });
  await db.sql(`INSERT INTO t VALUES (5, 'x')`);
  const messages = await millrace.atLeast(6);
  expect(messages.map((m) => (m.action === 'schema' ? 'schema' : m.record['id']))).toEqual(['schema', 1, 2, 3, 4, 5]);
});

test('tables made, dropped and made again while it runs flow by themselves', async () => {
  millrace = await startMillrace(db);
  for (let round = 0; round < 3; round++) {
    const type = ['int', 'text', 'bool'][round];
    await db.sql(`CREATE TABLE made (id int PRIMARY KEY, v ${type}); INSERT INTO made VALUES (${round}, '${round % 2}');
      DROP TABLE made`);
  }
  const messages = await millrace.atLeast(3);
  expect(messages.map(({ record }) => record)).toEqual([
    { id: 0, v: 0 },
    { id: 1, v: '1' },
    { id: 2, v: false },
  ]);
});
