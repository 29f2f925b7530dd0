// A value out of line that an update does not touch is not in the stream. A row that such an update moves to where a
// backfill by place on disk has been would never come whole, if it were not read once more.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { acknowledged, engineProcess } from '../loss-classes/engine-process.ts';
import { managerOf, settled } from './backfills.ts';
import { eventually, type Message, startMillrace } from './millrace.ts';

const ROWS = 6000;
const SLOWLY = { backfill: { rows_per_second: 1500, connections: 1 } };
const SINKS = [{ name: 'sink', initial_backfill: true }];

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`CREATE TABLE docs (id int PRIMARY KEY, status text, doc text); ALTER TABLE docs ALTER doc SET STORAGE EXTERNAL;
    INSERT INTO docs SELECT i, 'new', repeat(md5(i::text), 70) FROM generate_series(1, ${ROWS}) i`);
});
afterEach(() => db.drop());

/** What is left of the changes is applied to the rows, and each compared with the table. */
async function expectSame(messages: readonly Message[]): Promise<void> {
  const rows = new Map<unknown, Record<string, unknown>>();
  for (const { action, record, changes } of messages) {
    const { id } = record;
    const former = (changes?.['id'] as number | undefined) ?? id;
    const before = rows.get(former);
    if (former !== id || action === 'delete') rows.delete(former);
    if (action !== 'delete') rows.set(id, { ...before, ...record });
  }
  const table = await db.sql<{ id: number }>('SELECT id, status, doc FROM docs ORDER BY id');
  expect([...rows.keys()].sort((a, b) => Number(a) - Number(b))).toEqual(table.map(({ id }) => id));
  const different = table.filter((row) => JSON.stringify(rows.get(row.id)) !== JSON.stringify(row));
  expect(different.map(({ id }) => id)).toEqual([]);
}

/** Updates that move rows everywhere, of which most leave the large value alone. */
async function change(): Promise<void> {
  await db.sql(`UPDATE docs SET status = 'paid' WHERE id > 4500`);
  await db.sql(`UPDATE docs SET doc = repeat('x', 3000) WHERE id % 1000 = 1; DELETE FROM docs WHERE id % 1000 = 2`);
  await db.sql(`UPDATE docs SET id = id + 10000 WHERE id % 500 = 3`);
  await db.sql(`UPDATE docs SET status = 'sent' WHERE id % 3 = 0`);
}

test('rows that are updated while they are backfilled come with their large values', async () => {
  const millrace = await startMillrace(db, { sinks: SINKS, database: SLOWLY });
  try {
    await millrace.atLeast(100);
    await change();
    expect(managerOf(millrace).list()[0]).toMatchObject({ state: 'active', order: 'physical' });
    await settled(millrace);
    await db.sql(`INSERT INTO docs VALUES (0, 'last', '')`);
    await eventually('the last has come', async () => (await millrace.messages()).at(-1)?.record['id'] === 0);
    await expectSame(await millrace.messages());
  } finally {
    await millrace.remove();
  }
}, 60_000);

test('also when it is killed in between, and stopped while it reads what it has missed', async () => {
  const engine = await engineProcess(db, { sinks: SINKS, database: SLOWLY });
  try {
    engine.start();
    await eventually('rows are read', async () => {
      const sessions = `FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%ACCESS SHARE MODE%'`;
      const [{ n }] = (await db.sql(`SELECT count(*)::int AS n ${sessions} AND pid <> pg_backend_pid()`)) as [
        { n: number },
      ];
      return n > 0;
    });
    await change();
    await acknowledged(db);
    await engine.process.kill('SIGKILL');
    const before = (await engine.messages()).filter(({ action }) => action === 'read').length;
    expect(before).toBeLessThan(4000);
    const again = await startMillrace(db, { dataDir: engine.dataDir, sinks: SINKS, database: SLOWLY });
    // More than fit into the page that was the last when it began.
    const missed = ({ action, record }: Message) => action === 'read' && record['status'] === 'sent';
    await eventually('it reads what it has missed', async () => (await again.messages()).filter(missed).length > 250);
    expect(managerOf(again).list()[0]).toMatchObject({ state: 'active' });
    await again.stop();
    const millrace = await startMillrace(db, { dataDir: engine.dataDir, sinks: SINKS });
    await settled(millrace);
    await db.sql(`INSERT INTO docs VALUES (0, 'last', '')`);
    await eventually('the last has come', async () => (await millrace.messages()).at(-1)?.record['id'] === 0);
    const messages = await millrace.messages();
    await millrace.stop();
    await expectSame(messages);
  } finally {
    await engine.remove();
  }
}, 90_000);

test('the row index has them, too', async () => {
  const millrace = await startMillrace(db, {
    sinks: [{ name: 'sink', fill_unchanged: true }],
    database: SLOWLY,
  });
  try {
    const index = () => millrace.server.pipelines[0]!.rowIndex!;
    await eventually('it is being filled', () => {
      try {
        return (index().table('public', 'docs')?.count() ?? 0) > 100;
      } catch {
        return false; // Its tables are being made.
      }
    });
    await change();
    await eventually('it is filled', () => index().filled && index().complete('public', 'docs'));
    // Each of these comes with its large value from the index.
    await db.sql(`UPDATE docs SET status = 'asked'`);
    await db.sql(`INSERT INTO docs VALUES (0, 'last', '')`);
    await eventually('the last has come', async () => (await millrace.messages()).at(-1)?.record['id'] === 0);
    const asked = (await millrace.messages()).filter(({ record }) => record['status'] === 'asked');
    const table = await db.sql<{ id: number; doc: string }>('SELECT id, doc FROM docs WHERE id > 0');
    expect(asked.length).toBe(table.length);
    const known = new Map(asked.map(({ record }) => [record['id'], record['doc']]));
    expect(table.filter(({ id, doc }) => known.get(id) !== doc).map(({ id }) => id)).toEqual([]);
  } finally {
    await millrace.remove();
  }
}, 60_000);
