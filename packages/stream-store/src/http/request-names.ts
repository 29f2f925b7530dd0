import type http from 'node:http';
import { clampToSafe } from '@millrace/core/u64';
import type { ListRequest, PartialStreamConfig } from '../model.ts';
import {
  checkAccessTokenId,
  checkAccessTokenPrefix,
  checkBasinName,
  checkBasinPrefix,
  checkRequestToken,
  checkStreamName,
  checkStreamPrefix,
} from '../names.ts';
import { type S2Code, S2Error } from '../s2-error.ts';
import type { Access } from './access.ts';
import type { Exchange } from './exchange.ts';
import { parseJsonText } from './json.ts';
import type { Query } from './query.ts';
import { readStreamConfig } from './wire.ts';

/** The names in a request. Which error a bad one is depends on where it stood. */

function checked(name: string, reason: string | null, code: S2Code): string {
  if (reason !== null) throw new S2Error(code, reason);
  return name;
}

function segmentText(segment: string): string {
  if (!segment.includes('%')) return segment;
  try {
    return decodeURIComponent(segment);
  } catch {
    throw new S2Error('bad_path', 'The path is not percent-encoded UTF-8.');
  }
}

export function basinName(segment: string): string {
  const name = segmentText(segment);
  return checked(name, checkBasinName(name), 'bad_path');
}

export function basinNameInBody(name: string): string {
  return checked(name, checkBasinName(name), 'bad_json');
}

/** Of the `s2-basin` header, or without one the first label of a host name. */
export function basinOfRequest(exchange: Exchange): string {
  const header = exchange.headers['s2-basin'];
  if (typeof header === 'string') return checked(header, checkBasinName(header), 'bad_header');
  const host = exchange.host ?? '';
  const dot = host.indexOf('.');
  const label = dot < 0 ? '' : host.slice(0, dot);
  return checked(
    label,
    label === '' || checkBasinName(label) !== null ? 'the s2-basin header is missing' : null,
    'bad_header',
  );
}

/** With the prefix that the client's token puts before every stream name. */
export function streamName(segment: string, access: Access): string {
  const name = segmentText(segment);
  const stored = access.prefixes ? access.withPrefix(name) : name;
  return checked(stored, checkStreamName(name) ?? checkStreamName(stored), 'bad_path');
}

export function streamNameInBody(name: string, access: Access): string {
  const stored = access.withPrefix(name);
  return checked(stored, checkStreamName(name) ?? checkStreamName(stored), 'bad_json');
}

export function accessTokenId(segment: string): string {
  const id = segmentText(segment);
  return checked(id, checkAccessTokenId(id), 'bad_path');
}

export function accessTokenIdInBody(id: string): string {
  return checked(id, checkAccessTokenId(id), 'bad_json');
}

const checkPrefix = {
  basin: checkBasinPrefix,
  stream: checkStreamPrefix,
  'access token': checkAccessTokenPrefix,
};

export function listRequest(query: Query, kind: keyof typeof checkPrefix): ListRequest {
  const prefix = query.text('prefix');
  const startAfter = query.text('start_after');
  const limit = query.u64('limit');
  return {
    prefix: prefix === undefined ? undefined : checked(prefix, checkPrefix[kind](prefix), 'bad_query'),
    startAfter: startAfter === undefined ? undefined : checked(startAfter, checkPrefix[kind](startAfter), 'bad_query'),
    limit: limit === undefined ? undefined : clampToSafe(limit),
  };
}

export function requestToken(exchange: Exchange): string | undefined {
  const token = headerText(exchange.headers, 's2-request-token');
  return token === undefined ? undefined : checked(token, checkRequestToken(token), 'bad_header');
}

/** What a stream that this request creates on the way is to be like. */
export function streamConfigHeader(headers: http.IncomingHttpHeaders): PartialStreamConfig | undefined {
  const text = headerText(headers, 's2-stream-config');
  if (text === undefined) return undefined;
  try {
    return readStreamConfig(parseJsonText(text), 's2-stream-config');
  } catch (error) {
    throw error instanceof S2Error ? new S2Error('bad_header', error.message) : error;
  }
}

export function headerText(headers: http.IncomingHttpHeaders, name: string): string | undefined {
  const value = headers[name];
  return Array.isArray(value) ? value[0] : value;
}
