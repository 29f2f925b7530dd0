/** How far a sink is behind, by the commits themselves: also after a restart that finds a backlog. */
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

test('a paused sink is behind by what was committed since, and by nothing once it has caught up', async () => {
  millrace = await startMillrace(db, { sinks: [{ status: 'paused' }] });
  expect(lag()).toEqual({ bytes: 0n, transactions: 0, seconds: 0 });
  const commit = async (id: number) => {
    const transactions = lag().transactions! + 1;
    await db.sql(`INSERT INTO items VALUES (${id})`);
    await eventually('it is captured', () => lag().transactions === transactions);
  };
  await commit(1);
  // One commit alone is no time behind another.
  expect(lag()).toMatchObject({ transactions: 1, seconds: 0 });
  await db.sql(`SELECT pg_sleep(0.6)`);
  await commit(2);
  await commit(3);
  const behind = lag();
  expect(behind.transactions).toBe(3);
  expect(behind.bytes).toBeGreaterThan(0n);
  expect(behind.seconds).toBeGreaterThan(0.5);
  expect(behind.seconds).toBeLessThan(20);

  // A process that finds the backlog knows its bytes and, from the log itself, its age, but did not count it.
  await millrace.stop();
  const { dataDir } = millrace;
  millrace = await startMillrace(db, { dataDir, sinks: [{ status: 'paused' }] });
  await eventually('the age is read from the log', () => lag().seconds !== null);
  expect(lag().transactions).toBeNull();
  expect(lag().bytes).toBe(behind.bytes);
  expect(Math.abs(lag().seconds! - behind.seconds!)).toBeLessThan(0.2);

  await millrace.stop();
  millrace = await startMillrace(db, { dataDir });
  await millrace.atLeast(3);
  await eventually('it has caught up', () => lag().bytes === 0n);
  expect(lag()).toEqual({ bytes: 0n, transactions: 0, seconds: 0 });
}, 60_000);
