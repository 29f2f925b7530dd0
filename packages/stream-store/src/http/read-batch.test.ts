import { BinaryReader } from '@bufbuild/protobuf/wire';
import { ByteWriter } from '@millrace/core/byte-writer';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { StreamPosition } from '../model.ts';
import { writeSequencedRecord } from '../record-writer.ts';
import { encodeAppendAck, encodeReadFrames, encodeTail, readBatchJson, readFramesRoom } from './read-batch.ts';
import { FrameBufferPool, FrameDecoder } from './s2s-frame.ts';

function journaled(records: readonly { headers?: [string, string][]; body: Uint8Array; timestamp?: bigint }[]): Buffer {
  const out = new ByteWriter(64);
  records.forEach(({ headers = [], body, timestamp = 1n }, seqNum) => {
    const encoded = headers.map(([name, value]) => ({ name: Buffer.from(name), value: Buffer.from(value) }));
    writeSequencedRecord(out, seqNum, timestamp, encoded, body);
  });
  return out.view();
}

function readPosition(bytes: Uint8Array): StreamPosition {
  const reader = new BinaryReader(bytes);
  let seqNum = 0;
  let timestamp = 0n;
  while (reader.pos < reader.len) {
    const [field] = reader.tag();
    if (field === 1) seqNum = Number(reader.uint64());
    else timestamp = BigInt(reader.uint64());
  }
  return { seqNum, timestamp };
}

describe('an AppendAck', () => {
  it('carries its three positions exactly', () => {
    const position = fc.record({
      seqNum: fc.nat(Number.MAX_SAFE_INTEGER),
      timestamp: fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }),
    });
    fc.assert(
      fc.property(position, position, position, (start, end, tail) => {
        const reader = new BinaryReader(encodeAppendAck({ start, end, tail }));
        const read: StreamPosition[] = [];
        while (reader.pos < reader.len) {
          expect(reader.tag()).toEqual([read.length + 1, 2]);
          read.push(readPosition(reader.bytes()));
        }
        expect(read).toEqual([start, end, tail]);
      }),
    );
  });
});

describe('read frames', () => {
  it('hold every record once and in order, none cut in two, and about the size asked for', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 30 }),
        fc.integer({ min: 1, max: 400 }),
        fc.boolean(),
        (bodies, bytesMax, isLive) => {
          const records = journaled(bodies.map((body) => ({ body })));
          const tail = encodeTail(isLive ? { seqNum: 99, timestamp: 5n } : null);
          const decoder = new FrameDecoder(new FrameBufferPool());
          const out = Buffer.alloc(readFramesRoom(records.length, bodies.length, tail.length, bytesMax));
          decoder.push(out.subarray(0, encodeReadFrames(out, records, tail, bytesMax)));
          const seen: Buffer[] = [];
          while (decoder.next()) {
            const reader = new BinaryReader(decoder.payload);
            let inFrame = 0;
            let hasTail = false;
            while (reader.pos < reader.len) {
              const [field] = reader.tag();
              const bytes = reader.bytes();
              if (field === 2) {
                hasTail = true;
                expect(readPosition(bytes)).toEqual({ seqNum: 99, timestamp: 5n });
                continue;
              }
              inFrame++;
              const record = new BinaryReader(bytes);
              let body: Uint8Array = new Uint8Array();
              while (record.pos < record.len) {
                const [field, type] = record.tag();
                if (field === 4) body = record.bytes();
                else record.skip(type);
              }
              seen.push(Buffer.from(body));
            }
            expect(hasTail).toBe(isLive);
            expect(inFrame).toBeGreaterThan(0);
            if (inFrame > 1) expect(decoder.payload.length - tail.length).toBeLessThanOrEqual(bytesMax);
          }
          expect(seen).toEqual(bodies.map((body) => Buffer.from(body)));
        },
      ),
    );
  });

  it('without records hold the tail alone', () => {
    const tail = encodeTail({ seqNum: 3, timestamp: 4n });
    const out = Buffer.alloc(readFramesRoom(0, 0, tail.length, 1000));
    expect(out.subarray(0, encodeReadFrames(out, Buffer.alloc(0), tail, 1000))).toEqual(
      Buffer.from([0, 0, tail.length + 1, 0, ...tail]),
    );
  });
});

describe('a ReadBatch in JSON', () => {
  it('leaves out empty headers, empty bodies and an unknown tail', () => {
    const records = journaled([{ body: Buffer.alloc(0) }, { body: Buffer.from('a"\n'), headers: [['k', 'v']] }]);
    expect(readBatchJson([records], null, 'raw')).toBe(
      '{"records":[{"seq_num":0,"timestamp":1},{"seq_num":1,"timestamp":1,"headers":[["k","v"]],"body":"a\\"\\n"}]}',
    );
  });

  it('shows timestamps beyond 2^53 exactly', () => {
    const records = journaled([{ body: Buffer.from('x'), timestamp: 9223372036854775809n }]);
    expect(readBatchJson([records], { seqNum: 1, timestamp: 9223372036854775809n }, 'base64')).toBe(
      '{"records":[{"seq_num":0,"timestamp":9223372036854775809,"body":"eA=="}],"tail":{"seq_num":1,"timestamp":9223372036854775809}}',
    );
  });

  it('shows what is not UTF-8 lossily in raw and exactly in base64', () => {
    const records = journaled([{ body: Buffer.from([0x61, 0xff]) }]);
    expect(JSON.parse(readBatchJson([records], null, 'raw')).records[0].body).toBe('a\ufffd');
    expect(JSON.parse(readBatchJson([records], null, 'base64')).records[0].body).toBe('Yf8=');
  });
});
