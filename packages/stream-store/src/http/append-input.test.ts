import { BinaryWriter } from '@bufbuild/protobuf/wire';
import { ByteWriter } from '@millrace/core/byte-writer';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RecordCursor } from '../record-cursor.ts';
import { S2Error } from '../s2-error.ts';
import type { AppendInput } from '../store.ts';
import { readJsonAppendInput, readProtoAppendInput } from './append-input.ts';
import { parseJson } from './json.ts';

const record = (body: string) => new BinaryWriter().tag(3, 2).bytes(Buffer.from(body)).finish();

const message = (write: (writer: BinaryWriter) => void) => {
  const writer = new BinaryWriter();
  write(writer);
  return Buffer.from(writer.finish());
};

const readJson = (text: string, format: 'raw' | 'base64' = 'raw') =>
  readJsonAppendInput(parseJson(Buffer.from(text)), format, new ByteWriter(64));

function bodies(input: AppendInput): string[] {
  const cursor = new RecordCursor(input.records, 'append');
  const bodies: string[] = [];
  while (cursor.next()) {
    bodies.push(Buffer.from(input.records.subarray(cursor.bodyStart, cursor.bodyEnd)).toString('utf8'));
  }
  return bodies;
}

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return error instanceof S2Error ? error.code : String(error);
  }
  return 'none';
}

describe('an AppendInput in protobuf', () => {
  it('is read whatever the order of its fields', () => {
    const input = readProtoAppendInput(
      message((writer) =>
        writer
          .tag(3, 2)
          .string('token')
          .tag(1, 2)
          .bytes(record('one'))
          .tag(2, 0)
          .uint64(7)
          .tag(1, 2)
          .bytes(record('two')),
      ),
    );
    expect(bodies(input)).toEqual(['one', 'two']);
    expect(input.scan.count).toBe(2);
    expect(input.matchSeqNum).toBe(7);
    expect(input.fencingToken).toBe('token');
  });

  it('tells an absent field from an empty one', () => {
    const bare = readProtoAppendInput(message((writer) => writer.tag(1, 2).bytes(record('x'))));
    expect(bare.matchSeqNum).toBeUndefined();
    expect(bare.fencingToken).toBeUndefined();
    const set = readProtoAppendInput(
      message((writer) => writer.tag(1, 2).bytes(record('x')).tag(2, 0).uint64(0).tag(3, 2).string('')),
    );
    expect(set.matchSeqNum).toBe(0);
    expect(set.fencingToken).toBe('');
  });

  it('never matches a tail when match_seq_num is 2^64-1', () => {
    const input = readProtoAppendInput(
      message((writer) => writer.tag(1, 2).bytes(record('x')).tag(2, 0).uint64(18446744073709551615n)),
    );
    expect(input.matchSeqNum).toBe(Number.MAX_SAFE_INTEGER);
  });

  it('skips fields it does not know', () => {
    const input = readProtoAppendInput(
      message((writer) =>
        writer
          .tag(9, 0)
          .uint64(1)
          .tag(10, 1)
          .fixed64(1)
          .tag(1, 2)
          .bytes(record('x'))
          .tag(11, 2)
          .string('s')
          .tag(12, 5)
          .fixed32(1),
      ),
    );
    expect(bodies(input)).toEqual(['x']);
  });

  it('is refused with bad_proto when a field has the wrong type or is cut short', () => {
    expect(codeOf(() => readProtoAppendInput(message((writer) => writer.tag(1, 0).uint64(1))))).toBe('bad_proto');
    expect(codeOf(() => readProtoAppendInput(message((writer) => writer.tag(2, 2).string('7'))))).toBe('bad_proto');
    expect(
      codeOf(() => readProtoAppendInput(message((writer) => writer.tag(3, 2).bytes(new Uint8Array([0xff]))))),
    ).toBe('bad_proto');
    const whole = message((writer) => writer.tag(1, 2).bytes(record('abc')).tag(2, 0).uint64(300));
    for (let end = 1; end < whole.length; end++) {
      const code = codeOf(() => readProtoAppendInput(whole.subarray(0, end)));
      // Between the two fields it is a whole message.
      expect(code).toBe(end === whole.length - 3 ? 'none' : 'bad_proto');
    }
  });

  it('is refused as invalid when empty, or when the fencing token is too long', () => {
    expect(codeOf(() => readProtoAppendInput(Buffer.alloc(0)))).toBe('invalid');
    const long = message((writer) => writer.tag(1, 2).bytes(record('x')).tag(3, 2).string('t'.repeat(37)));
    expect(codeOf(() => readProtoAppendInput(long))).toBe('invalid');
  });

  it('of any bytes ends in an input or a coded error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        expect(['none', 'bad_proto', 'invalid']).toContain(codeOf(() => readProtoAppendInput(Buffer.from(bytes))));
      }),
      { numRuns: 1000 },
    );
  });
});

describe('an AppendInput in JSON', () => {
  it('is the same as in protobuf', () => {
    const json = readJson(
      '{"records":[{"body":"one","timestamp":18446744073709551615},{"headers":[["a","b"]]}],"match_seq_num":3,"fencing_token":""}',
    );
    expect(bodies(json)).toEqual(['one', '']);
    expect(json).toMatchObject({ matchSeqNum: 3, fencingToken: '' });
    const cursor = new RecordCursor(json.records, 'append');
    cursor.next();
    expect(cursor.timestamp).toBe(18446744073709551615n);
    cursor.next();
    expect(cursor.headerCount).toBe(1);
  });

  it('takes base64 strictly', () => {
    expect(bodies(readJson('{"records":[{"body":"b25l"}]}', 'base64'))).toEqual(['one']);
    for (const bad of ['b25', 'b25l=', 'b2 5', 'b2_l', 'b25lZR==']) {
      expect(codeOf(() => readJson(`{"records":[{"body":"${bad}"}]}`, 'base64'))).toBe('invalid');
    }
  });

  it.each([
    ['[]', 'bad_json'],
    ['{}', 'bad_json'],
    ['{"records":{}}', 'bad_json'],
    ['{"records":[1]}', 'bad_json'],
    ['{"records":[{"body":1}]}', 'bad_json'],
    ['{"records":[{"headers":[["a"]]}]}', 'bad_json'],
    ['{"records":[{"headers":[["a","b","c"]]}]}', 'bad_json'],
    ['{"records":[{"timestamp":-1}]}', 'bad_json'],
    ['{"records":[{}],"match_seq_num":"1"}', 'bad_json'],
    ['{"records":[]}', 'invalid'],
    ['{"records":[{"headers":[["","nonsense"]]}]}', 'invalid'],
  ])('%s is refused with %s', (text, code) => {
    expect(codeOf(() => readJson(text))).toBe(code);
  });
});
