import fc from 'fast-check';
import { expect, test } from 'vitest';
import { RETRIES_PER_SECOND, RetryBudget } from './retry-budget.ts';

test('never more than its rate, what was saved and what arrived; and as many, for one who comes when told to', () => {
  const step = fc.record({ ms: fc.integer({ min: 0, max: 300 }), takes: fc.nat(80), earns: fc.nat(20) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.nat(1_000_000), (steps, startMs) => {
      const budget = new RetryBudget();
      let nowMs = startMs;
      let taken = 0;
      let earned = 0;
      for (const { ms, takes, earns } of steps) {
        nowMs += ms;
        for (let i = 0; i < takes; i++) if (budget.take(nowMs)) taken++;
        for (let i = 0; i < earns; i++) budget.earn();
        earned += earns;
        expect(taken).toBeLessThanOrEqual(50 + ((nowMs - startMs) * RETRIES_PER_SECOND) / 1000 + earned);
        const next = budget.nextMs(nowMs);
        expect(next).toBeLessThanOrEqual(nowMs + 20);
        if (next === nowMs) continue;
        nowMs = next;
        for (let i = 0; i < 9; i++) expect(budget.take(nowMs)).toBe(true);
        taken += 9;
      }
    }),
    { numRuns: 200 },
  );
});
