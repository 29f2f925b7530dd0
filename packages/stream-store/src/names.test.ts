import { expect, test } from 'vitest';
import {
  checkAccessTokenId,
  checkAccessTokenPrefix,
  checkBasinName,
  checkBasinPrefix,
  checkRequestToken,
  checkStreamName,
  checkStreamPrefix,
} from './names.ts';

test('basin names are 8 to 48 of a-z, 0-9 and hyphen, with no hyphen at the edges', () => {
  for (const good of ['abcdefgh', '01234567', 'a-b-c-d-', 'a'.repeat(48)].map((n) => n.replace(/-$/, 'x'))) {
    expect(checkBasinName(good)).toBeNull();
  }
  for (const bad of ['abcdefg', 'a'.repeat(49), '-abcdefg', 'abcdefg-', 'Abcdefgh', 'abc_defg', 'abcdéfgh', '']) {
    expect(checkBasinName(bad)).not.toBeNull();
  }
});

test('basin prefixes may be short and end with a hyphen, but not begin with one', () => {
  for (const good of ['', 'a', 'ab-', '0']) expect(checkBasinPrefix(good)).toBeNull();
  for (const bad of ['-a', 'A', 'a'.repeat(49), 'a b']) expect(checkBasinPrefix(bad)).not.toBeNull();
});

test('stream names are 1 to 512 bytes of UTF-8 other than . and ..', () => {
  for (const good of ['a', 'a/b c', '...', 'é'.repeat(256), ' ']) expect(checkStreamName(good)).toBeNull();
  for (const bad of ['', '.', '..', `${'é'.repeat(256)}a`, '\ud800', 'a\0b'])
    expect(checkStreamName(bad)).not.toBeNull();
  expect(checkStreamPrefix('')).toBeNull();
  expect(checkStreamPrefix('..')).toBeNull();
  expect(checkStreamPrefix('a'.repeat(513))).not.toBeNull();
});

test('access token ids are 1 to 96 bytes, request tokens at most 36', () => {
  expect(checkAccessTokenId('a'.repeat(96))).toBeNull();
  for (const bad of ['', '.', '..', 'a'.repeat(97), 'a\0b']) expect(checkAccessTokenId(bad)).not.toBeNull();
  expect(checkAccessTokenPrefix('')).toBeNull();
  expect(checkRequestToken('a'.repeat(36))).toBeNull();
  expect(checkRequestToken('é'.repeat(19))).not.toBeNull();
});
