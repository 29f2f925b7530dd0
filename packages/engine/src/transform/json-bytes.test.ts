import fc from 'fast-check';
import { expect, test } from 'vitest';
import { findValue, messageRanges, splitMessage } from './json-bytes.ts';

const NAMES = ['action', 'record', 'changes', 'metadata'] as const;

test('the parts of a message are found in any order, among others, with white space anywhere', () => {
  const member = fc.tuple(fc.constantFrom(...NAMES, 'other', 'records', 'a"b'), fc.jsonValue());
  fc.assert(
    fc.property(fc.array(member, { maxLength: 8 }), fc.boolean(), (members, spaced) => {
      const gap = spaced ? ' \n' : '';
      const inside = members.map(
        ([name, value]) => `${JSON.stringify(name)}${gap}:${gap}${JSON.stringify(value)}${gap}`,
      );
      const text = `${gap}{${gap}${inside.join(`,${gap}`)}}${gap}`;
      const bytes = Buffer.from(`x${text}x`);
      const ranges = messageRanges();
      splitMessage(bytes, 1, bytes.length - 1, ranges);
      const parsed = JSON.parse(text) as Record<string, unknown>;
      NAMES.forEach((name, i) => {
        const [start, end] = [ranges[2 * i]!, ranges[2 * i + 1]!];
        if (!Object.hasOwn(parsed, name)) expect(start).toBe(-1);
        else expect(JSON.parse(bytes.toString('utf8', start, end))).toEqual(parsed[name]);
      });
    }),
  );
});

test('a value is found by its path, as JSON.parse would find it', () => {
  const value = fc.jsonValue({ maxDepth: 4 });
  fc.assert(
    fc.property(
      fc.record({ record: value, changes: value }),
      fc.array(fc.string(), { maxLength: 3 }),
      (message, keys) => {
        const text = JSON.stringify(message);
        const bytes = Buffer.from(text);
        for (const path of [['record', ...keys], ...pathsOf(message)]) {
          const found = findValue(bytes, 0, bytes.length, path);
          let expected: unknown = JSON.parse(text);
          for (const key of path) {
            const within = typeof expected === 'object' && expected !== null && !Array.isArray(expected);
            expected = within && Object.hasOwn(expected as object, key) ? (expected as never)[key] : undefined;
          }
          if (expected === undefined) expect(found).toBeNull();
          else expect(JSON.parse(bytes.toString('utf8', found!.start, found!.end))).toEqual(expected);
        }
      },
    ),
  );
});

function pathsOf(value: unknown, prefix: readonly string[] = []): string[][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [];
  return Object.entries(value).flatMap(([key, inner]) => [[...prefix, key], ...pathsOf(inner, [...prefix, key])]);
}

test('text that is no JSON is gone through to its end and no further', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom('{', '}', '[', ']', '"', '\\', ':', ',', ' ', '1', 'action') }),
      (text) => {
        const bytes = Buffer.from(`{${text}`);
        const ranges = messageRanges();
        splitMessage(bytes, 0, bytes.length, ranges);
        for (const at of ranges) expect(at).toBeLessThanOrEqual(bytes.length);
        findValue(bytes, 0, bytes.length, ['action', '1']);
      },
    ),
    { examples: [['"action"']] },
  );
});
