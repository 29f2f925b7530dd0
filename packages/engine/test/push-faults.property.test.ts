/**
 * A destination that fails at random, and a process that is killed at random: nothing is lost, the order of each key
 * holds, and what arrives twice stays within what was under way and not on record.
 */
import { MillraceError } from '@millrace/core/error';
import type { DeliveryFailure, OutMessage } from '@millrace/sinks/push-sink';
import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { type Behaviour, keyOf, LIMITS, type LoggedMessage, logOf, POLICY, TestWorld } from './push-world.ts';

const WAIT = { timeout: 60_000, interval: 5 };

type Fault =
  | 'none'
  | 'unavailable'
  | 'refused'
  | 'partial'
  | 'lost_reply'
  | 'slow'
  | 'denied'
  | 'short_answer'
  | 'crash';
const FAULTS: readonly Fault[] = [
  'none',
  'unavailable',
  'refused',
  'partial',
  'lost_reply',
  'slow',
  'denied',
  'short_answer',
  'crash',
];

/** A small generator of its own, so that a failure is found again by its seed. */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 2 ** 32;
  };
}

interface Trial {
  readonly seed: number;
  readonly keys: number;
  readonly messages: number;
  readonly faultRate: number;
  readonly share: boolean;
  readonly concurrency: number;
  readonly kills: number;
  readonly window: number;
  readonly waitMs: number;
  readonly grouped: boolean;
}

/** Replies that were lost, or never came: each may be answered by one message more. */
interface Seen {
  mayRepeat: number;
}

function faulty(random: () => number, rate: number, seen: Seen): Behaviour {
  const unavailable = (): DeliveryFailure => ({ error: new MillraceError('sink_unavailable') });
  return async (messages, arrive) => {
    const fault = random() < rate ? FAULTS[Math.floor(random() * FAULTS.length)]! : 'none';
    if (random() < 0.7) await new Promise((resolve) => setTimeout(resolve, random() * (fault === 'slow' ? 15 : 2)));
    const all = (list: readonly OutMessage[]) => {
      for (const message of list) arrive(message);
    };
    switch (fault) {
      case 'none':
      case 'slow':
        all(messages);
        return null;
      case 'unavailable':
        throw new MillraceError('sink_unavailable');
      case 'denied':
        throw new MillraceError('sink_denied');
      case 'crash':
        throw new TypeError('a library of the destination has a fault');
      case 'refused':
        throw new MillraceError('sink_refused');
      case 'lost_reply':
        all(messages);
        seen.mayRepeat += messages.length;
        throw new MillraceError('sink_unavailable');
      case 'short_answer':
        all(messages);
        seen.mayRepeat += messages.length;
        return messages.slice(1).map(() => null);
      case 'partial': {
        // Up to the first that failed, as a sink that takes several of a group in one request has to.
        const good = Math.floor(random() * messages.length);
        all(messages.slice(0, good));
        return messages.map((_, i) => (i < good ? null : unavailable()));
      }
    }
  };
}

async function run(trial: Trial): Promise<void> {
  const random = randomFrom(trial.seed);
  const keys = Array.from({ length: trial.messages }, () => `k${Math.floor(random() * trial.keys)}`);
  const log: LoggedMessage[] = logOf(keys, 4).map((message) => (trial.grouped ? message : { ...message, group: null }));
  const world = new TestWorld(log);
  world.limits = { ...LIMITS, concurrency: trial.concurrency, groupsShareRequests: trial.share };
  world.policy = { ...POLICY, maxAckPending: trial.window, batchTimeoutMs: trial.waitMs };
  const seen: Seen = { mayRepeat: 0 };
  world.behaviour = faulty(random, trial.faultRate, seen);
  world.options = { random };
  for (let kill = 0; kill < trial.kills; kill++) {
    await world.start();
    const until = world.arrivals.length + 1 + Math.floor(random() * (trial.messages / trial.kills));
    await vi.waitFor(() => expect(world.arrivals.length >= until || world.idle).toBe(true), WAIT);
    // What is under way may have arrived; and of what is done as much as a save is behind.
    seen.mayRepeat += trial.concurrency * LIMITS.messagesMax + 2 * trial.window;
    world.kill();
  }
  await world.start();
  await vi.waitFor(() => expect(world.idle).toBe(true), WAIT);
  await world.delivery.stop();
  expect(world.violations).toEqual([]);
  // Nothing is lost.
  const expected = new Set(log.map(keyOf));
  expect(new Set(world.firstArrivals())).toEqual(expected);
  // In the order of its key: what arrives again is never followed by something that did not arrive yet being skipped.
  if (trial.grouped) {
    const next = new Map<string, number>();
    const last = new Map<string, number>();
    for (const { key, version, session } of world.arrivals) {
      const wanted = next.get(key) ?? 0;
      expect(version).toBeLessThanOrEqual(wanted);
      if (version === wanted) next.set(key, wanted + 1);
      // Within one life it never goes back; but a request of several whose reply was lost comes again as a whole.
      const lastKey = `${session}/${key}`;
      if (!trial.share) expect(version).toBeGreaterThanOrEqual(last.get(lastKey) ?? 0);
      last.set(lastKey, version);
    }
  }
  const repeated = world.arrivals.length - expected.size;
  expect(repeated).toBeLessThanOrEqual(seen.mayRepeat);
}

test('a thousand keys, thirty-two workers, random failures: nothing lost, each key in order', {
  timeout: 120_000,
}, async () => {
  await run({
    seed: 20_261_123,
    keys: 1_000,
    messages: 8_000,
    faultRate: 0.25,
    share: false,
    concurrency: 32,
    kills: 0,
    window: 2_000,
    waitMs: 0,
    grouped: true,
  });
});

test('killed at random while it fails at random: nothing lost, each key in order, repeats within the window', {
  timeout: 120_000,
}, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        seed: fc.integer({ min: 1, max: 2 ** 31 }),
        keys: fc.integer({ min: 1, max: 60 }),
        messages: fc.integer({ min: 1, max: 400 }),
        faultRate: fc.constantFrom(0, 0.1, 0.5),
        share: fc.boolean(),
        concurrency: fc.integer({ min: 1, max: 8 }),
        kills: fc.integer({ min: 0, max: 4 }),
        window: fc.integer({ min: 1, max: 60 }),
        waitMs: fc.constantFrom(0, 0, 5),
        grouped: fc.boolean(),
      }),
      run,
    ),
    { numRuns: Number(process.env.MILLRACE_PUSH_RUNS ?? 8), endOnFailure: true },
  );
});
