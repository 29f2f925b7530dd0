import { isUtf8 } from 'node:buffer';
import { assert } from '@millrace/core/assert';
import type { ByteWriter } from '@millrace/core/byte-writer';
import { clampToSafe } from '@millrace/core/u64';
import { scanAppendRecords } from '../append-scan.ts';
import { BATCH_RECORDS_MAX, FENCING_TOKEN_BYTES_MAX } from '../limits.ts';
import { type RecordHeader, writeAppendRecord } from '../record-writer.ts';
import { S2Error } from '../s2-error.ts';
import type { AppendInput } from '../store.ts';
import { asArray, asObject, asString, asU64, type Json } from './json.ts';

/** AppendInput as clients send it: protobuf (HOT PATH) and JSON. Both end in scanned records or a coded error. */

export type RecordFormat = 'raw' | 'base64';

/**
 * Reads the two scalar fields and leaves the records where they are: the store's record codec skips the other fields,
 * so the message goes on as it came, without a copy.
 */
export function readProtoAppendInput(message: Buffer): AppendInput {
  let matchSeqNum: number | undefined;
  let fencingToken: string | undefined;
  let at = 0;
  const end = message.length;
  while (at < end) {
    const tag = message[at]!;
    if (tag === TAG_RECORDS) {
      // One- to four-byte lengths inline; a record is far below 2^28 bytes.
      let byte = 0x80;
      let length = 0;
      at++;
      for (let shift = 0; byte >= 0x80; shift += 7) {
        if (at >= end || shift > 21) throw malformed();
        byte = message[at++]!;
        length |= (byte & 0x7f) << shift;
      }
      if (length > end - at) throw malformed();
      at += length;
    } else if (tag === TAG_MATCH_SEQ_NUM) {
      let value = 0n;
      let byte = 0x80;
      at++;
      for (let shift = 0n; byte >= 0x80; shift += 7n) {
        if (at >= end || shift > 63n) throw malformed();
        byte = message[at++]!;
        value |= BigInt(byte & 0x7f) << shift;
      }
      matchSeqNum = clampToSafe(BigInt.asUintN(64, value));
    } else if (tag === TAG_FENCING_TOKEN) {
      // Longer than a token may be, so one length byte; a longer token is refused below, whatever its length says.
      const length = message[at + 1];
      if (length === undefined) throw malformed();
      if (length > FENCING_TOKEN_BYTES_MAX) throw tokenTooLong();
      at += 2;
      if (length > end - at) throw malformed();
      const bytes = message.subarray(at, at + length);
      if (!isUtf8(bytes)) throw malformed();
      fencingToken = bytes.toString('utf8');
      at += length;
    } else {
      at = skipUnknown(message, at);
    }
  }
  return { records: message, scan: scanAppendRecords(message), matchSeqNum, fencingToken };
}

const TAG_RECORDS = 0x0a;
const TAG_MATCH_SEQ_NUM = 0x10;
const TAG_FENCING_TOKEN = 0x1a;

/** Steps over a field of a number we do not know. A known number with another wire type is malformed. */
function skipUnknown(message: Buffer, start: number): number {
  let at = start;
  const [tag, afterTag] = varint(message, at);
  at = afterTag;
  const field = tag >> 3n;
  if (field === 0n || field <= 3n || field > 0x1fff_ffffn) throw malformed();
  switch (Number(tag & 7n)) {
    case 0:
      return varint(message, at)[1];
    case 1:
      at += 8;
      break;
    case 2: {
      const [length, afterLength] = varint(message, at);
      if (length > BigInt(message.length)) throw malformed();
      at = afterLength + Number(length);
      break;
    }
    case 5:
      at += 4;
      break;
    default:
      // Groups left protobuf long ago; no S2 message ever had one.
      throw malformed();
  }
  if (at > message.length) throw malformed();
  return at;
}

function varint(message: Buffer, start: number): readonly [value: bigint, end: number] {
  let value = 0n;
  let at = start;
  for (let shift = 0n; shift < 70n; shift += 7n) {
    const byte = message[at++];
    if (byte === undefined) throw malformed();
    value |= BigInt(byte & 0x7f) << shift;
    if (byte < 0x80) return [value, at];
  }
  throw malformed();
}

function malformed(): S2Error {
  return new S2Error('bad_proto', 'The body is not an AppendInput message.');
}

function tokenTooLong(): S2Error {
  return new S2Error('invalid', `A fencing token has at most ${FENCING_TOKEN_BYTES_MAX} bytes.`);
}

/** `writer` is scratch space: what it holds belongs to the returned input until the append was handed over. */
export function readJsonAppendInput(json: Json, format: RecordFormat, writer: ByteWriter): AppendInput {
  const fields = asObject(json, 'The body');
  const records = asArray(fields.records, 'records');
  const match = fields.match_seq_num;
  const token = fields.fencing_token;
  const matchSeqNum = match === undefined || match === null ? undefined : asU64(match, 'match_seq_num');
  const fencingToken = token === undefined || token === null ? undefined : asString(token, 'fencing_token');
  if (fencingToken !== undefined && Buffer.byteLength(fencingToken) > FENCING_TOKEN_BYTES_MAX) throw tokenTooLong();
  if (records.length > BATCH_RECORDS_MAX) {
    throw new S2Error('invalid', `A batch has at most ${BATCH_RECORDS_MAX} records.`);
  }
  assert(writer.length === 0, 'a JSON append starts with an empty writer');
  for (const json of records) {
    const record = asObject(json, 'Every one of records');
    const timestamp = record.timestamp;
    writeAppendRecord(writer, {
      timestamp: timestamp === undefined || timestamp === null ? undefined : asU64(timestamp, 'timestamp'),
      headers:
        record.headers === undefined || record.headers === null ? NO_HEADERS : readHeaders(record.headers, format),
      body: record.body === undefined ? EMPTY : readBytes(record.body, 'body', format),
    });
  }
  const bytes = writer.view();
  return {
    records: bytes,
    scan: scanAppendRecords(bytes),
    matchSeqNum: matchSeqNum === undefined ? undefined : clampToSafe(matchSeqNum),
    fencingToken,
  };
}

const EMPTY = Buffer.alloc(0);
const NO_HEADERS: readonly RecordHeader[] = [];

function readHeaders(json: Json, format: RecordFormat): RecordHeader[] {
  return asArray(json, 'headers').map((pair) => {
    const [name, value, ...more] = asArray(pair, 'Every one of headers');
    if (more.length > 0) throw new S2Error('bad_json', 'Every one of headers has to be a pair of strings.');
    return { name: readBytes(name, 'A header name', format), value: readBytes(value, 'A header value', format) };
  });
}

function readBytes(json: Json | undefined, where: string, format: RecordFormat): Buffer {
  const text = asString(json, where);
  if (format === 'raw') return Buffer.from(text, 'utf8');
  const bytes = decodeBase64(text);
  if (bytes === null) throw new S2Error('invalid', `${where} is not base64.`);
  return bytes;
}

/** Strict: standard alphabet, padded, no stray bits. null otherwise. Node's own decoder takes anything. */
export function decodeBase64(text: string): Buffer | null {
  const bytes = Buffer.from(text, 'base64');
  return bytes.toString('base64') === text ? bytes : null;
}
