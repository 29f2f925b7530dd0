import { expect, test } from 'vitest';
import { copiedBytes, ownBytes } from './own-bytes.ts';

test('a copy holds no memory but its own', () => {
  const whole = Buffer.alloc(1000, 'x');
  const copy = copiedBytes(whole.subarray(10, 20));
  expect(copy.equals(whole.subarray(10, 20))).toBe(true);
  expect(copy.buffer.byteLength).toBe(10);
});

test('bytes that are a small part of what they hold are copied, others are not', () => {
  const whole = Buffer.alloc(1000, 'x');
  expect(ownBytes(whole.subarray(0, 499)).buffer.byteLength).toBe(499);
  const most = whole.subarray(0, 500);
  expect(ownBytes(most)).toBe(most);
  expect(ownBytes(Buffer.from('of the pool')).buffer.byteLength).toBe(11);
  expect(ownBytes(Buffer.alloc(0))).toHaveLength(0);
});
