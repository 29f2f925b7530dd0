import { ByteWriter } from '@millrace/core/byte-writer';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TAIL_RING_BLOCK_BYTES, TAIL_RING_BYTES_MAX } from './limits.ts';
import { sequenceRecords } from './record-sequencing.ts';
import { writeAppendRecord } from './record-writer.ts';
import { SpanPool } from './span-pool.ts';
import type { ReadSlice } from './store.ts';
import { TailRing } from './tail-ring.ts';

const ALL = { countMax: 1000, meteredBytesMax: 1 << 20 };

/** One batch after the other, and what their records are. */
class Source {
  readonly records: Buffer[] = [];

  batch(count: number, bodyBytes: number): ReadSlice {
    const firstSeqNum = this.records.length;
    for (let i = 0; i < count; i++) this.records.push(journaled([bodyBytes], firstSeqNum + i));
    const records = Buffer.concat(this.records.slice(firstSeqNum));
    return { records, firstSeqNum, count, meteredBytes: count * (bodyBytes + 8), lastTimestamp: 1n };
  }

  bytesOf({ firstSeqNum, count }: ReadSlice): Buffer {
    return Buffer.concat(this.records.slice(firstSeqNum, firstSeqNum + count));
  }
}

function journaled(bodies: readonly number[], firstSeqNum: number): Buffer {
  const appended = new ByteWriter();
  for (const size of bodies) writeAppendRecord(appended, { headers: [], body: Buffer.alloc(size, firstSeqNum % 251) });
  const out = new ByteWriter();
  sequenceRecords(out, appended.view(), firstSeqNum, 1n, 1, 'arrival', false);
  return Buffer.from(out.view());
}

const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ push: fc.integer({ min: 1, max: 6 }), bytes: fc.integer({ min: 0, max: 90_000 }) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ push: fc.integer({ min: 1, max: 30 }), bytes: fc.integer({ min: 0, max: 200 }) }),
  },
  { weight: 4, arbitrary: fc.record({ back: fc.nat(80), countMax: fc.integer({ min: 1, max: 60 }) }) },
  { weight: 3, arbitrary: fc.record({ release: fc.nat(10) }) },
  { weight: 1, arbitrary: fc.record({ lasting: fc.integer({ min: 1, max: 3 }) }) },
);

test('whatever is read stays what it was until it is released, and the ring holds to its bound', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 20, maxLength: 120, size: 'max' }), (steps) => {
      const source = new Source();
      const pool = new SpanPool();
      // Another ring with the same memory, so that what one gives back the other writes to.
      const rings = [new TailRing(0, pool), new TailRing(0, pool)];
      const held: ReadSlice[] = [];
      for (const step of steps) {
        if ('push' in step) push(rings, source.batch(step.push, step.bytes), false);
        else if ('lasting' in step) push(rings, source.batch(step.lasting, 50), true);
        else if ('back' in step) {
          const seqNum = Math.max(0, source.records.length - step.back);
          const slice = rings[step.back % 2]!.read(seqNum, { ...ALL, countMax: step.countMax });
          if (slice != null) {
            expect(slice.firstSeqNum).toBe(seqNum);
            held.push(slice);
          }
        } else if (step.release < held.length) held.splice(step.release, 1)[0]!.release?.();
        for (const slice of held) expect(Buffer.from(slice.records).equals(source.bytesOf(slice))).toBe(true);
        for (const ring of rings) expect(ring.bytes).toBeLessThanOrEqual(TAIL_RING_BYTES_MAX);
      }
      for (const ring of rings) {
        ring.clear();
        expect(ring.bytes).toBe(0);
      }
      push([new TailRing(0, pool)], source.batch(20, 100_000), false);
      for (const slice of held) expect(Buffer.from(slice.records).equals(source.bytesOf(slice))).toBe(true);
    }),
    { numRuns: 30, interruptAfterTimeLimit: 40_000, markInterruptAsFailure: true },
  );

  function push(rings: readonly TailRing[], batch: ReadSlice, lasting: boolean): void {
    for (const ring of rings) ring.push(batch, lasting);
    // What was pushed is the caller's again, unless it lasts.
    if (!lasting) (batch.records as Buffer).fill(0xee);
  }
});

test('a ring that has turned once takes no more memory, and its readers copy nothing', () => {
  const source = new Source();
  const pool = new SpanPool();
  const ring = new TailRing(0, pool);
  const buffers = new Set<ArrayBufferLike>();
  const seen = () => {
    const slice = ring.read(source.records.length - 1, ALL)!;
    buffers.add(slice.records.buffer);
    slice.release?.();
  };
  for (let i = 0; i < 2000; i++) {
    ring.push(source.batch(1, 4000), false);
    seen();
  }
  const turned = buffers.size;
  for (let i = 0; i < 4000; i++) {
    ring.push(source.batch(1, 4000), false);
    seen();
  }
  expect(buffers.size).toBe(turned);
  expect(ring.bytes).toBeLessThanOrEqual(TAIL_RING_BYTES_MAX);
  expect(ring.bytes).toBeGreaterThan(TAIL_RING_BYTES_MAX - 2 * TAIL_RING_BLOCK_BYTES);
});

test('a small ring takes little', () => {
  const source = new Source();
  const ring = new TailRing(0, new SpanPool());
  ring.push(source.batch(1, 100), false);
  expect(ring.bytes).toBe(4096);
});

test('every follower of a batch gets the same view of it', () => {
  const source = new Source();
  const ring = new TailRing(0, new SpanPool());
  ring.push(source.batch(3, 100), false);
  ring.push(source.batch(3, 100), false);
  const [one, other] = [ring.read(3, ALL)!, ring.read(3, ALL)!];
  expect(one.records).toBe(other.records);
  // Two batches beside one another are one view too, without a copy.
  expect(ring.read(0, ALL)!.records.buffer).toBe(one.records.buffer);
});
