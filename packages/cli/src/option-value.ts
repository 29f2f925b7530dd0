import { isIP } from 'node:net';
import { parseDuration } from '@millrace/api/duration';
import { InvalidArgumentError, type Option } from 'commander';
import { parseBasinUri, parsePrefixUri, parseStreamUri } from './s2-uri.ts';

/** Parsers of option and argument values. A refusal is a usage error (exit code 2). */

function usage<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      throw new InvalidArgumentError((error as Error).message);
    }
  };
}

export const streamUri = usage(parseStreamUri);
export const basinUri = usage(parseBasinUri);
export const prefixUri = usage(parsePrefixUri);

export const wholeNumber = usage((text: string): number => {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) throw new Error('expected a whole number below 2^53');
  return value;
});

export const portNumber = usage((text: string): number => {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value > 65_535) throw new Error('expected a port: 0 to 65535, 0 for a free one');
  return value;
});

/** Bytes: a number with an optional unit, binary. */
export const byteSize = usage((text: string): number => {
  const match = /^(\d+)(B|KiB|MiB|GiB|TiB)?$/.exec(text);
  if (match === null) throw new Error('expected a size such as 512MiB or 16GiB');
  return Number(match[1]) * 1024 ** ['B', 'KiB', 'MiB', 'GiB', 'TiB'].indexOf(match[2] ?? 'B');
});

/** Milliseconds. */
export const duration = usage((text: string): number => {
  const value = parseDuration(text);
  if (value === null) throw new Error('expected a duration such as 7d, 1h, 90s or 5ms');
  return value;
});

export const trueOrFalse = usage((text: string): boolean => {
  if (text !== 'true' && text !== 'false') throw new Error('expected true or false');
  return text === 'true';
});

/** `infinite`, or seconds. */
export const retentionPolicy = usage((text: string): number | 'infinite' => {
  if (text === 'infinite') return 'infinite';
  const value = parseDuration(text);
  if (value === null || value < 1000) throw new Error('expected a duration of at least 1s such as 7d, or infinite');
  return Math.floor(value / 1000);
});

export const rfc3339 = usage((text: string): Date => {
  const value = new Date(text);
  if (!/^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d/.test(text) || Number.isNaN(value.getTime())) {
    throw new Error('expected a time such as 2027-01-31T12:00:00Z');
  }
  return value;
});

/** Names, addresses and CIDR blocks: see NetworkPolicy. */
export const addressList = usage((text: string): readonly string[] => {
  const entries = text.split(',').map((entry) => entry.trim());
  if (!entries.every(isHostOrNetwork)) {
    throw new Error('expected hosts, addresses or networks such as *.internal,10.0.0.0/8,::1');
  }
  return entries;
});

function isHostOrNetwork(text: string): boolean {
  const [address, prefix, ...more] = text.split('/');
  if (prefix === undefined) return isIP(text) !== 0 || /^(\*\.)?[A-Za-z0-9._-]+$/.test(text);
  const bits = { 0: -1, 4: 32, 6: 128 }[isIP(address!)]!;
  return more.length === 0 && /^\d{1,3}$/.test(prefix) && Number(prefix) <= bits;
}

export type RecordFormat = 'text' | 'json' | 'json-base64';

const FORMATS: Record<string, RecordFormat> = {
  '': 'text',
  text: 'text',
  json: 'json',
  raw: 'json',
  'json-base64': 'json-base64',
  base64: 'json-base64',
  'json-binsafe': 'json-base64',
};

export const recordFormat = usage((text: string): RecordFormat => {
  const format = FORMATS[text];
  if (format === undefined) throw new Error('expected text, json or json-base64');
  return format;
});

/** Among options of one group at most one is given. */
export function exclusive(options: readonly Option[]): readonly Option[] {
  for (const option of options) {
    option.conflicts(options.filter((other) => other !== option).map((other) => other.attributeName()));
  }
  return options;
}
