/**
 * Whose fault it is that messages fail: theirs, or the destination's. On a clock of the test's own, for minutes and hours
 * of it: what is somebody else's fault costs a message no try, and holds up nobody for long.
 */
import { type ErrorCode, MillraceError } from '@millrace/core/error';
import type { DeliveryOutcome } from '@millrace/sinks/push-sink';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { LIMITS, POLICY, TestWorld } from './push-world.ts';

const MINUTE = 60_000;
const MAX_RETRIES = 5;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] });
});
afterEach(() => {
  vi.useRealTimers();
});

/** One message a request; `fate` answers by the message's key and the time since the start: an error, or null. */
async function simulate(
  keys: readonly string[],
  fate: (key: string, atMs: number) => ErrorCode | DeliveryOutcome | null,
  options: { readonly minutes: number; readonly goodEveryMs?: number; readonly batch?: number },
) {
  const { minutes, goodEveryMs, batch = 1 } = options;
  const position = (i: number) => ({ lsn: BigInt(100 + i * 10), ordinal: 0 });
  const world = new TestWorld(keys.map((key, i) => ({ position: position(i), key, version: 0 })));
  world.limits = { ...LIMITS, messagesMax: batch, concurrency: 50 };
  world.policy = {
    ...POLICY,
    batchSize: batch,
    maxAckPending: 10_000,
    maxRetryCount: MAX_RETRIES,
    retry: { minMs: 1_000, maxMs: 600_000 },
  };
  const startedAt = performance.now();
  const made = new Map<string, number>();
  const lateMs: number[] = [];
  const tries: { key: string; atMs: number }[] = [];
  world.behaviour = (messages, arrive) => {
    const atMs = performance.now() - startedAt;
    const fates = messages.map(({ keys: [key] }) => fate(key!, atMs));
    for (const {
      keys: [key],
    } of messages)
      tries.push({ key: key!, atMs });
    const failed = fates.find((one) => one !== null);
    if (typeof failed === 'string') throw new MillraceError(failed);
    if (failed != null) return failed;
    for (const message of messages) {
      arrive(message);
      const [key] = message.keys;
      lateMs.push(performance.now() - (made.get(key!) ?? startedAt));
    }
    return null;
  };
  await world.start();
  await turns(50);
  const step = goodEveryMs ?? 1_000;
  for (let t = 0, n = 0; t < minutes * MINUTE; t += step, n++) {
    if (goodEveryMs !== undefined) {
      made.set(`good${n}`, performance.now());
      world.log.append({ position: position(keys.length + n), key: `good${n}`, version: 0 });
    }
    await turns(10);
    await vi.advanceTimersByTimeAsync(step);
  }
  await turns(10);
  const stopping = world.delivery.stop();
  await vi.advanceTimersByTimeAsync(10_000);
  await stopping;
  return { world, tries, lateMs, letters: world.letters.map(({ facts }) => facts.keys[0]!) };
}

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
}

const numbered = (name: string, count: number) => Array.from({ length: count }, (_, i) => `${name}${i}`);
const isBad = (key: string) => key.startsWith('bad');

test.each([
  ['sink_unavailable', 1, 1_000],
  ['sink_unavailable', 10, 1_000],
  ['sink_unavailable', 10, 10_000],
  ['sink_denied', 1, 1_000],
  ['sink_denied', 1, 10_000],
  ['sink_denied', 10, 1_000],
  ['sink_place_missing', 10, 1_000],
] as const)(
  'rows that a destination answers with %s whenever they come (%i of them) are dead letters in the end, and others arrive meanwhile',
  async (code, bad, goodEveryMs) => {
    const keys = numbered('bad', bad);
    const seen = await simulate(keys, (key) => (isBad(key) ? code : null), { minutes: 20, goodEveryMs });
    expect(seen.letters.sort()).toEqual(keys.sort());
    expect(seen.lateMs.length).toBe((20 * MINUTE) / goodEveryMs);
    expect(Math.max(...seen.lateMs)).toBeLessThanOrEqual(2_000);
  },
);

// Which of them ask while it counts as away is chance: the longest wait was 31 s in the median of 80 runs, 153 s at most.
test('a hundred such rows at once hold the others up for some minutes at most, once', async () => {
  const keys = numbered('bad', 100);
  const fate = (key: string) => (isBad(key) ? ('sink_unavailable' as const) : null);
  const seen = await simulate(keys, fate, { minutes: 60, goodEveryMs: 1_000 });
  expect(new Set(seen.letters)).toEqual(new Set(keys));
  expect(seen.lateMs.length).toBe(3_600);
  expect(Math.max(...seen.lateMs)).toBeLessThan(5 * MINUTE);
  const onTime = seen.lateMs.filter((ms) => ms <= 1_000).length;
  expect(onTime).toBeGreaterThan(3_200);
});

test('one such row among others in a request is found: they arrive, and it alone is a dead letter', async () => {
  const keys = [...numbered('other', 40), 'bad', ...numbered('more', 40)];
  const fate = (key: string) => (isBad(key) ? ('sink_unavailable' as const) : null);
  const seen = await simulate(keys, fate, { minutes: 30, goodEveryMs: 1_000, batch: 10 });
  expect(seen.letters).toEqual(['bad']);
  expect(seen.lateMs.length).toBe(80 + 30 * 60);
});

test.each([
  'sink_unavailable',
  'sink_denied',
  'sink_credentials_missing',
  'sink_unverified',
  'sink_address_refused',
  'sink_place_missing',
] as const)('%s for ten minutes costs no message a try, and is over within half a minute', async (code) => {
  const fate = (_: string, atMs: number) => (atMs < 10 * MINUTE ? code : null);
  const seen = await simulate(numbered('k', 100), fate, { minutes: 12, goodEveryMs: 5_000 });
  expect(seen.letters).toEqual([]);
  expect(seen.lateMs.length).toBe(100 + (12 * MINUTE) / 5_000);
  const back = seen.tries.find(({ atMs }) => atMs >= 10 * MINUTE)!;
  expect(back.atMs).toBeLessThan(10.6 * MINUTE);
  // One at a time, and not each second.
  expect(seen.tries.filter(({ atMs }) => atMs > MINUTE && atMs < 10 * MINUTE).length).toBeLessThan(60);
});

test.each([1, 10])(
  'one that is there for two seconds of every minute loses nothing (requests of %i)',
  async (batch) => {
    const isAway = (atMs: number) => atMs < 50 * MINUTE && atMs % MINUTE < 58_000;
    const fate = (_: string, atMs: number) => (isAway(atMs) ? ('sink_unavailable' as const) : null);
    const seen = await simulate(numbered('k', 300), fate, { minutes: 60, goodEveryMs: 5_000, batch });
    expect(seen.letters).toEqual([]);
    expect(seen.lateMs.length).toBe(300 + (60 * MINUTE) / 5_000);
  },
);

test('what a worker gave back waits as long as it said, be it six hours', async () => {
  const later = [{ error: new MillraceError('pull_nacked'), returned: true, retryAfterMs: 6 * 60 * MINUTE }];
  let asked = 0;
  const seen = await simulate(['a'], () => (asked++ === 0 ? later : null), { minutes: 370 });
  expect(seen.tries.map(({ atMs }) => Math.round(atMs / MINUTE))).toEqual([0, 360]);
});

test('a message whose try is taken back is not sent before the destination asked for it', async () => {
  const asks = [{ error: new MillraceError('sink_unavailable'), retryAfterMs: 10 * MINUTE }];
  const fate = (key: string) => (key === 'a' ? asks : ('sink_unavailable' as const));
  const { tries } = await simulate(['a', 'b', 'c'], fate, { minutes: 9 });
  expect(tries.filter(({ key }) => key === 'a').length).toBe(1);
});

test.each([
  ['a worker', { error: new MillraceError('pull_nacked'), returned: true, retryAfterMs: 30 * MINUTE }],
  ['the destination', { error: new MillraceError('sink_unavailable'), retryAfterMs: 30 * MINUTE }],
] as const)('what %s asked for is kept over a pause and a restart', async (_, answer) => {
  const world = new TestWorld(
    ['a', 'b'].map((key, i) => ({ position: { lsn: BigInt(100 + i), ordinal: 0 }, key, version: 0 })),
  );
  const startedAt = performance.now();
  const triedAt: number[] = [];
  world.behaviour = (messages, arrive) => {
    for (const message of messages) if (message.keys[0] === 'b') arrive(message);
    if (messages.some(({ keys: [key] }) => key === 'a')) triedAt.push((performance.now() - startedAt) / MINUTE);
    return messages.map(({ keys: [key] }) => (key === 'a' ? answer : null));
  };
  const pass = async (minutes: number) => {
    for (let i = 0; i < minutes; i++) {
      await turns(20);
      await vi.advanceTimersByTimeAsync(MINUTE);
    }
    await turns(20);
  };
  await world.start();
  await pass(1);
  await world.delivery.control!.pause();
  await world.delivery.control!.resume();
  await pass(1);
  const stopping = world.delivery.stop();
  await vi.advanceTimersByTimeAsync(10_000);
  await stopping;
  await world.start();
  await pass(27);
  expect(triedAt).toEqual([0]);
  await pass(3);
  expect(triedAt.map(Math.round)).toEqual([0, 30]);
  world.kill();
});

test('a try is taken back as well from a message that is under way once more when the destination is found to be away', async () => {
  const world = new TestWorld(
    numbered('k', 3).map((key, i) => ({ position: { lsn: BigInt(100 + i), ordinal: 0 }, key, version: 0 })),
  );
  world.limits = { ...LIMITS, messagesMax: 1, concurrency: 3 };
  world.policy = { ...POLICY, batchSize: 1, maxRetryCount: 1, retry: { minMs: 1_000, maxMs: 1_000 } };
  const answers: { key: string; fail: () => void }[] = [];
  world.behaviour = ([message]) =>
    new Promise((_, reject) => {
      answers.push({ key: message!.keys[0]!, fail: () => reject(new MillraceError('sink_unavailable')) });
    });
  await world.start();
  await turns(50);
  answers.find(({ key }) => key === 'k0')!.fail();
  await turns(20);
  await vi.advanceTimersByTimeAsync(2_000);
  // It is under way for the second time, and the last one that it has.
  expect(answers.map(({ key }) => key).sort()).toEqual(['k0', 'k0', 'k1', 'k2']);
  for (const { key, fail } of answers) if (key !== 'k0') fail();
  await turns(20);
  answers.findLast(({ key }) => key === 'k0')!.fail();
  await turns(20);
  expect(world.letters).toEqual([]);
  const tries = world.delivery.control!.push!.list({ limit: 10 }).map((message) => message.tries);
  expect(tries).toEqual([0, 0, 0]);
  world.kill();
});
