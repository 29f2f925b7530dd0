import fc from 'fast-check';
import { expect, test } from 'vitest';
import { COMMIT_SAMPLES_MAX, CommitHistory, NO_LAG } from './commit-history.ts';

/** LSNs that rise, with commit times that need not: a server's clock may be set back. */
const histories = fc.array(
  fc.record({ step: fc.bigInt({ min: 1n, max: 1n << 40n }), timeMs: fc.integer({ min: -1e12, max: 1e13 }) }),
  { minLength: 1, maxLength: 60 },
);

function made(steps: readonly { step: bigint; timeMs: number }[]) {
  const history = new CommitHistory();
  let lsn = 0n;
  const samples = steps.map(({ step, timeMs }, index) => {
    lsn += step;
    const sample = { lsn, timeMs, transactions: index * 3 };
    history.add(sample);
    return sample;
  });
  return { history, samples };
}

test('a lag is never negative, whatever the clock did, and nothing when all is delivered', () => {
  fc.assert(
    fc.property(histories, fc.bigInt({ min: 0n, max: 1n << 47n }), fc.integer(), (steps, reached, nowMs) => {
      const { history, samples } = made(steps);
      const lag = history.lag(reached, nowMs, { lsn: reached, timeMs: samples[0]!.timeMs });
      expect(lag.bytes).toBeGreaterThanOrEqual(0n);
      expect(lag.seconds ?? 0).toBeGreaterThanOrEqual(0);
      expect(lag.transactions ?? 0).toBeGreaterThanOrEqual(0);
      if (reached >= samples.at(-1)!.lsn) expect(lag).toEqual(NO_LAG);
    }),
  );
});

test('who has delivered a sample is as old as the one that is next', () => {
  fc.assert(
    fc.property(histories, fc.nat(), fc.nat(), (steps, pick, afterMs) => {
      const { history, samples } = made(steps);
      const index = pick % samples.length;
      const [at, next, end] = [samples[index]!, samples[index + 1], samples.at(-1)!];
      const nowMs = end.timeMs + afterMs;
      const lag = history.lag(at.lsn, nowMs, null);
      expect(lag.bytes).toBe(end.lsn - at.lsn);
      expect(lag.transactions).toBe(end.transactions - at.transactions);
      expect(lag.seconds).toBe(next === undefined ? 0 : Math.max(0, nowMs - next.timeMs) / 1000);
    }),
  );
});

test('a time without changes is no lag, and an outage is longer each time it is asked about', () => {
  const { history } = made([
    { step: 100n, timeMs: 0 },
    { step: 100n, timeMs: 765_000 },
  ]);
  expect(history.lag(100n, 771_000, null).seconds).toBe(6);
  expect(history.lag(100n, 921_000, null).seconds).toBe(156);
  expect(history.lag(200n, 921_000, null)).toEqual(NO_LAG);
});

test('what the log itself says is better than the samples', () => {
  const { history } = made([
    { step: 100n, timeMs: 1_000 },
    { step: 100n, timeMs: 9_000 },
  ]);
  expect(history.lag(100n, 10_000, { lsn: 100n, timeMs: 8_500 }).seconds).toBe(1.5);
  // Of where it was before: only where there is nothing else.
  expect(history.lag(100n, 10_000, { lsn: 90n, timeMs: 2_000 }).seconds).toBe(1);
});

test('from before the first sample, transactions are not known, and seconds are by what the log says', () => {
  const { history } = made([
    { step: 100n, timeMs: 5_000 },
    { step: 100n, timeMs: 9_000 },
  ]);
  expect(history.lag(50n, 9_500, null)).toEqual({ bytes: 150n, transactions: null, seconds: null });
  const first = { lsn: 40n, timeMs: 1_500 };
  expect(history.lag(50n, 9_500, first)).toEqual({ bytes: 150n, transactions: null, seconds: 8 });
});

test('while the clock of the source is not known, seconds are not', () => {
  const { history } = made([
    { step: 100n, timeMs: 5_000 },
    { step: 100n, timeMs: 9_000 },
  ]);
  expect(history.lag(100n, null, null)).toEqual({ bytes: 100n, transactions: 3, seconds: null });
});

test('after nothing at all, the first commit counts from itself', () => {
  const history = new CommitHistory();
  history.add({ lsn: 0n, timeMs: null, transactions: 0 });
  expect(history.lag(0n, 2_000, null)).toEqual(NO_LAG);
  history.add({ lsn: 10n, timeMs: 3_000, transactions: 1 });
  history.add({ lsn: 20n, timeMs: 5_000, transactions: 4 });
  expect(history.lag(0n, 5_500, null)).toEqual({ bytes: 20n, transactions: 4, seconds: 2.5 });
});

test('it stays within its bound, and what is recent stays exact', () => {
  const { history, samples } = made(Array.from({ length: 20_000 }, (_, i) => ({ step: 8n, timeMs: i })));
  const end = samples.at(-1)!;
  for (const sample of samples.slice(-COMMIT_SAMPLES_MAX / 2)) expect(history.at(sample.lsn)).toBe(sample);
  // Long ago it is coarse, and never too new.
  const old = samples[100]!;
  expect(history.at(old.lsn)?.timeMs ?? 0).toBeLessThanOrEqual(old.timeMs);
  const middle = samples[10_000]!.lsn;
  expect(history.lag(middle, end.timeMs, { lsn: middle - 8n, timeMs: 9_999 }).seconds).toBe(
    (end.timeMs - 9_999) / 1000,
  );
  expect(history.sampleCount).toBeLessThanOrEqual(COMMIT_SAMPLES_MAX);
});
