/** How far a sink is behind, by the age of what it lacks: also after a restart that finds a backlog. */
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually, type Millrace, startMillrace } from './millrace.ts';

let db: TestDatabase;
let millrace: Millrace | undefined;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`CREATE TABLE items (id int PRIMARY KEY)`);
});
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await db.drop();
});

const lag = () => millrace!.server.databases[0]!.monitor.report().sinks[0]!.lag;

test('a paused sink is as far behind as what it lacks is old, and by nothing once it has caught up', async () => {
  millrace = await startMillrace(db, { sinks: [{ status: 'paused' }] });
  expect(lag()).toEqual({ bytes: 0n, transactions: 0, seconds: 0 });
  const commit = async (id: number) => {
    const transactions = lag().transactions! + 1;
    await db.sql(`INSERT INTO items VALUES (${id})`);
    await eventually('it is captured', () => lag().transactions === transactions);
  };
  const clock = async () => Number((await db.sql(`SELECT extract(epoch FROM clock_timestamp()) AS s`))[0].s);
  const began = await clock();
  await commit(1);
  await eventually('the clock of the source is known', () => lag().seconds !== null);
  expect(lag().seconds).toBeLessThanOrEqual((await clock()) - began + 0.1);
  // Nothing new comes, and what is there grows older all the same.
  await eventually('it has grown', () => lag().seconds! > 1.5);
  await commit(2);
  await commit(3);
  const behind = lag();
  expect(behind.transactions).toBe(3);
  expect(behind.bytes).toBeGreaterThan(0n);
  expect(behind.seconds).toBeGreaterThan(1.5);
  expect(behind.seconds).toBeLessThanOrEqual((await clock()) - began + 0.1);

  // A process that finds the backlog knows its bytes and, from the log itself, its age, but did not count it.
  await millrace.stop();
  const { dataDir } = millrace;
  millrace = await startMillrace(db, { dataDir, sinks: [{ status: 'paused' }] });
  await eventually('the age is read from the log', () => lag().seconds !== null);
  expect(lag().transactions).toBeNull();
  expect(lag().bytes).toBe(behind.bytes);
  expect(lag().seconds).toBeGreaterThan(behind.seconds!);
  expect(lag().seconds).toBeLessThanOrEqual((await clock()) - began + 0.1);

  await millrace.stop();
  millrace = await startMillrace(db, { dataDir });
  await millrace.atLeast(3);
  await eventually('it has caught up', () => lag().bytes === 0n);
  expect(lag()).toEqual({ bytes: 0n, transactions: 0, seconds: 0 });
}, 60_000);
