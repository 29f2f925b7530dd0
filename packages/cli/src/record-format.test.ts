import { AppendRecord } from '@s2-dev/streamstore';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type BytesRecord,
  describeCommand,
  formatRecord,
  isCommand,
  meteredBytes,
  parseRecord,
} from './record-format.ts';
import { describeBatch } from './record-printer.ts';

const bytes = (text: string): Uint8Array => Buffer.from(text);

function record(body: Uint8Array | string, headers: [string, string][] = [], seqNum = 0): BytesRecord {
  return {
    seqNum,
    body: typeof body === 'string' ? bytes(body) : body,
    headers: headers.map(([name, value]) => [bytes(name), bytes(value)]),
    timestamp: new Date(1_700_000_000_000),
  };
}

test('a record prints as its body, as JSON, or as JSON in base64', () => {
  const full = record('grün', [['k', 'v']], 7);
  expect(formatRecord(full, 'text')).toBe('grün');
  expect(formatRecord(full, 'json')).toBe(
    '{"seq_num":7,"timestamp":1700000000000,"headers":[["k","v"]],"body":"grün"}',
  );
  expect(formatRecord(full, 'json-base64')).toBe(
    '{"seq_num":7,"timestamp":1700000000000,"headers":[["aw==","dg=="]],"body":"Z3LDvG4="}',
  );
  expect(formatRecord(record(''), 'json')).toBe('{"seq_num":0,"timestamp":1700000000000}');
  expect(formatRecord(record(Buffer.from([0x61, 0xff])), 'text')).toBe('a\ufffd');
});

test('a batch line tells metered bytes, records and range', () => {
  expect(describeBatch([])).toBeNull();
  expect(describeBatch([record('hello')])).toBe('⦿ 13 bytes (1 record in range 0..=0)');
  expect(describeBatch([record('hello', [], 5), record('ü', [['k', 'vv']], 6)])).toBe(
    '⦿ 28 bytes (2 records in range 5..=6)',
  );
});

test('metered bytes are those of the record when it was appended', () => {
  const body = fc.uint8Array({ maxLength: 50 });
  const headers = fc.array(fc.tuple(fc.string({ minLength: 1 }), fc.string()), { maxLength: 4 });
  fc.assert(
    fc.property(body, headers, (content, pairs) => {
      expect(meteredBytes(record(content, pairs))).toBe(
        AppendRecord.bytes({ body: content, headers: pairs }).meteredBytes,
      );
    }),
  );
});

test('command records are told from others and described', () => {
  const trim = Buffer.alloc(8);
  trim.writeBigUInt64BE(2n ** 60n);
  expect(isCommand(record('x', [['', 'fence']]))).toBe(true);
  expect(isCommand(record('x', [['a', 'fence']]))).toBe(false);
  expect(isCommand(record('x'))).toBe(false);
  expect(describeCommand(record('me', [['', 'fence']], 3))).toBe('new fencing token "me" // 3 @ 1700000000000');
  expect(describeCommand(record(trim, [['', 'trim']], 4))).toBe('trim to 1152921504606846976 // 4 @ 1700000000000');
  expect(describeCommand(record('', [['', '?']], 4))).toBe('unknown command // 4 @ 1700000000000');
});

describe('lines of input', () => {
  test('JSON lines that were printed are taken again, byte for byte in base64', () => {
    const any = fc.record({
      body: fc.uint8Array({ maxLength: 40 }),
      headers: fc.array(fc.tuple(fc.string({ minLength: 1 }), fc.string()), { maxLength: 3 }),
    });
    fc.assert(
      fc.property(any, ({ body, headers }) => {
        const printed = record(body, headers);
        const again = parseRecord(bytes(formatRecord(printed, 'json-base64')), 'json-base64', AppendRecord.bytes);
        expect(Buffer.from(again.body as Uint8Array).equals(body)).toBe(true);
        expect(again.headers?.map(([name, value]) => [String(name), String(value)])).toEqual(
          printed.headers.map(([name, value]) => [String(name), String(value)]),
        );
        expect(again.timestamp).toBe(1_700_000_000_000);
      }),
    );
  });

  test.each([
    ['{', 'not valid JSON'],
    ['[]', 'not a JSON object'],
    ['{"bdy":"x"}', 'unknown key "bdy"'],
    ['{"timestamp":-1}', 'timestamp must be'],
    ['{"timestamp":"5"}', 'timestamp must be'],
    ['{"headers":{"a":"b"}}', 'headers must be a list'],
    ['{"headers":[["a"]]}', 'headers must be a list'],
    ['{"headers":[["a",1]]}', 'a header must be text'],
    ['{"body":5}', 'body must be text'],
  ])('%s is refused', (line, message) => {
    expect(() => parseRecord(bytes(line), 'json', AppendRecord.bytes)).toThrow(message);
  });

  test('base64 that is none is refused, not read as something else', () => {
    for (const body of ['a', 'ab=c', '####', 'YQ']) {
      expect(() => parseRecord(bytes(JSON.stringify({ body })), 'json-base64', AppendRecord.bytes)).toThrow('base64');
    }
  });
});
