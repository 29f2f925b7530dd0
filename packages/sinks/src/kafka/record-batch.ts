/**
 * A batch of records as Kafka stores it (record format 2). It is made once and sent again as it is, so that a broker
 * recognizes what it has already.
 * Source: "Record Batch" in Kafka's documentation of its message format.
 *
 * HOT PATH
 */
import { assert } from '@millrace/core/assert';

export interface KafkaRecord {
  readonly key: Buffer | null;
  readonly value: Buffer | null;
  /** Name, value, name, value. */
  readonly headers: readonly Buffer[];
}

/** Which batch of which producer: how a broker tells a repetition from news. */
export interface ProducerStamp {
  readonly id: bigint;
  readonly epoch: number;
  readonly sequence: number;
}

/** Of a producer that does not ask the broker to recognize repetitions. */
export const NO_STAMP: ProducerStamp = { id: -1n, epoch: -1, sequence: -1 };

export const BATCH_OVERHEAD_BYTES = 61;
/** Length, attributes, timestamp and offset deltas, lengths of key and value, number of headers, at most. */
const RECORD_OVERHEAD_BYTES = 5 + 1 + 10 + 5 + 5 + 5 + 5;
const LENGTH_BYTES_MAX = 5;
/** Where the bytes begin that the checksum covers: after it, at the attributes. */
const CHECKED_FROM = 21;
const MAGIC = 2;
const NULL_LENGTH = -1;

/** At least the bytes of the record in a batch. */
export function recordBytesMax({ key, value, headers }: KafkaRecord): number {
  let bytes = RECORD_OVERHEAD_BYTES + (key?.length ?? 0) + (value?.length ?? 0);
  for (let at = 0; at < headers.length; at++) bytes += headers[at]!.length + LENGTH_BYTES_MAX;
  return bytes;
}

/** The records one after the other, which is what is compressed. */
export function encodeRecords(records: readonly KafkaRecord[]): Buffer {
  let bytesMax = 0;
  for (let at = 0; at < records.length; at++) bytesMax += recordBytesMax(records[at]!);
  const into = Buffer.allocUnsafe(bytesMax);
  let end = 0;
  for (let at = 0; at < records.length; at++) end = writeRecord(into, end, records[at]!, at);
  assert(end <= bytesMax, 'a record is at most as long as it was said to be');
  return into.subarray(0, end);
}

export interface BatchEnvelope {
  readonly count: number;
  readonly timestampMs: number;
  readonly stamp: ProducerStamp;
  /** Kafka's number of the compression; 0: none. */
  readonly compression: number;
  readonly crc32c: (bytes: Buffer) => number;
}

/** `records`: of encodeRecords, compressed as `compression` says. */
export function encodeBatch(
  records: Buffer,
  { count, timestampMs, stamp, compression, crc32c }: BatchEnvelope,
): Buffer {
  assert(count > 0, 'a batch has records');
  const batch = Buffer.allocUnsafe(BATCH_OVERHEAD_BYTES + records.length);
  batch.writeBigInt64BE(0n, 0);
  batch.writeInt32BE(batch.length - 12, 8);
  batch.writeInt32BE(-1, 12);
  batch.writeInt8(MAGIC, 16);
  batch.writeInt16BE(compression, CHECKED_FROM);
  batch.writeInt32BE(count - 1, 23);
  const timestamp = BigInt(timestampMs);
  batch.writeBigInt64BE(timestamp, 27);
  batch.writeBigInt64BE(timestamp, 35);
  batch.writeBigInt64BE(stamp.id, 43);
  batch.writeInt16BE(stamp.epoch, 51);
  batch.writeInt32BE(stamp.sequence, 53);
  batch.writeInt32BE(count, 57);
  records.copy(batch, BATCH_OVERHEAD_BYTES);
  batch.writeUInt32BE(crc32c(batch.subarray(CHECKED_FROM)) >>> 0, 17);
  return batch;
}

function writeRecord(into: Buffer, from: number, record: KafkaRecord, offset: number): number {
  const { key, value, headers } = record;
  let length = 1 + 1 + varintBytes(offset) + bytesBytes(key) + bytesBytes(value) + varintBytes(headers.length >> 1);
  for (let at = 0; at < headers.length; at++) length += bytesBytes(headers[at]!);
  let end = writeVarint(into, from, length);
  // Attributes, of which there are none, and the timestamp's distance from the batch's.
  into[end++] = 0;
  into[end++] = 0;
  end = writeVarint(into, end, offset);
  end = writeBytes(into, end, key);
  end = writeBytes(into, end, value);
  end = writeVarint(into, end, headers.length >> 1);
  for (let at = 0; at < headers.length; at++) end = writeBytes(into, end, headers[at]!);
  return end;
}

function bytesBytes(bytes: Buffer | null): number {
  return bytes === null ? 1 : varintBytes(bytes.length) + bytes.length;
}

function writeBytes(into: Buffer, at: number, bytes: Buffer | null): number {
  if (bytes === null) return writeVarint(into, at, NULL_LENGTH);
  const end = writeVarint(into, at, bytes.length);
  into.set(bytes, end);
  return end + bytes.length;
}

/** Of a signed number in zigzag form, seven bits in a byte. */
function varintBytes(value: number): number {
  let left = ((value << 1) ^ (value >> 31)) >>> 0;
  let bytes = 1;
  while (left > 0x7f) {
    left >>>= 7;
    bytes++;
  }
  return bytes;
}

function writeVarint(into: Buffer, at: number, value: number): number {
  let left = ((value << 1) ^ (value >> 31)) >>> 0;
  let end = at;
  while (left > 0x7f) {
    into[end++] = (left & 0x7f) | 0x80;
    left >>>= 7;
  }
  into[end++] = left;
  return end;
}
