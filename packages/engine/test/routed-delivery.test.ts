/** Exactly once in every stream, in order, whatever ends a life and wherever. Seeded: MILLRACE_ROUTED_SEED, _RUNS. */
import { rmSync } from 'node:fs';
import { routableSink } from '@millrace/sinks/routable-sink';
import { routeLog } from '@millrace/sinks/route-log';
import { localRoutedStreams } from '@millrace/sinks/s2-local-streams';
import { type LocalStore, openLocalStore } from '@millrace/stream-store/local-store';
import { testDirectory } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { expectedStreams, live, mortalStore, randomSteps, streamsOf } from './routed-run.ts';

const SEED = Number(process.env['MILLRACE_ROUTED_SEED'] ?? 20_261_123);
const RUNS = Number(process.env['MILLRACE_ROUTED_RUNS'] ?? 12);
const LIVES_MAX = 400;

let dir: string;
let store: LocalStore;
beforeEach(async () => {
  dir = testDirectory('routed');
  store = await openLocalStore({ dir, log: () => {} });
});
afterEach(async () => {
  await store.close();
  rmSync(dir, { recursive: true, force: true });
});

test.each(Array.from({ length: RUNS }, (_, run) => SEED + run))(
  'lives that end at any write deliver each message once, in order in its stream: seed %i',
  async (seed) => {
    const random = seededRandom(seed);
    const steps = randomSteps(random, 400, random.pick([1, 3, 7, 40]));
    let lives = 0;
    for (let done = false; !done; lives++) {
      expect(lives).toBeLessThan(LIVES_MAX);
      const life = { left: 3 + random.integer(60) + lives };
      const mortal = mortalStore(store, life);
      const streams = localRoutedStreams({ store: mortal, name: 's' });
      const log = routeLog(mortal.state, 's');
      const sink = routableSink({ single: null, streams, log, place: null, routed: true, placeNow: async () => null });
      done = await live({ steps, sink, state: mortal.state, random });
    }
    expect(await streamsOf(store)).toEqual(expectedStreams(steps));
    expect(lives).toBeGreaterThan(2);
  },
  60_000,
);
