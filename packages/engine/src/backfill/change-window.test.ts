import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ChangeWindow } from './change-window.ts';
import { parseSnapshot, type Snapshot } from './snapshot.ts';

/** Whether a row with this key is stale, in a chunk read in this snapshot. */
function isStale(window: ChangeWindow, snapshot: Snapshot, key: string): boolean | 'perhaps' | 'again' {
  const staleness = window.staleness(snapshot);
  if (staleness === 'none') return false;
  if (staleness === 'all') return true;
  return staleness === 'again' ? 'again' : staleness(key);
}

const KEYS = ['a', 'b', 'c'];
const change = fc.record({ xid: fc.integer({ min: 10, max: 25 }), key: fc.constantFrom(...KEYS) });
const snapshotAt = (xmax: number, inProgress: readonly number[]) => {
  const listed = inProgress.filter((xid) => xid < xmax);
  return parseSnapshot(`${Math.min(xmax, ...listed)}:${xmax}:${listed.join(',')}`, 0n);
};

test('a row is stale if and only if a delivered transaction that the snapshot does not see has changed its key', () => {
  fc.assert(
    fc.property(
      fc.array(change),
      fc.integer({ min: 10, max: 26 }),
      fc.uniqueArray(fc.integer({ min: 10, max: 25 })),
      fc.constantFrom(...KEYS),
      (changes, xmax, inProgress, key) => {
        const window = new ChangeWindow();
        for (const { xid, key: changed } of changes) window.changed(xid, changed);
        const unseen = (xid: number) => xid >= xmax || inProgress.includes(xid);
        const expected = changes.some((one) => one.key === key && unseen(one.xid));
        expect(isStale(window, snapshotAt(xmax, inProgress), key)).toBe(expected);
      },
    ),
  );
});

test('what is forgotten changes no answer for a chunk under way, or a later one', () => {
  const window = new ChangeWindow();
  for (let i = 0; i < 20_000; i++) window.changed(100 + (i % 50), `key ${i}`);
  const early = snapshotAt(120, [105, 110]);
  const late = snapshotAt(140, [110]);
  window.prune([early, late]);
  expect(window.transactions).toBe(32); // 120 to 149, 105 and 110.
  for (const [xid, snapshot, stale] of [
    [105, early, true],
    [105, late, false],
    [110, late, true],
    [104, early, false],
    [130, early, true],
    [130, late, false],
    [145, late, true],
  ] as const) {
    expect(isStale(window, snapshot, `key ${xid - 100}`)).toBe(stale);
  }
});

test('a key that is not known, or one more than a window holds, makes the chunk be read again until it sees the change', () => {
  const window = new ChangeWindow(100);
  window.changed(10, null);
  expect(isStale(window, snapshotAt(10, []), 'a')).toBe('again');
  expect(isStale(window, snapshotAt(11, []), 'a')).toBe(false);
  for (let i = 0; i <= 100; i++) window.changed(20, String(i));
  expect(window.keys).toBe(0);
  expect(isStale(window, snapshotAt(20, []), 'a')).toBe('again');
  expect(isStale(window, snapshotAt(21, []), 'a')).toBe(false);
});

test('a truncate that is not seen makes every row stale, one that is seen none', () => {
  const window = new ChangeWindow();
  window.emptied(10);
  expect(window.staleness(snapshotAt(10, []))).toBe('all');
  expect(window.staleness(snapshotAt(11, []))).toBe('none');
});

test('on a standby a change that the snapshot may or may not see leaves its row undecided, and no other', () => {
  const window = new ChangeWindow();
  window.begun(1500n);
  window.changed(15, 'a');
  const snapshot = parseSnapshot('10:20:', 2000n, 1000n);
  expect([isStale(window, snapshot, 'a'), isStale(window, snapshot, 'b')]).toEqual(['perhaps', false]);
});

test('a row whose unseen change left a large value out is read again instead of left out', () => {
  const window = new ChangeWindow();
  window.changed(20, 'whole');
  window.changed(20, 'partial', true);
  expect(isStale(window, snapshotAt(20, []), 'whole')).toBe(true);
  expect(isStale(window, snapshotAt(20, []), 'partial')).toBe('perhaps');
  // A snapshot that sees the change has the value.
  expect(isStale(window, snapshotAt(21, []), 'partial')).toBe(false);
});
