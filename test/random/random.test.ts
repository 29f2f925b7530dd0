import { expect, test } from 'vitest';
import { runRandom } from './run.ts';

const SEED = Number(process.env['MILLRACE_TEST_SEED'] ?? 20_261_122);

test(`random tables, transactions and schema changes under kills: the stream is what another reader of the WAL saw (seed ${SEED})`, async () => {
  const options = { seed: SEED, transactions: 60, serial: false, kills: 2, postgresKills: 1 };
  const { problems, script, changes } = await runRandom(options);
  expect(problems).toEqual([]);
  expect(script.committed).toBeGreaterThanOrEqual(60);
  expect(changes).toBeGreaterThan(script.committed);
}, 180_000);

test(`the same with one connection and a backfill, where a seed always gives the same transactions (seed ${SEED + 7})`, async () => {
  const options = { seed: SEED + 7, transactions: 60, serial: true, kills: 0, postgresKills: 0, backfill: true };
  const { problems, script, changes, reads } = await runRandom(options);
  expect(problems).toEqual([]);
  expect(script.committed + script.rolledBack).toBe(60);
  expect(changes).toBeGreaterThan(0);
  expect(reads).toBeGreaterThan(0);
}, 180_000);
