import fc from 'fast-check';
import { expect, test } from 'vitest';
import { editDistance, nearest } from './nearest.ts';

test('a slip of one letter finds the word, another word does not', () => {
  const keys = ['hostname', 'port', 'database', 'ssl'];
  expect(nearest('databse', keys)).toBe('database');
  expect(nearest('prot', keys)).toBe('port');
  expect(nearest('SSL', keys)).toBe('ssl');
  expect(nearest('sl', keys)).toBe('ssl');
  expect(nearest('colour', keys)).toBeNull();
  expect(nearest('', keys)).toBeNull();
});

test('distance counts insertions, deletions, replacements and swaps of neighbours', () => {
  expect(editDistance('', 'abc')).toBe(3);
  expect(editDistance('abc', 'abc')).toBe(0);
  expect(editDistance('abc', 'acb')).toBe(1);
  expect(editDistance('kitten', 'sitting')).toBe(3);
});

test('distance is symmetric and never above the longer length', () => {
  const word = fc.string({ maxLength: 12 });
  fc.assert(
    fc.property(word, word, (a, b) => {
      const distance = editDistance(a, b);
      expect(distance).toBe(editDistance(b, a));
      expect(distance).toBeLessThanOrEqual(Math.max(a.length, b.length));
      expect(distance === 0).toBe(a === b);
    }),
  );
});
