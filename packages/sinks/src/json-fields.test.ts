import fc from 'fast-check';
import { expect, test } from 'vitest';
import { jsonFields } from './json-fields.ts';

test('texts come as they are, everything else as the JSON it is', () => {
  expect(jsonFields('{"action":"insert","record":{"a":"}\\"{"},"changes":null,"n":-1.5e3,"list":[1,[2]]}')).toEqual([
    'action',
    'insert',
    'record',
    '{"a":"}\\"{"}',
    'changes',
    'null',
    'n',
    '-1.5e3',
    'list',
    '[1,[2]]',
  ]);
});

test('digits that a double has no room for stay as they are', () => {
  expect(jsonFields('{"id":9007199254740993,"record":{"id":12345678901234567890}}')).toEqual([
    'id',
    '9007199254740993',
    'record',
    '{"id":12345678901234567890}',
  ]);
});

test('whatever object it is, its fields put together are the object again', () => {
  fc.assert(
    fc.property(
      fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue()),
      fc.constantFrom(0, 2),
      (object, indent) => {
        const fields = jsonFields(JSON.stringify(object, null, indent));
        expect(fields).not.toBeNull();
        const wanted = Object.entries(object).flat();
        expect(fields?.length).toBe(wanted.length);
        for (const [at, field] of (fields ?? []).entries()) {
          const value = wanted[at];
          if (typeof value === 'string') expect(field).toBe(value);
          else expect(JSON.parse(field)).toEqual(JSON.parse(JSON.stringify(value)));
        }
      },
    ),
  );
});

test('what is no object is null, never an exception', () => {
  for (const text of [
    '',
    ' ',
    'null',
    '1',
    '"{}"',
    '[]',
    '{',
    '{"a"',
    '{"a":',
    '{"a":1',
    '{"a":1,',
    '{"a":1,}',
    '{a:1}',
  ]) {
    expect([text, jsonFields(text)]).toEqual([text, null]);
  }
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(...'{}[]",:\\1 au') }), (text) => {
      const fields = jsonFields(text);
      expect(fields === null || fields.length % 2 === 0).toBe(true);
    }),
  );
});
