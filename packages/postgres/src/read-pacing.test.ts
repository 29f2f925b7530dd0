import { expect, test } from 'vitest';
import { AdaptivePacing, READ_INTERVAL_MS } from './read-pacing.ts';

/** Reads of `size` bytes every `everyMs` for `forMs`; the pauses that were asked for. */
function pauses(pacing: AdaptivePacing, size: number, everyMs: number, forMs: number, fromMs = 1000): number[] {
  const all: number[] = [];
  for (let now = fromMs; now < fromMs + forMs; now += everyMs) all.push(pacing.pauseAfter(size, now));
  return all;
}

test('a lone read is never followed by a pause', () => {
  expect(pauses(new AdaptivePacing(), 500_000, 50, 1000).every((pause) => pause === 0)).toBe(true);
});

test('a trickle is read at once', () => {
  expect(pauses(new AdaptivePacing(), 500, 0.2, 200).every((pause) => pause === 0)).toBe(true);
});

test('a backlog is read with pauses from its first milliseconds on', () => {
  const all = pauses(new AdaptivePacing(), 750, 0.02, 200);
  expect(all.slice(0, 10).every((pause) => pause === 0)).toBe(true);
  expect(Math.max(...all)).toBeLessThanOrEqual(READ_INTERVAL_MS);
  expect(all.slice(1000)).not.toContain(0);
});

test('a steady load of small transactions with silence between them is read at once, at the rate of a backlog too', () => {
  const pacing = new AdaptivePacing();
  const all: number[] = [];
  // Ten rows of 1 KB within 0.2 ms, every 2 ms: 5 MB/s.
  for (let now = 1000; now < 1400; now += 2) {
    for (let row = 0; row < 10; row++) all.push(pacing.pauseAfter(1000, now + row * 0.02));
  }
  expect(all.every((pause) => pause === 0)).toBe(true);
});

test('after a lull a backlog is paused for again within a window', () => {
  const pacing = new AdaptivePacing();
  pauses(pacing, 750, 0.02, 100);
  const all = pauses(pacing, 750, 0.02, 20, 1200);
  expect(all[0]).toBe(0);
  expect(all.slice(500)).not.toContain(0);
});

test('a read that found the socket full is followed by the next at once', () => {
  expect(pauses(new AdaptivePacing(), 1 << 20, 1, 200).every((pause) => pause === 0)).toBe(true);
});

test('when the backlog is through, the next lone change is not held up by what was', () => {
  const pacing = new AdaptivePacing();
  pauses(pacing, 750, 0.02, 100);
  expect(pacing.pauseAfter(200, 5000)).toBe(0);
});

test('time spent on other work since the last read is not spent again on a pause', () => {
  const pacing = new AdaptivePacing();
  pauses(pacing, 750, 0.02, 100);
  const now = 2000;
  pacing.pauseAfter(60_000, now);
  expect(pacing.pauseAfter(60_000, now + 2 * READ_INTERVAL_MS)).toBe(0);
});
