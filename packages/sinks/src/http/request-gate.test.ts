import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { RequestGate } from './request-gate.ts';

const NEVER = new AbortController().signal;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** When each of these requests started, in milliseconds. */
async function starts(gate: RequestGate, count: number, withinMs: number, eachTakesMs = 0): Promise<number[]> {
  const begin = performance.now();
  const seen: number[] = [];
  for (let index = 0; index < count; index++) {
    void gate.enter(NEVER).then(() => {
      seen.push(Math.round(performance.now() - begin));
      setTimeout(() => gate.leave(), eachTakesMs);
    });
  }
  await vi.advanceTimersByTimeAsync(withinMs);
  return seen;
}

test('without limits everything starts at once', async () => {
  expect(await starts(new RequestGate(), 100, 0)).toHaveLength(100);
});

test('a rate holds over time, with a burst of a tenth of a second at most', async () => {
  const seen = await starts(new RequestGate({ requestsPerSecond: 100 }), 1000, 3_000);
  expect(seen.filter((at) => at === 0).length).toBeLessThanOrEqual(11);
  expect(seen.length).toBeGreaterThanOrEqual(300);
  expect(seen.length).toBeLessThanOrEqual(312);
  for (let from = 0; from < 2_000; from += 100) {
    expect(seen.filter((at) => at >= from && at < from + 1000).length).toBeLessThanOrEqual(112);
  }
});

test('a slow rate is as slow as it says', async () => {
  expect(await starts(new RequestGate({ requestsPerSecond: 2 }), 10, 2_100)).toEqual([0, 400, 900, 1400, 1900]);
});

test('no more are under way than may be, and who came first is first', async () => {
  const gate = new RequestGate({ concurrency: 3 });
  expect(await starts(gate, 7, 250, 100)).toEqual([0, 0, 0, 100, 100, 100, 200]);
});

test('a rest that the endpoint asked for holds everybody back', async () => {
  const gate = new RequestGate({});
  gate.holdFor(500);
  expect(await starts(gate, 2, 499)).toEqual([]);
  await vi.advanceTimersByTimeAsync(2);
  await expect(gate.enter(NEVER)).resolves.toBeUndefined();
});

test('who gives up does not take the place of another', async () => {
  const gate = new RequestGate({ concurrency: 1 });
  await gate.enter(NEVER);
  const impatient = new AbortController();
  const first = gate.enter(impatient.signal).then(() => gate.leave());
  let second = false;
  void gate.enter(NEVER).then(() => {
    second = true;
  });
  impatient.abort();
  await first;
  await vi.advanceTimersByTimeAsync(1_000);
  expect(second).toBe(false);
  gate.leave();
  await vi.advanceTimersByTimeAsync(0);
  expect(second).toBe(true);
});
