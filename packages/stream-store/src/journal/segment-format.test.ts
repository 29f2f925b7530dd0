import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  checkEntry,
  decodeSegmentHeader,
  ENTRY_BYTES_MAX,
  ENTRY_HEADER_BYTES,
  encodeSegmentHeader,
  GROUP_BYTES_MAX,
  judgeTail,
  newJournalIdentity,
  writeEntryHeader,
} from './segment-format.ts';

const { marker, journalId } = newJournalIdentity();

/** Entries of one group, back to back, with random payloads of the sizes given. */
function group(sizes: readonly number[]): { bytes: Buffer; offsets: number[] } {
  const offsets: number[] = [];
  const parts: Buffer[] = [];
  let at = 0;
  for (const size of sizes) {
    const entry = Buffer.alloc(ENTRY_HEADER_BYTES + size, size + 1);
    writeEntryHeader(entry, 0, entry.length, marker, at, null);
    offsets.push(at);
    parts.push(entry);
    at += entry.length;
  }
  return { bytes: Buffer.concat(parts), offsets };
}

const sizes = fc.array(fc.nat(60), { minLength: 1, maxLength: 5 });

test('headers come back, and any flipped bit in them is noticed', () => {
  const header = { journalId, segment: 7, marker };
  const bytes = encodeSegmentHeader(header);
  expect(decodeSegmentHeader(bytes)).toEqual(header);
  for (let bit = 0; bit < 36 * 8; bit++) {
    const damaged = Buffer.from(bytes);
    damaged[bit >> 3] = damaged[bit >> 3]! ^ (1 << (bit & 7));
    expect(decodeSegmentHeader(damaged)).toBeNull();
  }
  expect(decodeSegmentHeader(bytes.subarray(0, 63))).toBeNull();
});

test('an entry with an external part has the checksum of the whole', () => {
  const whole = Buffer.alloc(ENTRY_HEADER_BYTES + 50, 9);
  writeEntryHeader(whole, 0, whole.length, marker, 3, null);
  const split = Buffer.from(whole);
  writeEntryHeader(split, 0, ENTRY_HEADER_BYTES + 20, marker, 3, split.subarray(ENTRY_HEADER_BYTES + 20));
  expect(split).toEqual(whole);
  expect(checkEntry(whole, 0, marker)).toBe(50);
});

test('any flipped bit of an entry and any truncation is noticed', () => {
  const { bytes } = group([20]);
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const damaged = Buffer.from(bytes);
    damaged[bit >> 3] = damaged[bit >> 3]! ^ (1 << (bit & 7));
    expect(checkEntry(damaged, 0, marker)).toBe(-1);
  }
  for (let end = 0; end < bytes.length; end++) expect(checkEntry(bytes.subarray(0, end), 0, marker)).toBe(-1);
});

test('whatever is left of one unsynced group is a torn tail, however its pages went', () => {
  fc.assert(
    fc.property(sizes, fc.uint8Array({ minLength: 8, maxLength: 8 }), fc.nat(3000), (entries, keep, zeros) => {
      const { bytes } = group(entries);
      const left = Buffer.from(bytes);
      // Pages of 16 bytes, each on the disk or still zero; the first one lost, so that the tail begins there.
      for (let page = 0; page * 16 < left.length; page++) {
        if (page === 0 || (keep[page % 8]! & 1) === 0) left.fill(0, page * 16, Math.min(left.length, page * 16 + 16));
      }
      const tail = Buffer.concat([left, Buffer.alloc(zeros)]);
      expect(judgeTail(tail, 0, marker)).toBe(tail.every((byte) => byte === 0) ? 'clean' : 'torn');
    }),
  );
});

test('a damaged entry with a later group behind it is corruption', () => {
  fc.assert(
    fc.property(sizes, sizes, fc.nat(), (first, second, where) => {
      const { bytes } = group(first);
      const damaged = Buffer.from(bytes);
      const at = where % ENTRY_HEADER_BYTES;
      damaged[at] = damaged[at]! ^ 0x55;
      const tail = Buffer.concat([damaged, group(second).bytes, Buffer.alloc(100)]);
      expect(judgeTail(tail, 0, marker)).toBe('corrupt');
    }),
  );
});

test('remains that reach further than a group can are corruption', () => {
  const tail = Buffer.alloc(GROUP_BYTES_MAX + ENTRY_BYTES_MAX + 200);
  tail[100] = 1;
  expect(judgeTail(tail, 0, marker)).toBe('torn');
  tail[tail.length - 1] = 1;
  expect(judgeTail(tail, 0, marker)).toBe('corrupt');
});
