import { expect, test } from 'vitest';
import { metricsSpan } from './metrics-options.ts';
import { bar, formatBytes, renderMetrics } from './metrics-view.ts';

const at = (minute: number): Date => new Date(Date.UTC(2026, 0, 1, 12, minute));

test('every kind of metric has lines of its own', () => {
  const text = renderMetrics(
    [
      { scalar: { name: 'total', unit: 'operations', value: 42 } },
      { label: { name: 'active_basins', values: ['shop-streams', 'other-basin'] } },
      {
        gauge: {
          name: 'metered_size',
          unit: 'bytes',
          values: [
            [at(0), 512],
            [at(1), 1536],
          ],
        },
      },
      { accumulation: { name: 'appends', unit: 'operations', interval: 'minute', values: [] } },
    ],
    false,
  );
  expect(text).toBe(`total: 42

active_basins: 2
  shop-streams
  other-basin

metered_size (bytes)
  2026-01-01T12:00:00Z     512 B
  2026-01-01T12:01:00Z  1.50 KiB

appends (operations per minute)
  no values
`);
  expect(renderMetrics([], false)).toBe('no values\n');
});

test('in a terminal, a bar beside each value is as long as the value is large', () => {
  const values: [Date, number][] = [
    [at(0), 100],
    [at(1), 50],
    [at(2), 0],
  ];
  const text = renderMetrics([{ accumulation: { name: 'x', unit: 'operations', interval: 'hour', values } }], true);
  const bars = text.split('\n').map((line) => (line.match(/█/g) ?? []).length);
  expect(bars.slice(1, 4)).toEqual([32, 16, 0]);
  expect(bar(1, 1_000_000)).toBe('▏');
  expect(bar(5, 0)).toBe('');
});

test('bytes are shown in the unit that fits', () => {
  expect([0, 1023, 1024, 15 * 1024, 1.5 * 2 ** 30].map(formatBytes)).toEqual([
    '0 B',
    '1023 B',
    '1.00 KiB',
    '15.0 KiB',
    '1.50 GiB',
  ]);
});

test('the span is the last hour unless told otherwise', () => {
  const now = 1_700_000_000_000;
  expect(metricsSpan({}, now)).toEqual({ start: new Date(now - 3_600_000), end: new Date(now) });
  expect(metricsSpan({ startTimestamp: 5, endAgo: 1000, interval: 'day' }, now)).toEqual({
    start: new Date(5000),
    end: new Date(now - 1000),
    interval: 'day',
  });
});
