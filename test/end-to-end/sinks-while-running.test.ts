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
