import { expect, test } from 'vitest';
import { formatSeconds, percent, progressBar } from './progress-bar.ts';

test('a bar is as long as asked for, whatever the numbers', () => {
  for (const [done, total] of [
    [0, 10],
    [3, 10],
    [10, 10],
    [20, 10],
    [0, 0],
    [5, null],
  ] as const) {
    expect([...progressBar(done, total, 10)]).toHaveLength(10);
  }
  expect(progressBar(5, 10, 4)).toBe('██░░');
  expect(progressBar(10, 10, 4)).toBe('████');
  expect(progressBar(1, 64, 8)).toBe('▏░░░░░░░');
});

test('nothing is all done before it is over', () => {
  expect(percent(10, 10)).toBe(' 99%');
  expect(percent(11, 10)).toBe(' 99%');
  expect(percent(1, 3)).toBe(' 33%');
  expect(percent(1, null)).toBe('  ?%');
});

test('a time is said in its two largest units', () => {
  expect([5, 200, 7500, 273_600].map(formatSeconds)).toEqual(['5 s', '3 min 20 s', '2 h 5 min', '3 d 4 h']);
});
