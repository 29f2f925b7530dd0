import { describe, expect, test } from 'vitest';
import { resolveTarget } from './client.ts';
import { readInputOf } from './commands/read.ts';

const LOCAL = 'http://127.0.0.1:8080';

describe('the store to talk to', () => {
  test('is the local one unless a flag or the environment says otherwise', () => {
    expect(resolveTarget({}, {})).toEqual({
      account: LOCAL,
      basin: LOCAL,
      token: 'none',
      tokenGiven: false,
      compression: 'none',
      trustsAnybody: false,
    });
    expect(resolveTarget({ endpoint: 'http://a:1' }, { MILLRACE_ENDPOINT: 'http://b:2' }).account).toBe('http://a:1');
    expect(resolveTarget({}, { MILLRACE_ENDPOINT: 'http://b:2', S2_ACCOUNT_ENDPOINT: 'x' }).basin).toBe('http://b:2');
    expect(resolveTarget({}, { MILLRACE_ENDPOINT: '' }).account).toBe(LOCAL);
    expect(resolveTarget({}, { S2_ACCOUNT_ENDPOINT: 'a.s2.dev', S2_BASIN_ENDPOINT: '{basin}.b.s2.dev' })).toMatchObject(
      {
        account: 'https://a.s2.dev',
        basin: 'https://{basin}.b.s2.dev',
      },
    );
  });

  test('takes loopback hosts without a scheme as http', () => {
    for (const host of ['localhost:8080', '127.0.0.1:1', '[::1]:1']) {
      expect(resolveTarget({ endpoint: host }, {}).account).toBe(`http://${host}`);
    }
  });

  test('is not guessed from half of the two S2 variables', () => {
    for (const env of [{ S2_ACCOUNT_ENDPOINT: 'a' }, { S2_BASIN_ENDPOINT: 'b' }]) {
      expect(() => resolveTarget({}, env)).toThrow('set together');
    }
  });

  test('gets the token of the flag before that of the environment', () => {
    expect(resolveTarget({}, { S2_ACCESS_TOKEN: 'e' }).token).toBe('e');
    expect(resolveTarget({ token: 'f' }, { S2_ACCESS_TOKEN: 'e' }).token).toBe('f');
  });
});

describe('settings that are kept', () => {
  const kept = { endpoint: 'https://kept:1', access_token: 'kept', compression: 'gzip', ssl_no_verify: 'true' };

  test('come after flags and the environment', () => {
    expect(resolveTarget({}, {}, kept)).toEqual({
      account: 'https://kept:1',
      basin: 'https://kept:1',
      token: 'kept',
      tokenGiven: true,
      compression: 'gzip',
      trustsAnybody: true,
    });
    const env = { MILLRACE_ENDPOINT: 'https://env:1', S2_ACCESS_TOKEN: 'env', S2_COMPRESSION: 'zstd' };
    expect(resolveTarget({}, { ...env, S2_SSL_NO_VERIFY: 'false' }, kept)).toMatchObject({
      account: 'https://env:1',
      token: 'env',
      compression: 'zstd',
      trustsAnybody: false,
    });
    const pair = { S2_ACCOUNT_ENDPOINT: 'https://a:1', S2_BASIN_ENDPOINT: 'https://b:1' };
    expect(resolveTarget({}, pair, kept)).toMatchObject({ account: 'https://a:1', basin: 'https://b:1' });
  });

  test('are checked where they are used', () => {
    expect(() => resolveTarget({}, {}, { compression: 'brotli' })).toThrow('none, gzip, zstd');
    expect(() => resolveTarget({}, {}, { account_endpoint: 'https://a:1' })).toThrow('set together');
  });
});

test('a read starts at the first record unless told otherwise', () => {
  const base = { format: 'text', output: '-' } as const;
  expect(readInputOf(base, 0)).toEqual({ start: { from: { seqNum: 0 } }, stop: { limits: {} } });
  expect(readInputOf({ ...base, tailOffset: 3, count: 2, bytes: 9, until: 7 }, 0)).toEqual({
    start: { from: { tailOffset: 3 } },
    stop: { limits: { count: 2, bytes: 9 }, untilTimestamp: 7 },
  });
  expect(readInputOf({ ...base, timestamp: 5 }, 0).start).toEqual({ from: { timestamp: 5 } });
  expect(readInputOf({ ...base, ago: 1000 }, 5000).start).toEqual({ from: { timestamp: 4000 } });
  expect(readInputOf({ ...base, ago: 9000 }, 5000).start).toEqual({ from: { timestamp: 0 } });
});
