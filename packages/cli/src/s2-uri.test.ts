import { expect, test } from 'vitest';
import { parseBasinUri, parsePrefixUri, parseStreamUri } from './s2-uri.ts';

test('a stream URI is a basin and everything after the first slash', () => {
  expect(parseStreamUri('s2://my-basin/a')).toEqual({ basin: 'my-basin', stream: 'a' });
  expect(parseStreamUri('s2://my-basin/a/b c/ü')).toEqual({ basin: 'my-basin', stream: 'a/b c/ü' });
  expect(parseStreamUri('s2://my-basin//')).toEqual({ basin: 'my-basin', stream: '/' });
});

test.each([
  ['my-basin/a', 'expected s2://basin/stream'],
  ['s3://my-basin/a', 'the scheme must be s2'],
  ['s2://my-basin', 'the stream is missing'],
  ['s2://my-basin/', 'the stream is missing'],
  ['s2://short/a', '8 to 48 characters'],
  ['s2://My-Basin/a', 'lower-case'],
  ['s2://my-basin/..', 'not "." or ".."'],
  [`s2://my-basin/${'ü'.repeat(257)}`, '1 to 512 bytes'],
])('%s is refused as a stream URI', (text, message) => {
  expect(() => parseStreamUri(text)).toThrow(message);
});

test('basins and prefixes may come with or without the scheme', () => {
  expect(parseBasinUri('my-basin')).toBe('my-basin');
  expect(parseBasinUri('s2://my-basin/')).toBe('my-basin');
  expect(() => parseBasinUri('s2://my-basin/x')).toThrow('expected a basin only');
  expect(parsePrefixUri('my-basin')).toEqual({ basin: 'my-basin' });
  expect(parsePrefixUri('s2://my-basin/orders/')).toEqual({ basin: 'my-basin', prefix: 'orders/' });
  expect(() => parsePrefixUri('my-basin/orders')).toThrow('8 to 48 characters');
});
