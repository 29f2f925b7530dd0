import { expect, test } from 'vitest';
import { EXHAUSTION_HORIZON_MS, LEFT_BYTES_MIN, WalBudget } from './wal-budget.ts';

const GIB = 2 ** 30;
const sample = (atMs: number, bytes: number | null, of: number | null = null) => ({
  atMs,
  left: { 'the WAL': bytes === null ? null : { bytes, of } },
});

test('what grows, stays, or has no bound is no reason to wait', () => {
  const budget = new WalBudget();
  expect(budget.add(sample(0, null))).toBe(null);
  for (let i = 0; i < 50; i++) expect(budget.add(sample(i * 1000, 10 * GIB + i))).toBe(null);
});

test('it says so before something runs out, with what and when', () => {
  const budget = new WalBudget();
  expect(budget.add(sample(0, 100 * GIB))).toBe(null);
  // A tenth of a GiB per second: 99 GiB last for a quarter of an hour, 20 GiB for 200 s.
  expect(budget.add(sample(10_000, 99 * GIB))).toBe(null);
  expect(budget.add(sample(800_000, 20 * GIB))).toBe('the WAL: 20480 MiB are left, for 200 s at this rate');
});

test('it goes on when there is twice the time, not at once', () => {
  const budget = new WalBudget();
  const rate = (10 * GIB) / EXHAUSTION_HORIZON_MS;
  budget.add(sample(0, 11 * GIB));
  expect(budget.add(sample(GIB / rate, 10 * GIB))).not.toBe(null);
  expect(budget.add(sample((1.5 * GIB) / rate, 10 * GIB))).not.toBe(null);
  expect(budget.add(sample((2 * GIB) / rate, 11 * GIB))).toBe(null);
});

test('of a small bound a tenth is kept, so that a healthy one is no reason to wait', () => {
  const budget = new WalBudget();
  expect(budget.add(sample(0, 40 << 20, 64 << 20))).toBe(null);
  expect(budget.add(sample(1, 6 << 20, 64 << 20))).not.toBe(null);
});

test('the last bytes are kept however slowly they go', () => {
  const budget = new WalBudget();
  expect(budget.add(sample(0, LEFT_BYTES_MIN))).toBe('the WAL: 64 MiB are left');
  expect(budget.add(sample(1000, LEFT_BYTES_MIN * 1.5))).not.toBe(null);
  expect(budget.add(sample(2000, LEFT_BYTES_MIN * 3))).toBe(null);
});
