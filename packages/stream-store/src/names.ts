import {
  ACCESS_TOKEN_ID_BYTES_MAX,
  BASIN_NAME_BYTES_MAX,
  BASIN_NAME_BYTES_MIN,
  REQUEST_TOKEN_BYTES_MAX,
  STREAM_NAME_BYTES_MAX,
} from './limits.ts';

/*
 * What names the API takes. Each check returns the reason a name is refused, or null; which error code that becomes
 * depends on where the name was (path, query, header, body), so the HTTP surface decides it.
 */

const BASIN_ALPHABET = /^[a-z0-9-]*$/;
const LETTER_OR_DIGIT = /^[a-z0-9]$/;

export function checkBasinName(name: string): string | null {
  if (name.length < BASIN_NAME_BYTES_MIN || name.length > BASIN_NAME_BYTES_MAX) {
    return `a basin name has ${BASIN_NAME_BYTES_MIN} to ${BASIN_NAME_BYTES_MAX} characters`;
  }
  if (!BASIN_ALPHABET.test(name)) return 'a basin name consists of lower-case letters, digits and hyphens';
  if (!LETTER_OR_DIGIT.test(name[0]!) || !LETTER_OR_DIGIT.test(name.at(-1)!)) {
    return 'a basin name begins and ends with a letter or digit';
  }
  return null;
}

/** For `prefix` and `start_after` of basin lists. */
export function checkBasinPrefix(prefix: string): string | null {
  if (prefix.length > BASIN_NAME_BYTES_MAX) return `a basin prefix has at most ${BASIN_NAME_BYTES_MAX} characters`;
  if (!BASIN_ALPHABET.test(prefix)) return 'a basin prefix consists of lower-case letters, digits and hyphens';
  if (prefix !== '' && !LETTER_OR_DIGIT.test(prefix[0]!)) return 'a basin prefix begins with a letter or digit';
  return null;
}

export function checkStreamName(name: string): string | null {
  return checkText(name, 'a stream name', STREAM_NAME_BYTES_MAX);
}

/** For `prefix` and `start_after` of stream lists. */
export function checkStreamPrefix(prefix: string): string | null {
  return checkPrefix(prefix, 'a stream prefix', STREAM_NAME_BYTES_MAX);
}

export function checkAccessTokenId(id: string): string | null {
  return checkText(id, 'an access token id', ACCESS_TOKEN_ID_BYTES_MAX);
}

/** For `prefix` and `start_after` of access token lists. */
export function checkAccessTokenPrefix(prefix: string): string | null {
  return checkPrefix(prefix, 'an access token prefix', ACCESS_TOKEN_ID_BYTES_MAX);
}

export function checkRequestToken(token: string): string | null {
  return Buffer.byteLength(token) > REQUEST_TOKEN_BYTES_MAX
    ? `a request token has at most ${REQUEST_TOKEN_BYTES_MAX} bytes`
    : null;
}

function checkText(text: string, what: string, bytesMax: number): string | null {
  if (text === '') return `${what} must not be empty`;
  if (text === '.' || text === '..') return `${what} must not be "." or ".."`;
  return checkPrefix(text, what, bytesMax);
}

function checkPrefix(text: string, what: string, bytesMax: number): string | null {
  if (Buffer.byteLength(text) > bytesMax) return `${what} has at most ${bytesMax} bytes of UTF-8`;
  // As clients check it before they ask.
  if (text.includes('\0')) return `${what} must not contain a NUL byte`;
  // A lone surrogate has no UTF-8 form: two names would become one on disk.
  return text.isWellFormed() ? null : `${what} must be well-formed Unicode`;
}
