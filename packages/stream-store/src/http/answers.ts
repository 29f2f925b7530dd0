import { BODY_BYTES_MAX } from '../limits.ts';
import { S2Error } from '../s2-error.ts';
import { compress, decodeBody } from './content-coding.ts';
import type { Call } from './context.ts';
import type { Exchange, ResponseHeaders } from './exchange.ts';
import { type Json, parseJson } from './json.ts';
import { COMPRESSION_BYTES_MIN } from './limits.ts';
import { acceptedCoding, mediaType } from './negotiation.ts';

/** Bodies in and out of unary requests. */

/** Proxies must neither keep nor gather what a session sends. */
export const SESSION_HEADERS = { 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no' };

export async function readWholeBody({ context, exchange }: Call): Promise<Buffer> {
  const bytes = await context.bodies.read(exchange, BODY_BYTES_MAX);
  const coding = exchange.headers['content-encoding'];
  return coding === undefined ? bytes : decodeBody(coding, bytes, BODY_BYTES_MAX);
}

/** A JSON body that has to be there. */
export async function readJsonBody(call: Call): Promise<Json> {
  requireJsonType(call.exchange);
  return parseJson(await readWholeBody(call));
}

/** A JSON body that may be missing; null then, as for a literal null. */
export async function readOptionalJsonBody(call: Call): Promise<Json> {
  const bytes = await readWholeBody(call);
  if (bytes.length === 0) return null;
  requireJsonType(call.exchange);
  return parseJson(bytes);
}

export function requireJsonType(exchange: Exchange): void {
  if (mediaType(exchange.headers['content-type']) !== 'json') {
    throw new S2Error('bad_json', 'The content type has to be application/json.');
  }
}

export function answerJson(
  call: Call,
  status: number,
  json: string,
  headers: ResponseHeaders = {},
): Promise<void> | void {
  headers['content-type'] = 'application/json';
  return answer(call, status, json, headers);
}

export function answerProtobuf(call: Call, status: number, message: Uint8Array): Promise<void> | void {
  return answer(call, status, message, { 'content-type': 'application/protobuf' });
}

/** Large answers are compressed as the client asks. */
function answer(
  { exchange }: Call,
  status: number,
  body: string | Uint8Array,
  headers: ResponseHeaders,
): Promise<void> | void {
  if (body.length > COMPRESSION_BYTES_MIN) {
    const coding = acceptedCoding(exchange.headers['accept-encoding'], ['zstd', 'br', 'gzip', 'deflate']);
    headers.vary = headers.vary === undefined ? 'accept-encoding' : `${headers.vary}, accept-encoding`;
    if (coding !== null) {
      return compress(coding, typeof body === 'string' ? Buffer.from(body, 'utf8') : body).then((bytes) => {
        headers['content-encoding'] = coding;
        exchange.respond(status, headers, bytes);
      });
    }
  }
  exchange.respond(status, headers, body);
}
