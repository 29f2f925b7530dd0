import { expect, test } from 'vitest';
import { AdaptivePacing, READ_PAUSE_MS } from './read-pacing.ts';

/** Reads of `size` bytes every `everyMs` for `forMs`; the pauses that were asked for. */
function pauses(pacing: AdaptivePacing, size: number, everyMs: number, forMs: number, fromMs = 1000): number[] {
  const all: number[] = [];
  for (let now = fromMs; now < fromMs + forMs; now += everyMs) all.push(pacing.pauseAfter(size, now));
  return all;
}

test('a lone read is never followed by a pause', () => {
  expect(pauses(new AdaptivePacing(), 500_000, 50, 1000)).not.toContain(READ_PAUSE_MS);
});

test('a trickle is read at once', () => {
  expect(pauses(new AdaptivePacing(), 500, 0.2, 200)).not.toContain(READ_PAUSE_MS);
});

test('a backlog is read with pauses from its first milliseconds on', () => {
  const all = pauses(new AdaptivePacing(), 750, 0.02, 200);
  expect(all.slice(0, 10)).not.toContain(READ_PAUSE_MS);
  expect(all.slice(1000)).not.toContain(0);
});

test('a read that found the socket full is followed by the next at once', () => {
  expect(pauses(new AdaptivePacing(), 1 << 20, 1, 200)).not.toContain(READ_PAUSE_MS);
});

test('when the backlog is through, the next lone change is not held up by what was', () => {
  const pacing = new AdaptivePacing();
  pauses(pacing, 750, 0.02, 100);
  expect(pacing.pauseAfter(200, 5000)).toBe(0);
});
