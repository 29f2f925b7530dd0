import { expect, test } from 'vitest';
import { runCampaign } from './campaign.ts';

const SEED = Number(process.env['MILLRACE_CRASH_SEED'] ?? 20_261_122);

test('killed at random moments, with crashes of Postgres, each stream has every change once and in order', async () => {
  const beside = { ddl: true, truncates: true, large: true, remote: true, filled: true };
  const options = { kills: 8, seed: SEED, writers: 4, postgresEvery: 4, backfill: false, ...beside };
  const { problems, workload, messages, remoteKills, filled } = await runCampaign(options);
  expect(problems).toEqual([]);
  expect(workload.committed).toBeGreaterThan(100);
  expect(messages).toBeGreaterThan(workload.changes);
  expect(remoteKills).toBeGreaterThan(0);
  expect(filled).toBeGreaterThan(0);
}, 180_000);

test('killed while it backfills under writers, the stream still rebuilds the tables as they are', async () => {
  const options = { kills: 10, seed: SEED + 1, writers: 3, postgresEvery: 5, backfill: true };
  const { problems, workload, reads } = await runCampaign(options);
  expect(problems).toEqual([]);
  expect(workload.committed).toBeGreaterThan(500);
  expect(reads).toBeGreaterThan(0);
}, 180_000);
