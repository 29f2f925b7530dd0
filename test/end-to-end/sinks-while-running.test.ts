/** Sinks added, changed and removed while changes flow: the others do not notice, and no change is lost or doubled. */
import { loadConfig } from '@millrace/api/config';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { configText, eventually, type Millrace, type SinkOptions, startMillrace } from './millrace.ts';

let db: TestDatabase;
let millrace: Millrace;
let writing: Promise<number>;
let enough = false;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
  enough = false;
});
afterEach(async () => {
  enough = true;
  await writing;
  await millrace.remove();
  await db.drop();
});

/** One transaction after the other until it is enough; how many. */
async function write(): Promise<number> {
  let id = 0;
  while (!enough) await db.sql(`INSERT INTO t VALUES (${++id}, 'v')`);
  return id;
}

async function apply(sinks: readonly SinkOptions[]): Promise<void> {
  const config = loadConfig(configText(db, { sinks }), { file: 'millrace.yaml', env: {} });
  await millrace.server.databases[0]!.applySinks(config.sinks);
}

const ids = async (stream: string) => (await millrace.messages(stream)).map(({ record }) => record['id'] as number);
const to = (last: number, first = 1) => Array.from({ length: last - first + 1 }, (_, i) => first + i);
const deliveryOf = (name: string) => millrace.server.pipelines[0]!.deliveries.find((one) => one.name === name);

test('one that changes goes on where it was, the other is left alone, a new one begins, a removed one is forgotten', async () => {
  millrace = await startMillrace(db, { sinks: [{ name: 'a' }, { name: 'b' }, { name: 'gone' }] });
  writing = write();
  await millrace.atLeast(20, 'b');
  const untouched = deliveryOf('a');
  const before = deliveryOf('b');
  await apply([{ name: 'a' }, { name: 'b', actions: ['insert', 'delete'] }, { name: 'c' }]);
  expect(deliveryOf('a')).toBe(untouched);
  expect(deliveryOf('b')).not.toBe(before);
  expect(deliveryOf('gone')).toBeUndefined();
  expect([...millrace.server.store.state.list('sink/gone/')]).toEqual([]);
  await millrace.atLeast(20, 'c');
  enough = true;
  const last = await writing;
  await millrace.atLeast(last, 'a');
  await millrace.atLeast(last, 'b');
  await eventually('c has the last one', async () => (await ids('c')).at(-1) === last);
  expect(await ids('a')).toEqual(to(last));
  expect(await ids('b')).toEqual(to(last));
  const c = await ids('c');
  expect(c).toEqual(to(last, c[0]));
  expect((await ids('gone')).length).toBeLessThan(last);
});

test('at a start, one that has run goes on without a table that is gone by then, and with it once it is back', async () => {
  await db.sql('CREATE TABLE dropped (id int PRIMARY KEY)');
  const sinks = [{ name: 'a' }, { name: 'named', source: { include_tables: ['t', 'dropped'] } }];
  millrace = await startMillrace(db, { sinks });
  const { dataDir } = millrace;
  writing = Promise.resolve(0);
  await db.sql(`INSERT INTO t VALUES (1, 'v'); INSERT INTO dropped VALUES (1)`);
  await millrace.atLeast(2, 'named');
  await millrace.stop();
  await db.sql(`DROP TABLE dropped; INSERT INTO t VALUES (2, 'v')`);
  millrace = await startMillrace(db, { sinks, dataDir });
  await millrace.atLeast(3, 'named');
  const { monitor } = millrace.server.databases[0]!;
  await eventually('its health says which one', async () => {
    await monitor.refresh();
    const { health } = monitor.report().sinks.find(({ name }) => name === 'named')!;
    return health.checks.some(({ findings }) => findings.some(({ text }) => text.includes('dropped')));
  });
  await db.sql('CREATE TABLE dropped (id int PRIMARY KEY); INSERT INTO dropped VALUES (7)');
  await millrace.atLeast(4, 'named');
  expect(await ids('named')).toEqual([1, 1, 2, 7]);
  expect(await ids('a')).toEqual([1, 1, 2, 7]);
  // A new one is a mistake, and is told at once.
  await db.sql('DROP TABLE dropped');
  await millrace.stop();
  const more = [...sinks, { name: 'new', source: { include_tables: ['dropped'] } }];
  await expect(startMillrace(db, { sinks: more, dataDir })).rejects.toMatchObject({ code: 'pg_table_missing' });
  millrace = await startMillrace(db, { sinks, dataDir });
});

test('one that names a table that is not there is refused, and all goes on as it was', async () => {
  millrace = await startMillrace(db, { sinks: [{ name: 'a' }] });
  writing = write();
  await millrace.atLeast(5, 'a');
  const untouched = deliveryOf('a');
  const bad = { name: 'bad', source: { include_tables: ['missing'] } };
  await expect(apply([{ name: 'a', actions: ['delete'] }, bad])).rejects.toMatchObject({ code: 'pg_table_missing' });
  expect(deliveryOf('a')).toBe(untouched);
  expect(millrace.server.databases[0]!.sinks).toHaveLength(1);
  const seen = (await ids('a')).length;
  await millrace.atLeast(seen + 5, 'a');
});

test('one whose need the row index does not meet starts the pipeline anew, and nothing is lost either', async () => {
  millrace = await startMillrace(db, { sinks: [{ name: 'a' }] });
  writing = write();
  await millrace.atLeast(5, 'a');
  const before = millrace.server.pipelines[0];
  await apply([{ name: 'a' }, { name: 'b', fill_unchanged: true }]);
  await eventually('another pipeline runs', () => {
    const [now] = millrace.server.pipelines;
    return now !== undefined && now !== before;
  });
  await millrace.atLeast(5, 'b');
  enough = true;
  const last = await writing;
  await millrace.atLeast(last, 'a');
  expect(await ids('a')).toEqual(to(last));
});
