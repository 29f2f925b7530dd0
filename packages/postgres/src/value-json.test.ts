import { ByteWriter } from '@millrace/core/byte-writer';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { builtinType, codecOf, type TypeDescription, writeJson, writeJsonString } from './value-json.ts';

function json(type: TypeDescription, text: string | Buffer): string {
  // In the middle of a larger buffer and of a larger output, as in a row.
  const bytes = Buffer.isBuffer(text) ? text : Buffer.from(text);
  const source = Buffer.concat([Buffer.from('"9{'), bytes, Buffer.from('9"}')]);
  const out = new ByteWriter(8);
  out.ascii('[');
  writeJson(out, codecOf(type), source, 3, 3 + bytes.length);
  return out.view().toString().slice(1);
}

const builtin = (name: string): TypeDescription => {
  for (let oid = 1; oid < 10_000; oid++) {
    const type = builtinType(oid);
    if (type?.name === name) return type;
  }
  throw new Error(`no built-in type ${name}`);
};

function jsonString(bytes: Buffer): string {
  const out = new ByteWriter(4);
  writeJsonString(out, bytes, 0, bytes.length);
  return out.view().toString();
}

describe('strings', () => {
  test('any text comes back from JSON.parse as it went in', () => {
    const text = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 400 }),
      fc.string({ unit: fc.constantFrom('"', '\\', '\n', '\t', '\r', '\b', '\f', '\u0001', '\u007f', 'a', 'ä', '😀') }),
    );
    fc.assert(
      fc.property(text, (input) => {
        expect(JSON.parse(jsonString(Buffer.from(input)))).toBe(input);
      }),
      { numRuns: 3000 },
    );
  });

  test('bytes that are no UTF-8 still give valid JSON, where TextDecoder would put U+FFFD too', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), (bytes) => {
        const out = new ByteWriter(4);
        writeJsonString(out, Buffer.from(bytes), 0, bytes.length);
        const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(out.view());
        const plain = (value: string) => value.replaceAll('\ufffd', '');
        expect(plain(JSON.parse(text))).toBe(plain(new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes)));
      }),
      { numRuns: 3000 },
    );
  });

  test('a character cut off by the end of the value is not completed from the bytes behind it', () => {
    const out = new ByteWriter();
    const bytes = Buffer.from('aä');
    writeJsonString(out, bytes, 0, 2);
    expect(out.view().toString()).toBe('"a\ufffd"');
  });
});

describe('values that do not fit their type are text', () => {
  test.each([
    ['int4', ''],
    ['int4', '-'],
    ['int4', '007'],
    ['int4', '1.5'],
    ['int8', '12a'],
    ['float8', 'NaN'],
    ['float8', 'Infinity'],
    ['float8', '1.'],
    ['float8', '.5'],
    ['float8', '1e'],
    ['bool', 'true'],
    ['bool', ''],
    ['timestamp', 'infinity'],
    ['timestamp', '0044-03-15 00:00:00 BC'],
    ['timestamp', '12024-01-02 03:04:05'],
    ['timestamp', '2024-01-02 03:04:05.'],
    ['timestamp', '2024-01-02 03:04:05.1234567'],
    ['timestamp', '2024-01-02T03:04:05'],
    ['timestamptz', '2024-01-02 03:04:05'],
    ['timestamptz', '0001-01-01 00:00:00+05'],
    ['interval', ''],
    ['interval', 'infinity'],
    ['interval', '1'],
    ['interval', '1 fortnight'],
    ['interval', '12:34'],
    ['interval', '12:34:56 1 day'],
    ['interval', 'P1Y'],
    ['_int4', ''],
    ['_int4', '{'],
    ['_int4', '{1'],
    ['_int4', '{1,}'],
    ['_int4', '{,1}'],
    ['_int4', '{1}}'],
    ['_int4', '{1}{2}'],
    ['_int4', '{1},{2}'],
    ['_int4', '[0:1]'],
    ['_int4', '[0:1]='],
    ['_text', '{"a}'],
    ['_text', '{"a\\'],
    ['_text', '{a"b}'],
    ['_text', '1'],
  ])('%s %j', (type, text) => {
    expect(json(builtin(type), text)).toBe(JSON.stringify(text));
  });

  test('any bytes as any type give valid JSON (json itself is taken at its word)', () => {
    const types = [
      'bool',
      'int8',
      'float8',
      'numeric',
      'timestamp',
      'timestamptz',
      'interval',
      'bytea',
      'char',
      '_int4',
      '_text',
    ]
      .concat(['_box', '_timestamptz', '_interval', '_bool'])
      .map(builtin)
      .concat([{ oid: 70_000, name: 'vector', schema: 'public', kind: 'base' }]);
    const fragment = fc
      .constantFrom('{', '}', '[', ']', '"', '\\', ',', ';', 'NULL', '0', '-', '9', ':', ' ', '=', '\xff')
      .map((part) => Buffer.from(part, 'latin1'));
    fc.assert(
      fc.property(
        fc.constantFrom(...types),
        fc.oneof(
          fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
          fc.array(fragment).map((all) => Buffer.concat(all)),
        ),
        (type, bytes) => {
          JSON.parse(json(type, bytes));
        },
      ),
      { numRuns: 5000 },
    );
  });
});

describe('types', () => {
  test('a domain is as its base type at any depth, also inside of arrays', () => {
    const inner: TypeDescription = { oid: 1, name: 'd', schema: 'public', kind: 'domain', base: builtin('int4') };
    const outer: TypeDescription = { oid: 2, name: 'e', schema: 'public', kind: 'domain', base: inner };
    expect(json(outer, '5')).toBe('5');
    expect(json({ oid: 3, name: '_e', schema: 'public', kind: 'base', element: outer }, '{1,NULL}')).toBe('[1,null]');
    const overArray: TypeDescription = { oid: 4, name: 'f', schema: 'x', kind: 'domain', base: builtin('_int4') };
    expect(json({ oid: 5, name: '_f', schema: 'x', kind: 'base', element: overArray }, '{"{1,2}","{}"}')).toBe(
      '[[1,2],[]]',
    );
  });

  test('pgvector values are arrays of numbers, whatever schema the extension lives in', () => {
    const vector: TypeDescription = { oid: 70_000, name: 'vector', schema: 'extensions', kind: 'base' };
    expect(json(vector, '[1,-2.5,3e-07]')).toBe('[1,-2.5,3e-07]');
    expect(json(vector, '[]')).toBe('[]');
    expect(json(vector, '[1,]')).toBe('"[1,]"');
    expect(json(vector, '[1 2]')).toBe('"[1 2]"');
  });

  test("a user's type that is named like a built-in one is text", () => {
    expect(json({ oid: 70_001, name: 'int4', schema: 'public', kind: 'base' }, '5')).toBe('"5"');
    expect(json({ oid: 70_002, name: 'bool', schema: 'public', kind: 'enum' }, 't')).toBe('"t"');
  });

  test('a zoned timestamp outside of UTC is converted', () => {
    const type = builtin('timestamptz');
    expect(json(type, '2024-01-01 03:04:05.5+05:30')).toBe('"2023-12-31T21:34:05.500000Z"');
    expect(json(type, '2024-12-31 23:00:00-03')).toBe('"2025-01-01T02:00:00.000000Z"');
    expect(json(type, '1800-01-01 00:00:00+00:53:28')).toBe('"1799-12-31T23:06:32.000000Z"');
  });

  test('"char" beyond ASCII is an octal escape, whichever version of Postgres printed it', () => {
    expect(json(builtin('char'), Buffer.from([0xff]))).toBe('"\\\\377"');
    expect(json(builtin('char'), '\\377')).toBe('"\\\\377"');
    expect(json(builtin('char'), Buffer.from([0x7f]))).toBe('"\x7f"');
    expect(json(builtin('_char'), Buffer.from('{a,\xe4}', 'latin1'))).toBe('["a","\\\\344"]');
  });

  test('json keeps its spelling on one line', () => {
    expect(json(builtin('json'), '{"a":\t1.0,\r\n "b":"x\\ny"}')).toBe('{"a": 1.0,   "b":"x\\ny"}');
  });
});
