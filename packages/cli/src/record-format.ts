import type { AppendRecord, ReadRecord } from '@s2-dev/streamstore';
import type { RecordFormat } from './option-value.ts';

/** Records as lines of text: what `read` and `tail` print and `append` takes. */

export type BytesRecord = ReadRecord<'bytes'>;

export function meteredBytes(record: BytesRecord): number {
  let bytes = 8 + 2 * record.headers.length + record.body.length;
  for (const [name, value] of record.headers) bytes += name.length + value.length;
  return bytes;
}

/** Command records have exactly one header, whose name is empty. */
export function isCommand(record: BytesRecord): boolean {
  return record.headers.length === 1 && record.headers[0]![0].length === 0;
}

/** `new fencing token "x" // 5 @ 1700000000000` */
export function describeCommand(record: BytesRecord): string {
  const command = utf8(record.headers[0]![1]);
  let text = 'unknown command';
  if (command === 'fence') text = `new fencing token "${utf8(record.body)}"`;
  else if (command === 'trim' && record.body.length === 8)
    text = `trim to ${Buffer.from(record.body).readBigUInt64BE()}`;
  return `${text} // ${record.seqNum} @ ${record.timestamp.getTime()}`;
}

/** One line without its newline. Text is lossy where the body is not UTF-8; json-base64 never is. */
export function formatRecord(record: BytesRecord, format: RecordFormat): string {
  if (format === 'text') return utf8(record.body);
  const encode = format === 'json' ? utf8 : base64;
  return JSON.stringify({
    seq_num: record.seqNum,
    timestamp: record.timestamp.getTime(),
    ...(record.headers.length === 0
      ? {}
      : { headers: record.headers.map(([name, value]) => [encode(name), encode(value)]) }),
    ...(record.body.length === 0 ? {} : { body: encode(record.body) }),
  });
}

function utf8(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
}

/** What a line of input must be, with the SDK's constructor passed in so that the SDK loads only when needed. */
export type MakeRecord = (typeof AppendRecord)['bytes'];

/** Throws an Error that says what is wrong with the line. */
export function parseRecord(line: Uint8Array, format: RecordFormat, make: MakeRecord): AppendRecord {
  if (format === 'text') return make({ body: line });
  let value: unknown;
  try {
    value = JSON.parse(utf8(line));
  } catch {
    throw new Error('not valid JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('not a JSON object');
  for (const key of Object.keys(value)) {
    if (!['timestamp', 'headers', 'body', 'seq_num'].includes(key)) throw new Error(`unknown key "${key}"`);
  }
  const { timestamp, headers = [], body = '' } = value as Record<string, unknown>;
  if (timestamp !== undefined && !(Number.isSafeInteger(timestamp) && (timestamp as number) >= 0)) {
    throw new Error('timestamp must be whole milliseconds since 1970');
  }
  if (!Array.isArray(headers)) throw new Error('headers must be a list of [name, value]');
  const decode = format === 'json' ? decodeUtf8 : decodeBase64;
  const pairs = headers.map((pair): [Uint8Array, Uint8Array] => {
    if (!Array.isArray(pair) || pair.length !== 2) throw new Error('headers must be a list of [name, value]');
    return [decode(pair[0], 'a header'), decode(pair[1], 'a header')];
  });
  return make({
    body: decode(body, 'body'),
    headers: pairs,
    ...(timestamp === undefined ? {} : { timestamp: timestamp as number }),
  });
}

function decodeUtf8(value: unknown, what: string): Uint8Array {
  if (typeof value !== 'string') throw new Error(`${what} must be text`);
  return Buffer.from(value);
}

function decodeBase64(value: unknown, what: string): Uint8Array {
  if (typeof value !== 'string' || !/^[A-Za-z0-9+/]*={0,2}$/.test(value) || value.length % 4 !== 0) {
    throw new Error(`${what} must be base64`);
  }
  return Buffer.from(value, 'base64');
}
