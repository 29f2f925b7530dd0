import { expect, test, vi } from 'vitest';
import { keyOf, logOf, TestWorld } from './push-world.ts';

const WAIT = { timeout: 30_000, interval: 5 };

test('everything arrives, once, in the order of its group', async () => {
  const log = logOf(Array.from({ length: 500 }, (_, i) => `k${(i * 7) % 40}`));
  const world = new TestWorld(log);
  await world.start();
  await vi.waitFor(() => expect(world.idle).toBe(true), WAIT);
  await world.delivery.stop();
  expect(world.arrivals.map(({ id }) => id).sort()).toEqual(log.map(keyOf).sort());
  expect(world.violations).toEqual([]);
});
