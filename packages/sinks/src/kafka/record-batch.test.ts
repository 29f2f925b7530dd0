import { crc32c, Reader, readRecordsBatch } from '@platformatic/kafka';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  BATCH_OVERHEAD_BYTES,
  encodeBatch,
  encodeRecords,
  type KafkaRecord,
  NO_STAMP,
  recordBytesMax,
} from './record-batch.ts';

const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array));
const record: fc.Arbitrary<KafkaRecord> = fc.record({
  key: fc.option(bytes),
  value: fc.option(bytes),
  headers: fc.array(fc.tuple(bytes, bytes), { maxLength: 4 }).map((pairs) => pairs.flat()),
});

test('another implementation of the format reads every batch as it was written', () => {
  fc.assert(
    fc.property(
      fc.array(record, { minLength: 1, maxLength: 70 }),
      fc.bigInt({ min: 0n, max: 2n ** 62n }),
      fc.nat(30_000),
      fc.nat(2 ** 31 - 1),
      (records, id, epoch, sequence) => {
        const batch = encodeBatch(encodeRecords(records), {
          count: records.length,
          timestampMs: 1_700_000_000_123,
          stamp: { id, epoch, sequence },
          compression: 0,
          crc32c,
        });
        const read = readRecordsBatch(Reader.from(batch));
        expect(read).toMatchObject({
          firstOffset: 0n,
          length: batch.length - 12,
          magic: 2,
          crc: crc32c(batch.subarray(21)) >>> 0,
          attributes: 0,
          lastOffsetDelta: records.length - 1,
          firstTimestamp: 1_700_000_000_123n,
          maxTimestamp: 1_700_000_000_123n,
          producerId: id,
          producerEpoch: epoch,
          firstSequence: sequence,
        });
        expect(read.records.map(({ offsetDelta }) => offsetDelta)).toEqual(records.map((_, index) => index));
        expect(
          read.records.map(({ key, value, headers }) => ({
            key: key ?? null,
            value: value ?? null,
            headers: headers.flat(),
          })),
        ).toEqual(records);
      },
    ),
    { numRuns: 200 },
  );
});

test('a record takes at most the bytes that it was counted with', () => {
  fc.assert(
    fc.property(record, (one) => {
      expect(encodeRecords([one]).length).toBeLessThanOrEqual(recordBytesMax(one));
    }),
  );
});

test('the last of very many records fits where it was counted', () => {
  const records = Array.from({ length: 70_000 }, () => ({ key: null, value: Buffer.alloc(0), headers: [] }));
  const encoded = encodeRecords(records);
  expect(encoded.length).toBeLessThanOrEqual(records.length * recordBytesMax(records[0] as KafkaRecord));
});

test('a batch of a producer without a number says so', () => {
  const batch = encodeBatch(encodeRecords([{ key: null, value: Buffer.from('x'), headers: [] }]), {
    count: 1,
    timestampMs: 0,
    stamp: NO_STAMP,
    compression: 0,
    crc32c,
  });
  expect(batch.length).toBeGreaterThan(BATCH_OVERHEAD_BYTES);
  expect(readRecordsBatch(Reader.from(batch))).toMatchObject({ producerId: -1n, producerEpoch: -1, firstSequence: -1 });
});
