// Two engines, each with a data directory of its own, that were given the same slot: exactly one captures. The other
// appends nothing, however long it waits, and takes over when the first ends; the first then does not go on in silence.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type EngineProcess, engineProcess } from './engine-process.ts';

// Processes and servers start here, beside other tests.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 120_000 });

let db: TestDatabase;
let engines: EngineProcess[];
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
  engines = [await engineProcess(db), await engineProcess(db)];
});
afterEach(async () => {
  for (const engine of engines) await engine.remove();
  await db.drop();
});

const ids = async (engine: EngineProcess) => (await engine.messages()).map(({ record }) => record['id']);

test('the loser waits and appends nothing, then takes over where the winner ended', async () => {
  const [first, second] = engines as [EngineProcess, EngineProcess];
  first.start();
  await first.streaming();
  second.start();
  expect(await second.process.waitForLine(/is read by/)).toContain('millrace');
  await db.sql(`INSERT INTO t SELECT generate_series(1, 20)`);
  await first.delivered();
  expect(second.process.running).toBe(true);
  await second.process.kill('SIGKILL');
  expect(await second.logRecords()).toBe(0);
  second.start();
  await second.process.waitForLine(/is read by/);
  await first.process.kill('SIGKILL');
  await second.streaming();
  await db.sql(`INSERT INTO t SELECT generate_series(21, 30)`);
  await second.delivered();
  // The first comes back: it waits, and once the slot is free it says that others have read on.
  first.start();
  await first.process.waitForLine(/is read by/);
  await second.process.kill('SIGTERM');
  await first.process.waitForLine(/pg_slot_changed/);
  await first.process.kill('SIGTERM');
  expect(await ids(first)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
  expect(await ids(second)).toEqual(Array.from({ length: 10 }, (_, i) => i + 21));
});

test('of two that start at the same moment one captures, whoever made the slot', async () => {
  for (const engine of engines) engine.start();
  const streaming = engines.map((engine) => engine.streaming().then(() => engine));
  const winner = await Promise.race(streaming);
  const loser = engines.find((engine) => engine !== winner)!;
  for (const lost of streaming) lost.catch(() => {});
  await loser.process.waitForLine(/is read by|already exists|active for/);
  await db.sql(`INSERT INTO t SELECT generate_series(1, 20)`);
  await winner.delivered();
  // Also the one that waits ends when it is told to.
  for (const engine of [loser, winner]) expect((await engine.process.kill('SIGTERM')).code).toBe(0);
  expect(await loser.logRecords()).toBe(0);
  expect(await ids(winner)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
});
