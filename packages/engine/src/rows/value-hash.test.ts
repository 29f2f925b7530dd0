import { ByteWriter } from '@millrace/core/byte-writer';
import { expect, test } from 'vitest';
import { isUnknownHash, writeHash, writeUnknownHash } from './value-hash.ts';

const out = new ByteWriter(16);

function hash(bytes: Uint8Array, start = 0, end = bytes.length): string {
  out.length = 0;
  writeHash(out, bytes, start, end);
  return out.view().toString('hex');
}

test('values that look alike have different hashes', () => {
  const seen = new Set<string>();
  let count = 0;
  const add = (text: string) => {
    seen.add(hash(Buffer.from(text)));
    count++;
  };
  for (let i = 0; i < 100_000; i++) add(String(i));
  for (let i = 0; i < 50_000; i++) add(`"2026-01-02T03:04:05.${String(i).padStart(6, '0')}Z"`);
  for (let i = 1; i < 5_000; i++) add('\0'.repeat(i));
  expect(seen.size).toBe(count);
});

test('each bit of a value changes about half of the hash', () => {
  const value = Buffer.from('thirty-one bytes of one value..');
  const before = BigInt(`0x${hash(value)}`);
  let flipped = 0;
  for (let bit = 0; bit < value.length * 8; bit++) {
    const other = Buffer.from(value);
    other[bit >> 3]! ^= 1 << (bit & 7);
    const differing = [...(before ^ BigInt(`0x${hash(other)}`)).toString(2)].filter((digit) => digit === '1').length;
    expect(differing).toBeGreaterThan(10);
    flipped += differing;
  }
  const mean = flipped / (value.length * 8);
  expect(mean).toBeGreaterThan(30);
  expect(mean).toBeLessThan(34);
});

test('a hash is of the range alone, and never the one that means "not known"', () => {
  const bytes = Buffer.from('..value..');
  expect(hash(bytes, 2, 7)).toBe(hash(Buffer.from('value')));
  out.length = 0;
  writeUnknownHash(out);
  writeHash(out, bytes, 0, 0);
  expect([isUnknownHash(out.view(), 0), isUnknownHash(out.view(), 1)]).toEqual([true, false]);
});
