import { assert } from '@millrace/core/assert';
import type { ByteWriter } from '@millrace/core/byte-writer';
import type { AccessTokenInfo, BasinConfig, StreamCipher, StreamConfig } from './model.ts';

/*
 * Payloads of journal entries; the first byte is the kind. A checkpoint consists of the same entries. HOT PATH: batches.
 *
 *   BATCH         flags u8 · stream id u48 · arrival ms u48 · count u32 · metered bytes u32 · first seq u64
 *                 · timestamp of the last record u64 · records (SequencedRecord protobuf, as served)
 *   TRIM          stream id u48 · first sequence number to keep u64
 *   CARRY         stream id u48 · state of the stream as of here, for journals whose old segments are deleted
 *   META          JSON of a MetaEntry
 *   STATE_PUT     key length u16 · key · value
 *   STATE_DELETE  key
 */
export const KIND_BATCH = 1;
export const KIND_TRIM = 2;
export const KIND_CARRY = 3;
export const KIND_META = 4;
export const KIND_STATE_PUT = 5;
export const KIND_STATE_DELETE = 6;

export const BATCH_HEADER_BYTES = 38;
const FLAG_COMMANDS = 1;

const TWO_32 = 4_294_967_296;

/** Everything about basins, streams and tokens. An entry states the whole new value, not a difference. */
export type MetaEntry =
  | ({ readonly type: 'basin' } & BasinEntry)
  | { readonly type: 'basin-purged'; readonly name: string }
  | ({ readonly type: 'stream' } & StreamEntry)
  | { readonly type: 'stream-purged'; readonly id: number }
  /** A change of its config made the time until the stream's deletion for being empty begin anew. */
  | { readonly type: 'empty-armed'; readonly id: number; readonly at: number }
  | { readonly type: 'token'; readonly hash: string; readonly info: AccessTokenInfo }
  | { readonly type: 'token-revoked'; readonly id: string }
  | { readonly type: 'root'; readonly hash: string }
  | { readonly type: 'next-stream-id'; readonly id: number };

export interface BasinEntry {
  readonly name: string;
  readonly config: BasinConfig;
  readonly createdAt: number;
  readonly deletedAt: number | null;
  readonly requestKey: string | null;
}

export interface StreamEntry {
  readonly id: number;
  readonly basin: string;
  readonly name: string;
  readonly config: StreamConfig;
  readonly cipher: StreamCipher | null;
  readonly createdAt: number;
  readonly deletedAt: number | null;
  readonly requestKey: string | null;
  /** True for the engine's streams, whose batches are in the log journal. */
  readonly log: boolean;
}

/** What a batch entry says about itself. One object is reused per reader. */
export class BatchHead {
  streamId = 0;
  arrivalMs = 0;
  count = 0;
  meteredBytes = 0;
  firstSeqNum = 0;
  lastTimestamp = 0n;
  hasCommands = false;

  read(payload: Buffer): void {
    this.hasCommands = (payload[1]! & FLAG_COMMANDS) !== 0;
    this.streamId = payload.readUIntBE(2, 6);
    this.arrivalMs = payload.readUIntBE(8, 6);
    this.count = payload.readUInt32BE(14);
    this.meteredBytes = payload.readUInt32BE(18);
    this.firstSeqNum = payload.readUInt32BE(22) * TWO_32 + payload.readUInt32BE(26);
    this.lastTimestamp = payload.readBigUInt64BE(30);
  }
}

/** Writes the head of a batch; the timestamp is set by finishBatch once the records are sequenced. Returns its place. */
export function beginBatch(
  out: ByteWriter,
  streamId: number,
  arrivalMs: number,
  count: number,
  meteredBytes: number,
  firstSeqNum: number,
): number {
  out.reserve(BATCH_HEADER_BYTES);
  const at = out.length;
  const buffer = out.buffer;
  buffer[at] = KIND_BATCH;
  buffer[at + 1] = 0;
  buffer.writeUIntBE(streamId, at + 2, 6);
  buffer.writeUIntBE(arrivalMs, at + 8, 6);
  buffer.writeUInt32BE(count, at + 14);
  buffer.writeUInt32BE(meteredBytes, at + 18);
  buffer.writeUInt32BE(Math.floor(firstSeqNum / TWO_32), at + 22);
  buffer.writeUInt32BE(firstSeqNum >>> 0, at + 26);
  out.length = at + BATCH_HEADER_BYTES;
  return at;
}

export function finishBatch(out: ByteWriter, at: number, lastTimestamp: bigint, hasCommands: boolean): void {
  out.buffer[at + 1] = hasCommands ? FLAG_COMMANDS : 0;
  out.buffer.writeBigUInt64BE(lastTimestamp, at + 30);
}

export function writeTrim(out: ByteWriter, streamId: number, seqNum: number): void {
  out.u8(KIND_TRIM);
  writeU48(out, streamId);
  out.u64(BigInt(seqNum));
}

export function readTrim(payload: Buffer): { streamId: number; seqNum: number } {
  return { streamId: payload.readUIntBE(1, 6), seqNum: Number(payload.readBigUInt64BE(7)) };
}

/** The data-plane state of a stream. `segments` only in checkpoints: triples of segment, first seq, last arrival ms. */
export interface Carry {
  readonly streamId: number;
  readonly tailSeqNum: number;
  readonly tailTimestamp: bigint;
  readonly trimPoint: number;
  readonly lastArrivalMs: number;
  readonly fencingToken: string;
  readonly segments: readonly number[];
}

export function writeCarry(out: ByteWriter, carry: Carry): void {
  const token = Buffer.from(carry.fencingToken, 'utf8');
  out.u8(KIND_CARRY);
  writeU48(out, carry.streamId);
  out.u64(BigInt(carry.tailSeqNum));
  out.u64(carry.tailTimestamp);
  out.u64(BigInt(carry.trimPoint));
  writeU48(out, carry.lastArrivalMs);
  out.u8(token.length);
  out.bytes(token);
  assert(carry.segments.length % 3 === 0, 'a segment list consists of triples');
  out.u32(carry.segments.length / 3);
  for (let i = 0; i < carry.segments.length; i += 3) {
    out.u32(carry.segments[i]!);
    out.u64(BigInt(carry.segments[i + 1]!));
    writeU48(out, carry.segments[i + 2]!);
  }
}

export function readCarry(payload: Buffer): Carry {
  const tokenEnd = 38 + payload[37]!;
  const segments: number[] = [];
  const count = payload.readUInt32BE(tokenEnd);
  for (let i = 0, at = tokenEnd + 4; i < count; i++, at += 18) {
    segments.push(payload.readUInt32BE(at), Number(payload.readBigUInt64BE(at + 4)), payload.readUIntBE(at + 12, 6));
  }
  return {
    streamId: payload.readUIntBE(1, 6),
    tailSeqNum: Number(payload.readBigUInt64BE(7)),
    tailTimestamp: payload.readBigUInt64BE(15),
    trimPoint: Number(payload.readBigUInt64BE(23)),
    lastArrivalMs: payload.readUIntBE(31, 6),
    fencingToken: payload.toString('utf8', 38, tokenEnd),
    segments,
  };
}

export function writeMeta(out: ByteWriter, entry: MetaEntry): void {
  out.u8(KIND_META);
  out.bytes(Buffer.from(JSON.stringify(entry), 'utf8'));
}

export function readMeta(payload: Buffer): MetaEntry {
  return JSON.parse(payload.toString('utf8', 1)) as MetaEntry;
}

export function writeStatePut(out: ByteWriter, key: string, value: Uint8Array): void {
  const bytes = Buffer.from(key, 'utf8');
  assert(bytes.length <= 0xffff, 'a state key is short');
  out.u8(KIND_STATE_PUT);
  out.u8(bytes.length >>> 8);
  out.u8(bytes.length & 0xff);
  out.bytes(bytes);
  out.bytes(value);
}

export function readStatePut(payload: Buffer): { key: string; value: Buffer } {
  const keyEnd = 3 + payload.readUInt16BE(1);
  return { key: payload.toString('utf8', 3, keyEnd), value: Buffer.from(payload.subarray(keyEnd)) };
}

export function writeStateDelete(out: ByteWriter, key: string): void {
  out.u8(KIND_STATE_DELETE);
  out.bytes(Buffer.from(key, 'utf8'));
}

export function readStateDelete(payload: Buffer): string {
  return payload.toString('utf8', 1);
}

function writeU48(out: ByteWriter, value: number): void {
  out.reserve(6);
  out.buffer.writeUIntBE(value, out.length, 6);
  out.length += 6;
}
