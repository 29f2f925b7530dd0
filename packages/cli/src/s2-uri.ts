/** `s2://basin/stream`, and the shorter forms that basin and list arguments accept. */

export interface StreamUri {
  readonly basin: string;
  readonly stream: string;
}

export interface PrefixUri {
  readonly basin: string;
  readonly prefix?: string;
}

const BASIN = /^[a-z0-9][a-z0-9-]{6,46}[a-z0-9]$/;
const BASIN_RULE =
  'a basin name has 8 to 48 characters, only lower-case letters, digits and -, and neither starts nor ends with -';

/** Throws an Error whose message says what is wrong. */
export function parseStreamUri(text: string): StreamUri {
  if (!text.includes('://')) throw new Error('expected s2://basin/stream');
  const { basin, prefix: stream } = parsePrefixUri(text);
  if (stream === undefined) throw new Error('the stream is missing: expected s2://basin/stream');
  if (Buffer.byteLength(stream) > 512 || stream === '.' || stream === '..') {
    throw new Error('a stream name has 1 to 512 bytes and is not "." or ".."');
  }
  return { basin, stream };
}

/** `basin` or `s2://basin` */
export function parseBasinUri(text: string): string {
  const { basin, prefix } = parsePrefixUri(text);
  if (prefix !== undefined) throw new Error('expected a basin only: basin or s2://basin');
  return basin;
}

/** `basin`, `s2://basin` or `s2://basin/prefix` */
export function parsePrefixUri(text: string): PrefixUri {
  const scheme = text.indexOf('://');
  if (scheme >= 0 && text.slice(0, scheme) !== 's2') throw new Error('the scheme must be s2: s2://basin/stream');
  const rest = scheme < 0 ? text : text.slice(scheme + 3);
  const slash = scheme < 0 ? -1 : rest.indexOf('/');
  const basin = slash < 0 ? rest : rest.slice(0, slash);
  if (!BASIN.test(basin)) throw new Error(BASIN_RULE);
  const prefix = slash < 0 ? '' : rest.slice(slash + 1);
  return prefix === '' ? { basin } : { basin, prefix };
}
