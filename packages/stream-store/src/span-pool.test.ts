import { ByteWriter } from '@millrace/core/byte-writer';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { SPAN_POOL_BYTES_MAX } from './limits.ts';
import { sequenceRecords } from './record-sequencing.ts';
import { writeAppendRecord } from './record-writer.ts';
import { SliceGatherer } from './slice-gatherer.ts';
import { SpanPool } from './span-pool.ts';

test('spans in use never share memory, whatever is taken and given back', () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ size: fc.integer({ min: 1, max: 3 << 20 }), give: fc.boolean() }), { maxLength: 40 }),
      (steps) => {
        const pool = new SpanPool();
        const inUse: { span: Buffer; mark: number }[] = [];
        for (const [i, { size, give }] of steps.entries()) {
          const span = pool.take(size);
          expect(span.length).toBe(size);
          const mark = i + 1;
          span[0] = mark;
          span[size - 1] = mark;
          inUse.push({ span, mark });
          if (give) pool.give(inUse.shift()!.span);
          for (const held of inUse) {
            expect(held.span[0]).toBe(held.mark);
            expect(held.span[held.span.length - 1]).toBe(held.mark);
          }
        }
      },
    ),
    { numRuns: 50 },
  );
});

test('memory that was given back is used again, up to the bound', () => {
  const pool = new SpanPool();
  const spans = Array.from({ length: SPAN_POOL_BYTES_MAX / (1 << 20) + 4 }, () => pool.take(1 << 20));
  const before = new Set(spans.map((span) => span.buffer));
  for (const span of spans) pool.give(span);
  const again = spans.map(() => pool.take(1 << 20));
  expect(again.filter((span) => before.has(span.buffer))).toHaveLength(SPAN_POOL_BYTES_MAX / (1 << 20));
});

test('memory that was not taken from the pool is not given to it', () => {
  const pool = new SpanPool();
  expect(() => pool.give(Buffer.allocUnsafeSlow(100_000))).toThrow('a span that is given back was taken here');
});

test('a slice of several batches gives its spans back at once, and its own memory when it is released', () => {
  const pool = new SpanPool();
  const records = sequenced(100, 2000);
  const gatherer = new SliceGatherer(0, { countMax: 1000, meteredBytesMax: 1 << 20 }, pool);
  const half = records.length / 2;
  // As in a segment: the head of the second batch lies between them.
  const span = gatherer.span(records.length + 30);
  records.copy(span, 0, 0, half);
  records.copy(span, half + 30, half);
  for (const [at, firstSeqNum] of [[0, 0] as const, [half + 30, 50] as const]) {
    gatherer.add({
      records: span.subarray(at, at + half),
      firstSeqNum,
      count: 50,
      meteredBytes: 50 * 2008,
      lastTimestamp: 1n,
    });
  }
  const slice = gatherer.result()!;
  expect(Buffer.from(slice.records)).toEqual(records);
  // The span is free again: the next reader gets it, and the slice does not change.
  const next = pool.take(records.length);
  expect(next.buffer).toBe(span.buffer);
  next.fill(0);
  expect(Buffer.from(slice.records)).toEqual(records);
  slice.release!();
  expect(pool.take(records.length).buffer).toBe(slice.records.buffer);
});

/** Records of one size, as journaled. */
function sequenced(count: number, bodyBytes: number): Buffer {
  const appended = new ByteWriter();
  for (let i = 0; i < count; i++) writeAppendRecord(appended, { headers: [], body: Buffer.alloc(bodyBytes, i) });
  const out = new ByteWriter();
  // From 128 on, sequence numbers would take two bytes; here both halves are as long.
  sequenceRecords(out, appended.view(), 0, 1n, 1, 'arrival', false);
  return Buffer.from(out.view());
}
