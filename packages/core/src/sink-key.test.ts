import fc from 'fast-check';
import { expect, test } from 'vitest';
import { sinkKey, sinkOfKey } from './sink-key.ts';

test('a key tells whose it is, whatever is in the name, and no sink has keys of another', () => {
  fc.assert(
    fc.property(fc.string({ minLength: 1 }), fc.string({ minLength: 1 }), (name, what) => {
      fc.pre(name.isWellFormed());
      expect(sinkOfKey(sinkKey(name, what))).toBe(name);
    }),
  );
  expect(sinkOfKey(sinkKey('100%', 'cursor'))).toBe('100%');
  expect(sinkOfKey(sinkKey('a/b', 'routes/x'))).toBe('a/b');
  expect(sinkKey('a/b', 'cursor').startsWith(sinkKey('a', ''))).toBe(false);
  expect(sinkKey('plain name', 'cursor')).toBe('sink/plain name/cursor');
  expect(sinkOfKey('source/a/cursor')).toBeNull();
});
