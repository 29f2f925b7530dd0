import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LINE_BYTES_MAX, readLines } from './line-reader.ts';

async function lines(...chunks: (string | Uint8Array)[]): Promise<string[]> {
  async function* source(): AsyncGenerator<Uint8Array> {
    for (const chunk of chunks) yield typeof chunk === 'string' ? Buffer.from(chunk) : chunk;
  }
  const result: string[] = [];
  for await (const line of readLines(source())) result.push(Buffer.from(line).toString('latin1'));
  return result;
}

test('lines end with LF or CRLF, and the last need not end', async () => {
  expect(await lines('a\nb\r\n\nc')).toEqual(['a', 'b', '', 'c']);
  expect(await lines('a\n')).toEqual(['a']);
  expect(await lines('a', 'b\r', '\nc')).toEqual(['ab', 'c']);
  expect(await lines()).toEqual([]);
});

test('however the bytes are cut, the lines are the same', async () => {
  const piece = fc.array(fc.constantFrom('x', '\xff', '\n'), { maxLength: 8 }).map((parts) => parts.join(''));
  await fc.assert(
    fc.asyncProperty(fc.array(piece), async (pieces) => {
      const whole = pieces.join('');
      const expected = whole.split('\n');
      if (expected.at(-1) === '') expected.pop();
      expect(await lines(...pieces.map((text) => Buffer.from(text, 'latin1')))).toEqual(expected);
    }),
  );
});

test('a line beyond the limit is refused and named', async () => {
  await expect(lines('a\n', Buffer.alloc(LINE_BYTES_MAX, 120), 'x')).rejects.toThrow('line 2 is longer than');
});
