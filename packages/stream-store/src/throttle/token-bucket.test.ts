import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TokenBucket } from './token-bucket.ts';

const RATE = 100;
const BURST = 50;

describe('a token bucket', () => {
  it('admits a burst at once and the rate afterwards', () => {
    const bucket = new TokenBucket(RATE, BURST, 0);
    for (let i = 0; i < BURST; i++) expect(bucket.take(1, 0)).toBe(0);
    expect(bucket.take(1, 0)).toBe(10);
    expect(bucket.take(1, 9)).toBe(1);
    expect(bucket.take(1, 10)).toBe(0);
    expect(bucket.take(1, 10)).toBe(10);
  });

  it('makes those who wait queue up in the order of calls', () => {
    const bucket = new TokenBucket(RATE, BURST, 0);
    expect([bucket.reserve(50, 0), bucket.reserve(10, 0), bucket.reserve(10, 0)]).toEqual([0, 100, 200]);
    expect(bucket.debtMs(150)).toBe(50);
  });

  it('takes something larger than the burst once it is full, and then waits that out', () => {
    const bucket = new TokenBucket(RATE, BURST, 0);
    expect(bucket.take(BURST * 2, 0)).toBe(0);
    expect(bucket.debtMs(0)).toBe(500);
  });

  it('takes a clock that goes back for one that stands still', () => {
    const bucket = new TokenBucket(RATE, BURST, 1_000);
    bucket.reserve(BURST, 1_000);
    expect(bucket.take(1, 0)).toBe(10);
    expect(bucket.isIdle(0)).toBe(false);
  });

  it('is idle once everything is earned back, and gives back what a ticket held that nobody came for', () => {
    const bucket = new TokenBucket(RATE, BURST, 0);
    bucket.take(BURST, 0);
    expect(bucket.take(BURST, 0)).toBe(500);
    expect(bucket.isIdle(5_000)).toBe(false);
    expect(bucket.isIdle(6_000)).toBe(true);
  });

  /** Steps of many clients: who is refused comes back when told to, or not; who waits goes on when told to. */
  const step = fc.record({
    kind: fc.constantFrom('take', 'reserve'),
    cost: fc.integer({ min: 1, max: BURST }),
    afterMs: fc.integer({ min: 0, max: 400 }),
    obeys: fc.boolean(),
  });

  const kinds = fc.constantFrom('take', 'reserve', 'both');
  it('never admits more than its burst and its rate, whoever asks how', () => {
    fc.assert(
      fc.property(kinds, fc.array(step, { minLength: 1, maxLength: 120 }), (kinds, steps) => {
        const bucket = new TokenBucket(RATE, BURST, 0);
        const admitted: { readonly atMs: number; readonly cost: number }[] = [];
        let now = 0;
        for (const { kind: drawn, cost, afterMs, obeys } of steps) {
          const kind = kinds === 'both' ? drawn : kinds;
          now += afterMs;
          if (kind === 'reserve') {
            admitted.push({ atMs: now + bucket.reserve(cost, now), cost });
            continue;
          }
          const waitMs = bucket.take(cost, now);
          if (waitMs === 0) admitted.push({ atMs: now, cost });
          else if (obeys) {
            now += waitMs;
            if (bucket.take(cost, now) === 0) admitted.push({ atMs: now, cost });
          }
        }
        admitted.sort((a, b) => a.atMs - b.atMs);
        for (let first = 0; first < admitted.length; first++) {
          let sum = 0;
          for (let last = first; last < admitted.length; last++) {
            sum += admitted[last]!.cost;
            const span = admitted[last]!.atMs - admitted[first]!.atMs;
            const held = kinds === 'both' && first > 0 ? BURST : 0;
            // Waits are rounded up to whole milliseconds, so two ends may be one apart.
            expect(sum).toBeLessThanOrEqual(BURST + held + (RATE * (span + 1)) / 1000 + 1e-6);
          }
        }
      }),
      { numRuns: 300, seed: 7 },
    );
  });

  it('starves nobody: who comes back when told to gets in, however much others reserve or take', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: BURST }),
        fc.array(fc.integer({ min: 1, max: BURST }), { minLength: 1, maxLength: 10 }),
        fc.boolean(),
        (cost, greedy, greedyTakes) => {
          const bucket = new TokenBucket(RATE, BURST, 0);
          let now = 0;
          let greedyAt = 0;
          // The patient client keeps to what it is told; the greedy ones never pause longer than they have to.
          const letGreedyGo = (untilMs: number) => {
            for (let i = 0; greedyAt <= untilMs; i++) {
              const wanted = greedy[i % greedy.length]!;
              greedyAt += Math.max(
                1,
                greedyTakes ? Math.min(bucket.take(wanted, greedyAt), 3) : bucket.reserve(wanted, greedyAt),
              );
            }
          };
          letGreedyGo(0);
          for (let attempt = 0; attempt < 200; attempt++) {
            const waitMs = bucket.take(cost, now);
            if (waitMs === 0) return;
            letGreedyGo(now + waitMs - 1);
            now += waitMs;
          }
          throw new Error('starved');
        },
      ),
      { numRuns: 300, seed: 11 },
    );
  });
});
