import { expect, test } from 'vitest';
import { PartialChanges } from './partial-changes.ts';

test('keys are taken by relation, put back unless they were read, and known until then', () => {
  const partial = new PartialChanges();
  partial.add('1|a', 1, ['a']);
  partial.add('2|a', 2, ['a']);
  partial.add('1|b', 1, ['b']);
  partial.add('1|a', 1, ['a']);
  expect(partial.take(10)).toEqual({ oid: 1, keys: [['a'], ['b']] });
  expect([partial.has('1|a'), partial.has('2|a'), partial.has('3|a')]).toEqual([true, true, false]);
  // What was to be read could not be.
  expect(partial.take(1)).toEqual({ oid: 2, keys: [['a']] });
  partial.read();
  expect(partial.has('2|a')).toBe(false);
  expect(partial.take(10)).toEqual({ oid: 1, keys: [['a'], ['b']] });
  partial.read();
  expect(partial.take(10)).toBeNull();
  partial.add('1|c', 1, ['c']);
  partial.handedOver('1|c');
  expect([partial.empty, partial.take(10)]).toEqual([true, null]);
});

test('one key too many, or one that is not known, and it says that it is incomplete', () => {
  const partial = new PartialChanges(2);
  for (const key of ['a', 'b', 'a']) partial.add(key, 1, [key]);
  expect(partial.incomplete).toBe(false);
  partial.add('c', 1, ['c']);
  expect([partial.incomplete, partial.take(10)]).toEqual([true, null]);
  partial.clear();
  expect(partial.incomplete).toBe(false);
  partial.lose();
  expect(partial.incomplete).toBe(true);
});
