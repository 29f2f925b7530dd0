import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatDuration, parseDuration } from './duration.ts';

test.each([
  ['5ms', 5],
  ['0s', 0],
  ['90s', 90_000],
  ['1h', 3_600_000],
  ['1h 30m', 5_400_000],
  ['1h30min', 5_400_000],
  ['7d', 604_800_000],
  ['7days', 604_800_000],
  ['2weeks', 1_209_600_000],
  ['1y', 31_557_600_000],
  ['1M', 2_630_016_000],
])('%s is %d ms', (text, ms) => {
  expect(parseDuration(text)).toBe(ms);
});

test.each(['', ' ', '5', 'ms', '-1s', '1.5h', '1 fortnight', '1h,30m', '999999999999y'])(
  '%j is no duration',
  (text) => {
    expect(parseDuration(text)).toBeNull();
  },
);

test('what is printed reads back as the same duration', () => {
  expect(formatDuration(604_800)).toBe('7days');
  expect(formatDuration(90 * 86_400)).toBe('90days');
  expect(formatDuration(90_061)).toBe('1day 1h 1m 1s');
  fc.assert(
    fc.property(fc.nat(2 ** 31), (seconds) => {
      expect(parseDuration(formatDuration(seconds))).toBe(seconds * 1000);
    }),
  );
});
