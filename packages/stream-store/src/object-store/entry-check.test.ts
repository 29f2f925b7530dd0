import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  ENTRY_HEADER_BYTES,
  encodeSegmentHeader,
  newJournalIdentity,
  writeEntryHeader,
} from '../journal/segment-format.ts';
import { EntryCheck } from './entry-check.ts';

const { journalId, marker } = newJournalIdentity();

function fileOf(sizes: readonly number[]): Buffer {
  const entries = sizes.map((size) => {
    const entry = Buffer.alloc(ENTRY_HEADER_BYTES + size, size + 1);
    writeEntryHeader(entry, 0, entry.length, marker, 0, null);
    return entry;
  });
  return Buffer.concat([encodeSegmentHeader({ journalId, segment: 3, marker }), ...entries]);
}

function checkIn(file: Buffer, cuts: readonly number[]): void {
  const check = new EntryCheck('file');
  let at = 0;
  for (const cut of [...cuts].sort((a, b) => a - b)) {
    check.push(file.subarray(at, Math.min(file.length, cut)));
    at = Math.min(file.length, cut);
  }
  check.push(file.subarray(at));
  check.finish();
}

const sizes = fc.array(fc.nat(40), { maxLength: 6 });
const cuts = fc.array(fc.nat(400), { maxLength: 8 });

test('a whole file passes, wherever its chunks are cut', () => {
  fc.assert(fc.property(sizes, cuts, (entries, at) => checkIn(fileOf(entries), at)));
});

test('a file with any wrong bit in an entry, or cut short in one, is refused', () => {
  fc.assert(
    fc.property(sizes, cuts, fc.nat(), fc.nat(7), (entries, at, where, bit) => {
      const file = fileOf([...entries, 5]);
      const byte = 64 + (where % (file.length - 64));
      // The marker is not covered by the checksum; reading checks it.
      const inMarker = fileOffsets(entries).some((offset) => byte >= offset && byte < offset + 4);
      const damaged = Buffer.from(file);
      damaged[byte] = damaged[byte]! ^ (1 << bit);
      if (!inMarker) expect(() => checkIn(damaged, at)).toThrow('damaged entry');
      expect(() => checkIn(file.subarray(0, file.length - 1 - (where % 20)), at)).toThrow('damaged entry');
    }),
  );
});

function fileOffsets(entries: readonly number[]): number[] {
  const offsets = [64];
  for (const size of entries) offsets.push(offsets.at(-1)! + ENTRY_HEADER_BYTES + size);
  return offsets;
}
