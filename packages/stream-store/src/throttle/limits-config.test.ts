import { MillraceError } from '@millrace/core/error';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LIMIT_BYTES_PER_SEC_MIN, LIMIT_NAMES, NO_LIMITS, parseLimits } from './limits-config.ts';

function refusal(text: string): string {
  try {
    parseLimits(text);
  } catch (error) {
    if (error instanceof MillraceError && error.code === 'config_invalid') return error.message;
    throw error;
  }
  return 'none';
}

describe('limits as text', () => {
  it('are off unless they are set', () => {
    expect(parseLimits('')).toEqual(NO_LIMITS);
    expect(parseLimits('{}')).toEqual(NO_LIMITS);
    expect(parseLimits('requests-per-sec=off')).toEqual(NO_LIMITS);
  });

  it('take names and values, with units for bytes', () => {
    const limits = parseLimits(
      'append-batches-per-sec=200, append-bytes-per-sec=100MiB\nread-bytes-per-sec=1GiB requests-per-sec=50 ' +
        'basins-max=100,streams-per-basin-max=1000,stored-bytes-max=2TiB',
    );
    expect(limits.rates).toEqual({
      appendBatchesPerSec: 200,
      appendBytesPerSec: 100 * 2 ** 20,
      readBytesPerSec: 2 ** 30,
    });
    expect(limits.requestsPerSec).toBe(50);
    expect(limits.quotas).toEqual({ basinsMax: 100, streamsPerBasinMax: 1000, storedBytesMax: 2 * 2 ** 40 });
    expect(LIMIT_NAMES).toContain('append-bytes-per-sec');
  });

  it('take rules of streams and tokens as JSON', () => {
    const limits = parseLimits(
      JSON.stringify({
        append_bytes_per_sec: '1MiB',
        streams: [
          { basin: 'some-basin', prefix: 'logs/', read_bytes_per_sec: 1_048_576, append_bytes_per_sec: null },
          { basin: 'some-basin', stream: 'one', append_batches_per_sec: 5 },
        ],
        tokens: { reader: { requests_per_sec: 10 }, free: { requests_per_sec: null } },
      }),
    );
    expect(limits.streams).toEqual([
      {
        basin: 'some-basin',
        match: { prefix: 'logs/' },
        rates: { readBytesPerSec: 1_048_576, appendBytesPerSec: null },
      },
      { basin: 'some-basin', match: { stream: 'one' }, rates: { appendBatchesPerSec: 5 } },
    ]);
    expect([...limits.tokens]).toEqual([
      ['reader', { requestsPerSec: 10 }],
      ['free', { requestsPerSec: null }],
    ]);
  });

  it('are refused with the name of what is wrong', () => {
    expect(refusal('append-batches=200')).toContain('"append-batches"');
    expect(refusal('basins-max')).toContain('"basins-max"');
    expect(refusal('basins-max=1 basins-max=2')).toContain('twice');
    expect(refusal('basins-max=0')).toContain('basins_max');
    expect(refusal('basins-max=1MiB')).toContain('whole number');
    expect(refusal('stored-bytes-max=lots')).toContain('stored_bytes_max');
    expect(refusal(`read-bytes-per-sec=${LIMIT_BYTES_PER_SEC_MIN - 1}`)).toContain(String(LIMIT_BYTES_PER_SEC_MIN));
    expect(refusal('{"requests_per_sec": 1.5}')).toContain('requests_per_sec');
    expect(refusal('{"speed": 1}')).toContain('"speed"');
    expect(refusal('{"streams": [{"basin": "b", "stream": "s", "prefix": "p"}]}')).toContain('streams[0]');
    expect(refusal('{"streams": [{"basin": "b", "stream": "s", "basins_max": 1}]}')).toContain('"basins_max"');
    expect(refusal('{"tokens": {"a": {}}}')).toContain('tokens.a');
    expect(refusal('{')).toContain('JSON');
  });

  it('end in a value or config_invalid, whatever the text', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.json().map((json) => `{"streams":${json},"tokens":${json}}`),
        ),
        (text) => {
          expect(typeof refusal(text)).toBe('string');
        },
      ),
      { seed: 3 },
    );
  });
});
