import { expect, test } from 'vitest';
import { RETRY_AFTER_MS_MAX, retryAfterMs } from './retry-after.ts';

const NOW = Date.parse('2026-03-01T12:00:00Z');

test.each([
  ['0', 0],
  ['2', 2_000],
  [' 120 ', 120_000],
  ['99999999', RETRY_AFTER_MS_MAX],
  ['Sun, 01 Mar 2026 12:00:30 GMT', 30_000],
  ['Sunday, 01-Mar-26 12:00:30 GMT', 30_000],
  ['Sun Mar  1 12:00:30 2026 GMT', 30_000],
  ['Sun, 01 Mar 2026 11:00:00 GMT', 0],
  ['Mon, 01 Mar 2126 11:00:00 GMT', RETRY_AFTER_MS_MAX],
])('Retry-After: %s', (text, ms) => {
  expect(retryAfterMs(text, NOW)).toBe(ms);
});

test.each([undefined, '', '-1', '1.5', 'soon', 'Sunday', '1e3'])('says nothing: %s', (text) => {
  expect(retryAfterMs(text, NOW)).toBeUndefined();
});
