import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LatencyHistogram } from './latency-histogram.ts';

test('a quantile is within 2 % of that of the sorted list, and the extremes are exact', () => {
  const latencies = fc.array(fc.double({ min: 0.02, max: 60_000, noNaN: true }), { minLength: 1, maxLength: 200 });
  fc.assert(
    fc.property(latencies, fc.double({ min: 0.01, max: 1, noNaN: true }), (values, share) => {
      const histogram = new LatencyHistogram();
      for (const value of values) histogram.add(value);
      const sorted = values.toSorted((a, b) => a - b);
      const exact = sorted[Math.ceil(share * values.length) - 1]!;
      expect(Math.abs(histogram.quantile(share) - exact) / exact).toBeLessThan(0.021);
      expect([histogram.minMs, histogram.maxMs, histogram.count]).toEqual([sorted[0], sorted.at(-1), values.length]);
    }),
  );
});
