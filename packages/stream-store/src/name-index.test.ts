import fc from 'fast-check';
import { expect, test } from 'vitest';
import { compareNames, NameIndex } from './name-index.ts';

const name = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 4 }),
  fc.constantFrom('a', 'ab', 'b', '\uE000', '\u{10000}'),
);

test('names compare as their UTF-8 bytes', () => {
  fc.assert(
    fc.property(name, name, (a, b) => {
      expect(Math.sign(compareNames(a, b))).toBe(Math.sign(Buffer.compare(Buffer.from(a), Buffer.from(b))));
    }),
  );
});

test('pages hold what a sorted set would, in byte order, with an exact hasMore', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.boolean(), name), { maxLength: 60 }),
      name,
      fc.option(name, { nil: undefined }),
      fc.integer({ min: 1, max: 5 }),
      (steps, prefix, startAfter, limit) => {
        const index = new NameIndex<string>();
        const model = new Set<string>();
        for (const [add, key] of steps) {
          if (add) index.set(key, key);
          else index.delete(key);
          if (add) model.add(key);
          else model.delete(key);
        }
        const matching = [...model]
          .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
          .filter((key) => key.startsWith(prefix) && (startAfter === undefined || compareNames(key, startAfter) > 0));
        expect(index.size).toBe(model.size);
        expect(index.page({ prefix, startAfter, limit }, (value) => value)).toEqual({
          items: matching.slice(0, limit),
          hasMore: matching.length > limit,
        });
      },
    ),
    { numRuns: 500 },
  );
});

test('thousands of names, inserted in any order and partly removed, list in order', () => {
  const index = new NameIndex<number>();
  const names = Array.from({ length: 5000 }, (_, i) => `n${String((i * 2741) % 5000).padStart(4, '0')}`);
  for (const [i, key] of names.entries()) index.set(key, i);
  for (const key of names) if (Number(key.slice(1)) % 3 === 0) index.delete(key);
  const listed = [...index.after('', undefined)].map(([key]) => key);
  expect(listed).toEqual(names.filter((key) => Number(key.slice(1)) % 3 !== 0).sort());
  expect([...index.after('', 'n2500')].length).toBe(listed.filter((key) => key > 'n2500').length);
});
