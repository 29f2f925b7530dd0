import type http from 'node:http';
import { S2Error } from '../s2-error.ts';
import type { RecordFormat } from './append-input.ts';

/** What a request's headers say about the bytes that follow and the bytes that are wanted back. */

export type MediaType = 'json' | 'protobuf' | 's2s' | 'event-stream' | 'other' | null;

/** Only the first type counts, without its parameters. null: the header is absent. */
export function mediaType(header: string | undefined): MediaType {
  if (header === undefined || header === '') return null;
  switch (header) {
    case 'application/json':
      return 'json';
    case 'application/protobuf':
      return 'protobuf';
    case 's2s/proto':
      return 's2s';
  }
  const end = header.search(/[;,]/);
  const mime = (end < 0 ? header : header.slice(0, end)).trim().toLowerCase();
  switch (mime) {
    case 'application/json':
      return 'json';
    case 'application/protobuf':
    case 'application/x-protobuf':
      return 'protobuf';
    case 's2s/proto':
      return 's2s';
    case 'text/event-stream':
      return 'event-stream';
    default:
      return mime.startsWith('application/') && mime.endsWith('+json') ? 'json' : 'other';
  }
}

export function recordFormat(headers: http.IncomingHttpHeaders): RecordFormat {
  switch (headers['s2-format']) {
    case undefined:
    case 'raw':
    case 'json':
      return 'raw';
    case 'base64':
    case 'json-binsafe':
      return 'base64';
    default:
      throw new S2Error('bad_header', 's2-format has to be raw or base64.');
  }
}

export type Coding = 'zstd' | 'br' | 'gzip' | 'deflate';

/** The first of `preferred` that an Accept-Encoding header takes (`;q=0` refuses one); null: none. */
export function acceptedCoding<const T extends Coding>(
  header: string | string[] | undefined,
  preferred: readonly T[],
): T | null {
  if (header === undefined) return null;
  const accepted = new Set<string>();
  const refused = new Set<string>();
  for (const part of String(header).toLowerCase().split(',')) {
    const [name, ...parameters] = part.split(';');
    const isRefused = parameters.some((parameter) => /^\s*q\s*=\s*0(\.0*)?\s*$/.test(parameter));
    (isRefused ? refused : accepted).add(name!.trim());
  }
  for (const coding of preferred) {
    if (accepted.has(coding) || (accepted.has('*') && !refused.has(coding))) return coding;
  }
  return null;
}
