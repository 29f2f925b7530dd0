import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MillraceError } from './error.ts';
import { isOfConnection, kindOf, placesOf, unforeseen } from './unforeseen.ts';

class ReplyError extends Error {}

test('it tells class, code, cause and place, and keeps the error', () => {
  const reset = Object.assign(new Error('socket hang up'), { code: 'ECONNRESET' });
  const error = new TypeError('cannot read of row 7', {
    cause: new AggregateError([new ReplyError('x', { cause: reset })]),
  });
  const told = unforeseen(error);
  expect(told).toMatchObject({ code: 'internal', cause: error });
  expect(told.detail).toMatch(
    /^TypeError, caused by AggregateError, caused by ReplyError, caused by Error \(ECONNRESET\), at packages\/core\/src\/unforeseen\.test\.ts:\d+:\d+/,
  );
});

test('a connection that fails is told from everything else, whoever wraps it', () => {
  const coded = (code: unknown) => Object.assign(new Error('x'), { code });
  const wrapped = (code: unknown) => new TypeError('fetch failed', { cause: new AggregateError([coded(code)]) });
  for (const code of ['ECONNRESET', 'ECONNREFUSED', 'EPIPE', 'ETIMEDOUT', 'EHOSTUNREACH', 'ENETDOWN', 'EAI_AGAIN'])
    expect(isOfConnection(wrapped(code))).toBe(true);
  for (const code of ['ENOTFOUND', 'UND_ERR_SOCKET', 'UND_ERR_HEADERS_TIMEOUT', 'ERR_STREAM_PREMATURE_CLOSE'])
    expect(isOfConnection(coded(code))).toBe(true);
  for (const code of ['ENOENT', 'ENOSPC', 'ERR_INVALID_ARG_TYPE', 'UND_ERR_INVALID_ARG', '42P01', 7, undefined])
    expect(isOfConnection(wrapped(code))).toBe(false);
  for (const error of ['ECONNRESET', null, undefined, { cause: coded('ECONNRESET') }])
    expect(isOfConnection(error)).toBe(false);
});

test('a coded error is told as it is', () => {
  const error = new MillraceError('sink_unavailable');
  expect(unforeseen(error)).toBe(error);
});

test('what is thrown need not be an error', () => {
  expect(unforeseen('a-value').detail).toBe('string.');
  expect(unforeseen({ code: 'X1' }).detail).toBe('object.');
  expect(unforeseen(undefined).detail).toBe('undefined.');
  expect(kindOf(null)).toBe('null');
});

test('places are of this program and its libraries, without the folders of the machine', () => {
  const error = new Error('x');
  error.stack = [
    'Error: x',
    '    at Redis.send (/srv/app/node_modules/ioredis/built/Redis.js:12:3)',
    '    at async file:///opt/millrace/packages/sinks/src/redis.ts:4:5',
    '    at node:internal/process/task_queues:95:5',
    '    at /srv/own.mjs:1:2',
  ].join('\n');
  expect(placesOf(error)).toEqual([
    'node_modules/ioredis/built/Redis.js:12:3',
    'packages/sinks/src/redis.ts:4:5',
    'own.mjs:1:2',
  ]);
});

test('nothing of its text is told, whatever it looks like, in whichever field it stands', () => {
  const secret = fc.stringMatching(/^[A-Za-z0-9]{3,8}$/).map((text) => `s3cret${text}!`);
  const shape = fc.constantFrom(
    (value: string) => value,
    (value: string) => `first\n    at ${value} (/node_modules/${value}.js:1:2)`,
    (value: string) => `first\n    at /${value}.js:1:2\n`,
    (value: string) => `Error: ${value}`,
  );
  fc.assert(
    fc.property(secret, shape, fc.boolean(), (value, shaped, named) => {
      const error = new Error(shaped(value), { cause: new Error(value) });
      if (named) error.name = `${value}Error`;
      Object.assign(error, { code: value, detail: value });
      expect(unforeseen(error).message).not.toContain('s3cret');
    }),
  );
});
