import { ByteWriter } from '@millrace/core/byte-writer';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { NumberedRecordWriter } from './numbered-record-writer.ts';
import { writeSequencedRecord } from './record-writer.ts';

test('numbered records have the bytes and metered size of records written one by one', () => {
  const ascii = fc.string({ unit: 'grapheme-ascii', maxLength: 40 });
  const one = fc.record({
    number: fc.oneof(fc.integer({ min: -120, max: 120 }), fc.constant(0x7fff_ffff)),
    suffix: fc.option(ascii, { nil: null }),
    body: fc.uint8Array({ maxLength: 400 }),
  });
  fc.assert(
    fc.property(
      fc.oneof(fc.nat(200), fc.constant(2 ** 40)),
      fc.bigInt(0n, 0xffff_ffff_ffff_ffffn),
      fc.uint8Array({ minLength: 1, maxLength: 200 }),
      ascii,
      fc.array(one, { minLength: 1, maxLength: 5 }),
      (seqNum, timestamp, name, prefix, records) => {
        const fast = new ByteWriter(16);
        const plain = new ByteWriter(16);
        const writer = new NumberedRecordWriter(fast, timestamp, name);
        writer.prefix(prefix);
        records.forEach(({ number, suffix, body }, i) => {
          const bodies = Buffer.concat([Buffer.from('before'), body, Buffer.from('after')]);
          const end = 6 + body.length;
          const metered = writer.write(
            seqNum + i,
            number,
            suffix === null ? null : Buffer.from(suffix),
            bodies,
            6,
            end,
          );
          const value = Buffer.from(`${prefix}${number}${suffix ?? ''}`);
          expect(metered).toBe(writeSequencedRecord(plain, seqNum + i, timestamp, [{ name, value }], bodies, 6, end));
        });
        expect(fast.view().equals(plain.view())).toBe(true);
      },
    ),
  );
});
