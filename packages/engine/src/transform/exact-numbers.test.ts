import fc from 'fast-check';
import { expect, test } from 'vitest';
import { hasLongDigits, markLargeIntegers } from './exact-numbers.ts';

const MARK = '~mark:';

/** JSON values with integers of any size, as texts, since JSON.stringify would round them. */
const integer = fc.bigInt({ min: -(10n ** 25n), max: 10n ** 25n });
const jsonText: fc.Arbitrary<string> = fc.letrec<{ value: string }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small' },
    integer.map(String),
    fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => JSON.stringify(value)),
    fc.string({ unit: 'binary' }).map((text) => JSON.stringify(text)),
    integer.map((value) => JSON.stringify(`${value}"\\${value}`)),
    fc.constantFrom('true', 'null', '1e400', '0.12345678901234567890', '1.5e+16', '-0'),
    fc.array(tie('value'), { maxLength: 4 }).map((values) => `[ ${values.join(' ,')}]`),
    fc
      .array(fc.tuple(fc.string(), tie('value')), { maxLength: 4 })
      .map((members) => `{${members.map(([name, value]) => `${JSON.stringify(name)}: ${value}`).join(',')}}`),
  ),
})).value;

test('exactly the integers that a number cannot hold are marked, and nothing else changes', () => {
  fc.assert(
    fc.property(jsonText, (text) => {
      const bytes = Buffer.from(` ${text} `);
      const marked = markLargeIntegers(bytes, 1, bytes.length - 1, MARK)?.toString() ?? text;
      // By the parser of the language, which shows the digits that it read.
      const expected = JSON.parse(text, ((_: string, value: unknown, { source = '' }: { source?: string }) =>
        typeof value === 'number' && /^-?\d+$/.test(source) && !Number.isSafeInteger(value)
          ? `${MARK}${source}`
          : value) as never);
      expect(JSON.parse(marked)).toEqual(expected);
      if (marked !== text) expect(hasLongDigits(bytes, 1, bytes.length - 1)).toBe(true);
    }),
    { numRuns: 500 },
  );
});

test('a run of sixteen digits is found wherever it stands, and a shorter one is none', () => {
  for (let at = 0; at < 40; at++) {
    for (const [digits, found] of [
      [15, false],
      [16, true],
      [17, true],
    ] as const) {
      const bytes = Buffer.from(`${'x'.repeat(at)}${'7'.repeat(digits)}${'x'.repeat(40 - at)}`);
      expect(hasLongDigits(bytes, 0, bytes.length), `${digits} at ${at}`).toBe(found);
    }
  }
});
