import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { S2Error } from '../s2-error.ts';
import { asString, asU64, type Json, parseJson } from './json.ts';

const parse = (text: string) => parseJson(Buffer.from(text));

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return error instanceof S2Error ? error.code : 'not an S2Error';
  }
  return 'none';
}

describe('JSON', () => {
  it('keeps every u64 exact', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }), (value) => {
        expect(asU64((parse(`{"n":${value}}`) as { n: Json }).n, 'n')).toBe(value);
      }),
    );
    expect(asU64(parse('18446744073709551615'), 'n')).toBe(18446744073709551615n);
    expect(asU64(parse('9007199254740993'), 'n')).toBe(9007199254740993n);
  });

  it.each(['18446744073709551616', '-1', '1.5', '1e300', '12345678901234567890.5', '"1"', 'null', 'true'])(
    'does not take %s for a u64',
    (text) => {
      expect(codeOf(() => asU64(parse(text), 'n'))).toBe('bad_json');
    },
  );

  it('reads values as the standard parser does when no long number is around', () => {
    fc.assert(
      fc.property(fc.jsonValue({ noUnicodeString: false }), (value) => {
        const text = JSON.stringify(value);
        fc.pre(!/\d{16}/.test(text));
        expect(parse(text)).toEqual(JSON.parse(text));
      }),
    );
  });

  it('never quotes what it could not read', () => {
    try {
      parse('{"secret-value');
      expect.unreachable();
    } catch (error) {
      expect((error as S2Error).message).not.toContain('secret');
    }
  });

  it('refuses bytes that are not UTF-8 and strings that have no UTF-8 form', () => {
    expect(codeOf(() => parseJson(Buffer.from([0x22, 0xff, 0x22])))).toBe('bad_json');
    expect(codeOf(() => asString(parse('"\\ud800"'), 's'))).toBe('bad_json');
  });

  it('turns any bytes into a value or bad_json', () => {
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        expect(['none', 'bad_json']).toContain(codeOf(() => parseJson(Buffer.from(bytes))));
      }),
    );
  });
});
