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
    fc.property(histories, fc.bigInt({ min: 0n, max: 1n << 47n }), (steps, reached) => {
      const { history, samples } = made(steps);
      const lag = history.lag(reached, samples[0]!);
      expect(lag.bytes).toBeGreaterThanOrEqual(0n);
      expect(lag.seconds ?? 0).toBeGreaterThanOrEqual(0);
      expect(lag.transactions ?? 0).toBeGreaterThanOrEqual(0);
      if (reached >= samples.at(-1)!.lsn) expect(lag).toEqual(NO_LAG);
    }),
  );
});

test('who has delivered a sample is as far behind as the newest is after it', () => {
  fc.assert(
    fc.property(histories, fc.nat(), (steps, pick) => {
      const { history, samples } = made(steps);
      const [at, end] = [samples[pick % samples.length]!, samples.at(-1)!];
      const lag = history.lag(at.lsn, null);
      expect(lag.bytes).toBe(end.lsn - at.lsn);
      expect(lag.transactions).toBe(end.transactions - at.transactions);
      expect(lag.seconds).toBe(at === end ? 0 : Math.max(0, end.timeMs - at.timeMs) / 1000);
    }),
  );
});

test('from before the first sample, transactions are not known, and seconds are by what stands in', () => {
  const { history } = made([
    { step: 100n, timeMs: 5_000 },
    { step: 100n, timeMs: 9_000 },
  ]);
  expect(history.lag(50n, null)).toEqual({ bytes: 150n, transactions: null, seconds: null });
  expect(history.lag(50n, { timeMs: 1_000 })).toEqual({ bytes: 150n, transactions: null, seconds: 8 });
});

test('after nothing at all, the first commit counts from itself', () => {
  const history = new CommitHistory();
  history.add({ lsn: 0n, timeMs: null, transactions: 0 });
  expect(history.lag(0n, null)).toEqual(NO_LAG);
  history.add({ lsn: 10n, timeMs: 3_000, transactions: 1 });
  history.add({ lsn: 20n, timeMs: 5_000, transactions: 4 });
  expect(history.lag(0n, null)).toEqual({ bytes: 20n, transactions: 4, seconds: 2 });
});

test('it stays within its bound, and what is recent stays exact', () => {
  const { history, samples } = made(Array.from({ length: 20_000 }, (_, i) => ({ step: 8n, timeMs: i })));
  const end = samples.at(-1)!;
  for (const sample of samples.slice(-COMMIT_SAMPLES_MAX / 2)) expect(history.at(sample.lsn)).toBe(sample);
  // Long ago it is coarse, and never too new.
  const old = samples[100]!;
  expect(history.at(old.lsn)?.timeMs ?? 0).toBeLessThanOrEqual(old.timeMs);
  expect(history.lag(samples[10_000]!.lsn, samples[0]!).seconds).toBeGreaterThanOrEqual((end.timeMs - 10_000) / 1000);
  expect(history.sampleCount).toBeLessThanOrEqual(COMMIT_SAMPLES_MAX);
});
