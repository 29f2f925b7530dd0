import { redisMissing } from '@millrace/testkit/servers/redis';
import { expect, test } from 'vitest';
import { runSinksCampaign } from './campaign.ts';

const SEED = Number(process.env['MILLRACE_CRASH_SEED'] ?? 20_261_122);

/** What starts in no time; `npm run test:sinks-crash` has all of them. */
const redis = (await redisMissing()) === null ? (['redis_stream', 'redis_string'] as const) : [];

test('killed at random moments and cut off, no sink loses a change, nor the order of a key, nor sends more twice than was under way', async () => {
  const kinds = ['webhook', ...redis, 'sequin_stream', 's2'] as const;
  const { problems, sinks } = await runSinksCampaign({
    ...{ kills: 2, seed: SEED, kinds, writers: 2, keys: 40, pauseMs: 20 },
  });
  expect(problems).toEqual([]);
  for (const { kind, expected } of sinks) expect(expected, kind).toBeGreaterThan(kind === 'redis_string' ? 20 : 50);
}, 180_000);
