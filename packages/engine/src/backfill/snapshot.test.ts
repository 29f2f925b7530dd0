import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseSnapshot, sees, visibility, widen } from './snapshot.ts';

test('a snapshot sees what has ended before it, and not what was in progress or came later', () => {
  const snapshot = parseSnapshot('100:110:100,105', 0n);
  const seen = (xid: number) => sees(snapshot, xid);
  expect([99, 100, 101, 104, 105, 106, 109, 110, 111].map(seen)).toEqual([
    true,
    false,
    true,
    true,
    false,
    true,
    true,
    false,
    false,
  ]);
});

test('ids of 32 bits are told apart around the wrap of their counter', () => {
  const wrap = 1n << 32n;
  const snapshot = parseSnapshot(`${wrap - 2n}:${wrap + 3n}:${wrap - 2n},${wrap + 1n}`, 0n);
  const seen = (xid: number) => sees(snapshot, xid);
  expect([2 ** 32 - 3, 2 ** 32 - 2, 2 ** 32 - 1, 0, 1, 2, 3, 4].map(seen)).toEqual([
    true,
    false,
    true,
    true,
    false,
    true,
    false,
    false,
  ]);
});

test('widening finds the id again that the lower half came from, anywhere near', () => {
  fc.assert(
    fc.property(
      fc.bigInt({ min: 1n << 32n, max: 1n << 60n }),
      fc.bigInt({ min: -(1n << 31n) + 1n, max: (1n << 31n) - 1n }),
      (near, offset) => widen(Number((near + offset) & 0xffff_ffffn), near) === near + offset,
    ),
  );
});

test('on a standby, whose snapshots list nothing in progress, the commit position decides', () => {
  // Replayed up to 1000 before the snapshot was taken, up to 2000 after.
  const snapshot = parseSnapshot('100:110:', 2000n, 1000n);
  expect(visibility(snapshot, 105, 900n)).toBe('seen');
  expect(visibility(snapshot, 105, 1500n)).toBe('unknown');
  expect(visibility(snapshot, 105, 5000n)).toBe('unseen');
  expect(visibility(snapshot, 99, 5000n)).toBe('seen');
  expect(visibility(snapshot, 110, 900n)).toBe('unseen');
});
