/** Tables that come and go under a publication of all tables: nothing stays red for them, and nothing grows with them. */
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually, type Millrace, startMillrace } from './millrace.ts';

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

function pipeline() {
  return millrace!.server.pipelines[0]!;
}

function jobs() {
  return pipeline().backfills.get('sink')!.list();
}

/** What is kept of the fills of the row index. */
function fills(): { readonly table: { readonly name: string }; readonly state: string }[] {
  const stored = millrace!.server.store.state.list('source/shop/rows/backfills/');
  return [...stored].map(([, value]) => JSON.parse(Buffer.from(value).toString()));
}

function errors(): string[] {
  const { health, sinks } = millrace!.server.databases[0]!.monitor.report();
  return [health, ...sinks.map((sink) => sink.health)].flatMap(({ checks }) =>
    checks.flatMap(({ findings }) => findings.filter(({ severity }) => severity === 'error').map(({ text }) => text)),
  );
}

const FILLED = { initial_backfill: true, fill_unchanged: true };

test('a table that is dropped before its turn to be read is no error, and one of its name later is read', async () => {
  const others = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];
  for (const name of [...others, 'young']) await db.sql(`CREATE TABLE ${name} (id int PRIMARY KEY, v text)`);
  for (const name of others) await db.sql(`INSERT INTO ${name} SELECT i, 'x' FROM generate_series(1, 5) i`);
  millrace = await startMillrace(db, { sinks: [FILLED], database: { backfill: { rows_per_second: 20 } } });
  await eventually('all of them are listed', () => jobs().length === 9 && fills().length === 9);
  await db.sql('DROP TABLE young');
  const open = (states: readonly { readonly state: string }[]) => states.some(({ state }) => state === 'active');
  await eventually('all of them have ended', () => !open(jobs()) && !open(fills()));
  expect(jobs().find(({ table }) => table.name === 'young')).toMatchObject({ state: 'cancelled', error: null });
  expect(errors()).toEqual([]);
  await db.sql(`CREATE TABLE young (id int PRIMARY KEY, v text); INSERT INTO young VALUES (1, 'y')`);
  await eventually('the row index holds the new one', () => pipeline().rowIndex!.complete('public', 'young'));
  expect(errors()).toEqual([]);
}, 60_000);

test('of tables whose backfill is over a cursor keeps nothing, and none of them is read again', async () => {
  const tables = 40;
  for (let i = 0; i < tables; i++) {
    await db.sql(`CREATE TABLE t_${i} (id int PRIMARY KEY, v text); INSERT INTO t_${i} VALUES (1, 'x')`);
  }
  millrace = await startMillrace(db, { sinks: [FILLED] });
  await millrace.atLeast(tables);
  const stored = (key: string): { backfills: object } =>
    JSON.parse(Buffer.from(millrace!.server.store.state.get(key) ?? '{"backfills":{}}').toString());
  const marks = () => ['sink/sink/cursor', 'source/shop/rows/cursor'].map((key) => Object.keys(stored(key).backfills));
  let rows = 1;
  await eventually('the cursors on record have no marks', async () => {
    await db.sql(`INSERT INTO t_0 VALUES (${++rows})`);
    return fills().length === tables && marks().every((of) => of.length === 0);
  });
  await millrace.stop();
  millrace = await startMillrace(db, { sinks: [FILLED], dataDir: millrace.dataDir });
  const messages = await millrace.atLeast(tables + rows - 1);
  expect(messages.filter(({ action }) => action === 'read')).toHaveLength(tables);
}, 60_000);

test('of a table that is made anew again and again one fill is kept', async () => {
  const make = `CREATE TABLE staging (id int PRIMARY KEY, v text); INSERT INTO staging VALUES (1, 'x')`;
  await db.sql(make);
  millrace = await startMillrace(db, { sinks: [FILLED] });
  const complete = async () => {
    const { rowIndex } = pipeline();
    await eventually('it is filled', () => rowIndex!.filled && rowIndex!.complete('public', 'staging'));
  };
  await complete();
  for (let round = 1; round <= 4; round++) {
    await db.sql('DROP TABLE staging');
    await db.sql(make);
    await eventually('it is another one', () => pipeline().rowIndex!.table('public', 'staging')?.generation === round);
    await complete();
    await eventually('one is left', () => fills().filter(({ state }) => state === 'completed').length === 1);
  }
  expect(fills()).toHaveLength(1);
}, 60_000);
