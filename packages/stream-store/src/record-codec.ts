import { isUtf8 } from 'node:buffer';
import { ByteWriter } from '@millrace/core/byte-writer';
import { clampToSafe } from '@millrace/core/u64';
import {
  BATCH_METERED_BYTES_MAX,
  BATCH_RECORDS_MAX,
  FENCING_TOKEN_BYTES_MAX,
  RECORD_METERED_BYTES_MAX,
} from './limits.ts';
import type { TimestampingMode } from './model.ts';
import { fieldSize, varintSize, writeTag, writeVarint } from './record-fields.ts';
import { S2Error } from './s2-error.ts';
import type { AppendScan, ReadLimits, ReadSlice } from './store.ts';

/*
 * Records in the protobuf form in which clients send them, the journal keeps them and readers get them.
 *
 *   AppendRecord    { 1: optional uint64 timestamp, 2: repeated Header, 3: bytes body }           in AppendInput field 1
 *   SequencedRecord { 1: uint64 seq_num, 2: uint64 timestamp, 3: repeated Header, 4: bytes body } in ReadBatch field 1
 *   Header          { 1: bytes name, 2: bytes value }
 *
 * HOT PATH: every append is read twice here (scan, sequence) and every partial read once. 64-bit values are two uint32
 * halves inside; a bigint is made only where a caller asks for one.
 */

const WIRE_VARINT = 0;
const WIRE_FIXED64 = 1;
const WIRE_BYTES = 2;
const WIRE_GROUP_START = 3;
const WIRE_GROUP_END = 4;
const WIRE_FIXED32 = 5;
/** How deep unknown groups may nest before the input counts as malformed. */
const GROUP_DEPTH_MAX = 32;

const TWO_32 = 4_294_967_296;

export const COMMAND_NONE = 0;
export const COMMAND_FENCE = 1;
export const COMMAND_TRIM = 2;
export type CommandKind = typeof COMMAND_NONE | typeof COMMAND_FENCE | typeof COMMAND_TRIM;

export interface RecordHeader {
  readonly name: Uint8Array;
  readonly value: Uint8Array;
}

/** What a command record asks for, with the sequence number it was given. */
export type RecordCommand =
  | { readonly kind: 'fence'; readonly seqNum: number; readonly token: string }
  | { readonly kind: 'trim'; readonly seqNum: number; readonly trimTo: number };

export interface SequencedBatch {
  readonly firstTimestamp: bigint;
  readonly lastTimestamp: bigint;
  /** In order; empty for most batches. */
  readonly commands: readonly RecordCommand[];
}

const NO_COMMANDS: readonly RecordCommand[] = [];

/**
 * Walks records one by one. After `next()` returned true its fields describe one record, all offsets being into
 * `bytes`; they stay valid until the next call. Throws bad_proto on bytes that are not protobuf. Fields it does not
 * know are skipped, a repeated scalar counts with its last value.
 */
export class RecordCursor {
  readonly bytes: Uint8Array;
  /** From the tag of the record's field to the end of the record. */
  entryStart = 0;
  entryEnd = 0;
  seqNum = 0;
  hasTimestamp = false;
  timestampLow = 0;
  timestampHigh = 0;
  headerCount = 0;
  /** Four offsets per header: name start, name end, value start, value end. */
  headers = new Int32Array(16);
  bodyStart = 0;
  bodyEnd = 0;
  meteredBytes = 0;

  #at: number;
  #end: number;
  readonly #limit: number;
  // Distance of the field numbers from those of AppendRecord: SequencedRecord has seq_num in front.
  readonly #shift: 0 | 1;
  #low = 0;
  #high = 0;

  /** Over SequencedRecords by default; `form: 'append'` walks AppendRecords, whose seqNum stays 0. */
  constructor(bytes: Uint8Array, form: 'sequenced' | 'append' = 'sequenced', start = 0, end = bytes.length) {
    this.bytes = bytes;
    this.#at = start;
    this.#end = end;
    this.#limit = end;
    this.#shift = form === 'sequenced' ? 1 : 0;
  }

  get timestamp(): bigint {
    return this.timestampHigh === 0
      ? BigInt(this.timestampLow)
      : (BigInt(this.timestampHigh) << 32n) | BigInt(this.timestampLow);
  }

  /** Exact below 2^53, which every clock's milliseconds are. */
  get timestampNumber(): number {
    return this.timestampHigh * TWO_32 + this.timestampLow;
  }

  next(): boolean {
    this.#end = this.#limit;
    while (this.#at < this.#limit) {
      const entryStart = this.#at;
      const tag = this.#tag();
      if (tag >>> 3 === 1) {
        const length = this.#length(tag);
        this.entryStart = entryStart;
        this.entryEnd = this.#at + length;
        this.#record(this.entryEnd);
        return true;
      }
      this.#skip(tag, 0);
    }
    return false;
  }

  #record(end: number): void {
    this.#end = end;
    this.seqNum = 0;
    this.hasTimestamp = false;
    this.timestampLow = 0;
    this.timestampHigh = 0;
    this.headerCount = 0;
    this.bodyStart = end;
    this.bodyEnd = end;
    let metered = 8;
    while (this.#at < end) {
      const tag = this.#tag();
      switch ((tag >>> 3) - this.#shift) {
        case 0:
          this.#varintField(tag);
          this.seqNum = this.#high * TWO_32 + this.#low;
          break;
        case 1:
          this.#varintField(tag);
          this.hasTimestamp = true;
          this.timestampLow = this.#low;
          this.timestampHigh = this.#high;
          break;
        case 2: {
          const length = this.#length(tag);
          metered += 2 + this.#header(this.#at + length, end);
          break;
        }
        case 3: {
          const length = this.#length(tag);
          this.bodyStart = this.#at;
          this.bodyEnd = this.#at += length;
          break;
        }
        default:
          this.#skip(tag, 0);
      }
    }
    this.#end = this.#limit;
    this.meteredBytes = metered + this.bodyEnd - this.bodyStart;
  }

  /** Returns the bytes of name and value. */
  #header(end: number, recordEnd: number): number {
    const at = this.headerCount * 4;
    if (at === this.headers.length) {
      const grown = new Int32Array(at * 2);
      grown.set(this.headers);
      this.headers = grown;
    }
    let nameStart = end;
    let nameEnd = end;
    let valueStart = end;
    let valueEnd = end;
    this.#end = end;
    while (this.#at < end) {
      const tag = this.#tag();
      switch (tag >>> 3) {
        case 1: {
          const length = this.#length(tag);
          nameStart = this.#at;
          nameEnd = this.#at += length;
          break;
        }
        case 2: {
          const length = this.#length(tag);
          valueStart = this.#at;
          valueEnd = this.#at += length;
          break;
        }
        default:
          this.#skip(tag, 0);
      }
    }
    this.#end = recordEnd;
    this.headers[at] = nameStart;
    this.headers[at + 1] = nameEnd;
    this.headers[at + 2] = valueStart;
    this.headers[at + 3] = valueEnd;
    this.headerCount++;
    return nameEnd - nameStart + valueEnd - valueStart;
  }

  #tag(): number {
    this.#varint();
    const tag = this.#low;
    if (this.#high !== 0 || tag >>> 3 === 0) throw malformed('field number out of range');
    return tag;
  }

  #varintField(tag: number): void {
    if ((tag & 7) !== WIRE_VARINT) throw malformed('unexpected wire type');
    this.#varint();
  }

  #length(tag: number): number {
    if ((tag & 7) !== WIRE_BYTES) throw malformed('unexpected wire type');
    this.#varint();
    if (this.#high !== 0 || this.#low > this.#end - this.#at) throw malformed('length beyond the end');
    return this.#low;
  }

  #skip(tag: number, depth: number): void {
    switch (tag & 7) {
      case WIRE_VARINT:
        this.#varint();
        return;
      case WIRE_FIXED64:
        this.#advance(8);
        return;
      case WIRE_BYTES:
        // In two steps: the compound assignment would take #at from before the length was read.
        this.#advance(this.#length(tag));
        return;
      case WIRE_FIXED32:
        this.#advance(4);
        return;
      case WIRE_GROUP_START: {
        if (depth === GROUP_DEPTH_MAX) throw malformed('groups nested too deeply');
        for (;;) {
          const inner = this.#tag();
          if ((inner & 7) === WIRE_GROUP_END) {
            if (inner >>> 3 !== tag >>> 3) throw malformed('group end without its start');
            return;
          }
          this.#skip(inner, depth + 1);
        }
      }
      default:
        throw malformed('unexpected wire type');
    }
  }

  #advance(size: number): void {
    if (size > this.#end - this.#at) throw malformed('truncated');
    this.#at += size;
  }

  /** Up to ten bytes, minimal or not, into #low and #high. */
  #varint(): void {
    const bytes = this.bytes;
    const end = this.#end;
    let at = this.#at;
    if (at >= end) throw malformed('truncated');
    let byte = bytes[at++]!;
    if (byte < 0x80) {
      this.#low = byte;
      this.#high = 0;
      this.#at = at;
      return;
    }
    let low = byte & 0x7f;
    let high = 0;
    for (let i = 1; i < 10; i++) {
      if (at >= end) throw malformed('truncated');
      byte = bytes[at++]!;
      const bits = byte & 0x7f;
      if (i < 4) {
        low |= bits << (7 * i);
      } else if (i === 4) {
        low |= bits << 28;
        high = bits >>> 4;
      } else if (i < 9) {
        high |= bits << (7 * i - 32);
      } else {
        if (byte > 1) throw malformed('varint beyond 64 bits');
        high |= byte << 31;
      }
      if (byte < 0x80) {
        this.#low = low >>> 0;
        this.#high = high >>> 0;
        this.#at = at;
        return;
      }
    }
    throw malformed('varint beyond ten bytes');
  }
}

function malformed(reason: string): S2Error {
  return new S2Error('bad_proto', `malformed protobuf: ${reason}`);
}

function invalid(reason: string): S2Error {
  return new S2Error('invalid', reason);
}

/**
 * One pass over the records of an append, which is the only way they are admitted: bad_proto when they are not
 * protobuf, invalid when they break a rule of the API (batch and record limits, header names, command records).
 * A whole AppendInput message is fine too: its other fields are skipped.
 */
export function scanAppendRecords(bytes: Uint8Array): AppendScan {
  const cursor = new RecordCursor(bytes, 'append');
  let count = 0;
  let meteredBytes = 0;
  let timestamped = 0;
  let hasFence = false;
  let hasTrim = false;
  while (cursor.next()) {
    if (++count > BATCH_RECORDS_MAX) throw invalid('batch has more than 1000 records');
    if (cursor.meteredBytes > RECORD_METERED_BYTES_MAX) throw invalid('record is larger than 1 MiB metered');
    meteredBytes += cursor.meteredBytes;
    if (meteredBytes > BATCH_METERED_BYTES_MAX) throw invalid('batch is larger than 1 MiB metered');
    if (cursor.hasTimestamp) timestamped++;
    if (cursor.headerCount === 0) continue;
    const command = checkHeaders(cursor);
    if (command === COMMAND_FENCE) hasFence = true;
    else if (command === COMMAND_TRIM) hasTrim = true;
  }
  if (count === 0) throw invalid('batch has no records');
  return {
    count,
    meteredBytes,
    hasFence,
    hasTrim,
    allTimestamped: timestamped === count,
    anyTimestamped: timestamped > 0,
  };
}

/** The command of a record as stored: its only header has an empty name. */
export function commandOf(cursor: RecordCursor): CommandKind {
  const headers = cursor.headers;
  if (cursor.headerCount !== 1 || headers[0] !== headers[1]) return COMMAND_NONE;
  const start = headers[2]!;
  const bytes = cursor.bytes;
  switch (headers[3]! - start) {
    case 4:
      return isAscii(bytes, start, 'trim') ? COMMAND_TRIM : COMMAND_NONE;
    case 5:
      return isAscii(bytes, start, 'fence') ? COMMAND_FENCE : COMMAND_NONE;
    default:
      return COMMAND_NONE;
  }
}

function checkHeaders(cursor: RecordCursor): CommandKind {
  const headers = cursor.headers;
  const end = cursor.headerCount * 4;
  for (let at = 0; at < end; at += 4) {
    if (headers[at] !== headers[at + 1]) continue;
    if (cursor.headerCount !== 1) throw invalid('a header name must not be empty');
    const size = cursor.bodyEnd - cursor.bodyStart;
    switch (commandOf(cursor)) {
      case COMMAND_FENCE:
        if (size > FENCING_TOKEN_BYTES_MAX) throw invalid('fencing token is longer than 36 bytes');
        if (!isUtf8(cursor.bytes.subarray(cursor.bodyStart, cursor.bodyEnd))) {
          throw invalid('fencing token is not UTF-8');
        }
        return COMMAND_FENCE;
      case COMMAND_TRIM:
        if (size !== 8) throw invalid('trim point is not 8 bytes');
        return COMMAND_TRIM;
      default:
        throw invalid('unknown command');
    }
  }
  return COMMAND_NONE;
}

function isAscii(bytes: Uint8Array, start: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) if (bytes[start + i] !== text.charCodeAt(i)) return false;
  return true;
}

function readCommand(cursor: RecordCursor, command: CommandKind, seqNum: number): RecordCommand {
  const body = Buffer.from(
    cursor.bytes.buffer,
    cursor.bytes.byteOffset + cursor.bodyStart,
    cursor.bodyEnd - cursor.bodyStart,
  );
  return command === COMMAND_FENCE
    ? { kind: 'fence', seqNum, token: body.toString('utf8') }
    : { kind: 'trim', seqNum, trimTo: clampToSafe(body.readBigUInt64BE(0)) };
}

/** The commands among records as stored, in order. */
export function readCommands(records: Uint8Array): readonly RecordCommand[] {
  const cursor = new RecordCursor(records);
  const commands: RecordCommand[] = [];
  while (cursor.next()) {
    const command = commandOf(cursor);
    if (command !== COMMAND_NONE) commands.push(readCommand(cursor, command, cursor.seqNum));
  }
  return commands;
}

/**
 * Writes scanned AppendRecords as SequencedRecords with dense numbers from `firstSeqNum` and timestamps by the rules of
 * the API: the client's or the arrival time by mode, capped at now unless uncapped, raised to the running maximum.
 * On a refusal (client-require, timestamp missing) `out` is as it was before.
 */
export function sequenceRecords(
  out: ByteWriter,
  records: Uint8Array,
  firstSeqNum: number,
  previousTimestamp: bigint,
  nowMs: number,
  mode: TimestampingMode,
  uncapped: boolean,
): SequencedBatch {
  const start = out.length;
  const cursor = new RecordCursor(records, 'append');
  const nowLow = nowMs >>> 0;
  const nowHigh = Math.floor(nowMs / TWO_32);
  const clientTime = mode !== 'arrival';
  let lastLow = Number(previousTimestamp & 0xffff_ffffn);
  let lastHigh = Number(previousTimestamp >> 32n);
  let firstLow = 0;
  let firstHigh = 0;
  let seqNum = firstSeqNum;
  let commands = NO_COMMANDS as RecordCommand[];
  while (cursor.next()) {
    let low = nowLow;
    let high = nowHigh;
    if (clientTime && cursor.hasTimestamp) {
      const past =
        cursor.timestampHigh < nowHigh || (cursor.timestampHigh === nowHigh && cursor.timestampLow <= nowLow);
      if (uncapped || past) {
        low = cursor.timestampLow;
        high = cursor.timestampHigh;
      }
    } else if (mode === 'client-require') {
      out.rewind(start);
      throw invalid('a record has no timestamp and the stream requires one');
    }
    if (high < lastHigh || (high === lastHigh && low < lastLow)) {
      low = lastLow;
      high = lastHigh;
    }
    lastLow = low;
    lastHigh = high;
    if (seqNum === firstSeqNum) {
      firstLow = low;
      firstHigh = high;
    }
    writeSequencedCopy(out, cursor, seqNum, low, high);
    if (cursor.headerCount === 1) {
      const command = commandOf(cursor);
      if (command !== COMMAND_NONE) {
        if (commands === NO_COMMANDS) commands = [];
        commands.push(readCommand(cursor, command, seqNum));
      }
    }
    seqNum++;
  }
  return {
    firstTimestamp: joinHalves(firstLow, firstHigh),
    lastTimestamp: joinHalves(lastLow, lastHigh),
    commands,
  };
}

function joinHalves(low: number, high: number): bigint {
  return high === 0 ? BigInt(low) : (BigInt(high) << 32n) | BigInt(low);
}

/** An entry of ReadBatch made from the AppendRecord under the cursor. Canonical: no unknown fields, empty ones left out. */
function writeSequencedCopy(out: ByteWriter, cursor: RecordCursor, seqNum: number, low: number, high: number): void {
  const source = cursor.bytes;
  const headers = cursor.headers;
  const headersEnd = cursor.headerCount * 4;
  const bodySize = cursor.bodyEnd - cursor.bodyStart;
  const seqLow = seqNum >>> 0;
  const seqHigh = Math.floor(seqNum / TWO_32);

  let size = 2 + varintSize(seqLow, seqHigh) + varintSize(low, high);
  for (let at = 0; at < headersEnd; at += 4) {
    const header = fieldSize(headers[at + 1]! - headers[at]!) + fieldSize(headers[at + 3]! - headers[at + 2]!);
    size += 1 + varintSize(header, 0) + header;
  }
  size += fieldSize(bodySize);

  out.reserve(size + 11);
  writeTag(out, 0x0a);
  writeVarint(out, size, 0);
  writeTag(out, 0x08);
  writeVarint(out, seqLow, seqHigh);
  writeTag(out, 0x10);
  writeVarint(out, low, high);
  for (let at = 0; at < headersEnd; at += 4) {
    const nameSize = headers[at + 1]! - headers[at]!;
    const valueSize = headers[at + 3]! - headers[at + 2]!;
    writeTag(out, 0x1a);
    writeVarint(out, fieldSize(nameSize) + fieldSize(valueSize), 0);
    if (nameSize > 0) {
      writeTag(out, 0x0a);
      writeVarint(out, nameSize, 0);
      out.copy(source, headers[at]!, headers[at + 1]!);
    }
    if (valueSize > 0) {
      writeTag(out, 0x12);
      writeVarint(out, valueSize, 0);
      out.copy(source, headers[at + 2]!, headers[at + 3]!);
    }
  }
  if (bodySize > 0) {
    writeTag(out, 0x22);
    writeVarint(out, bodySize, 0);
    out.copy(source, cursor.bodyStart, cursor.bodyEnd);
  }
}

function headersSize(headers: readonly RecordHeader[]): number {
  let size = 0;
  for (let i = 0; i < headers.length; i++) {
    const header = fieldSize(headers[i]!.name.length) + fieldSize(headers[i]!.value.length);
    size += 1 + varintSize(header, 0) + header;
  }
  return size;
}

function writeHeaders(out: ByteWriter, tag: number, headers: readonly RecordHeader[]): void {
  for (let i = 0; i < headers.length; i++) {
    const { name, value } = headers[i]!;
    writeTag(out, tag);
    writeVarint(out, fieldSize(name.length) + fieldSize(value.length), 0);
    if (name.length > 0) writeField(out, 0x0a, name);
    if (value.length > 0) writeField(out, 0x12, value);
  }
}

function writeField(out: ByteWriter, tag: number, value: Uint8Array): void {
  writeTag(out, tag);
  writeVarint(out, value.length, 0);
  out.copy(value, 0, value.length);
}

/** One AppendRecord as field 1 of an AppendInput. */
export function writeAppendRecord(
  out: ByteWriter,
  record: {
    readonly timestamp?: bigint | undefined;
    readonly headers: readonly RecordHeader[];
    readonly body: Uint8Array;
  },
): void {
  const low = record.timestamp === undefined ? 0 : Number(record.timestamp & 0xffff_ffffn);
  const high = record.timestamp === undefined ? 0 : Number(record.timestamp >> 32n);
  let size = headersSize(record.headers) + fieldSize(record.body.length);
  if (record.timestamp !== undefined) size += 1 + varintSize(low, high);
  out.reserve(size + 11);
  writeTag(out, 0x0a);
  writeVarint(out, size, 0);
  if (record.timestamp !== undefined) {
    writeTag(out, 0x08);
    writeVarint(out, low, high);
  }
  writeHeaders(out, 0x12, record.headers);
  if (record.body.length > 0) writeField(out, 0x1a, record.body);
}

/** One SequencedRecord as field 1 of a ReadBatch; the body is body[bodyStart, bodyEnd). Returns its metered bytes. */
export function writeSequencedRecord(
  out: ByteWriter,
  seqNum: number,
  timestamp: bigint,
  headers: readonly RecordHeader[],
  body: Uint8Array,
  bodyStart = 0,
  bodyEnd = body.length,
): number {
  const metered = writeSequencedHead(out, seqNum, timestamp, headers, bodyEnd - bodyStart);
  out.copy(body, bodyStart, bodyEnd);
  return metered;
}

/**
 * As writeSequencedRecord, but leaves the body to the caller, who must write exactly `bodySize` bytes next: for bodies
 * that are made in place. Room for them is reserved. Returns the record's metered bytes.
 */
export function writeSequencedHead(
  out: ByteWriter,
  seqNum: number,
  timestamp: bigint,
  headers: readonly RecordHeader[],
  bodySize: number,
): number {
  const seqLow = seqNum >>> 0;
  const seqHigh = Math.floor(seqNum / TWO_32);
  const low = Number(timestamp & 0xffff_ffffn);
  const high = Number(timestamp >> 32n);
  const size = 2 + varintSize(seqLow, seqHigh) + varintSize(low, high) + headersSize(headers) + fieldSize(bodySize);
  out.reserve(size + 11);
  writeTag(out, 0x0a);
  writeVarint(out, size, 0);
  writeTag(out, 0x08);
  writeVarint(out, seqLow, seqHigh);
  writeTag(out, 0x10);
  writeVarint(out, low, high);
  writeHeaders(out, 0x1a, headers);
  if (bodySize > 0) {
    writeTag(out, 0x22);
    writeVarint(out, bodySize, 0);
  }
  let metered = 8 + bodySize;
  for (let i = 0; i < headers.length; i++) metered += 2 + headers[i]!.name.length + headers[i]!.value.length;
  return metered;
}

/**
 * Writes SequencedRecords that share a timestamp and one header, whose value is a prefix and a number. What does not
 * change from record to record is encoded once. HOT PATH (write).
 */
export class NumberedRecordWriter {
  readonly #out: ByteWriter;
  readonly #nameSize: number;
  /** Timestamp field and header tag; header name field and value tag. */
  readonly #beforeHeader: Buffer;
  readonly #beforeValue: Buffer;
  #prefix: Buffer = Buffer.alloc(0);

  constructor(out: ByteWriter, timestamp: bigint, headerName: Uint8Array) {
    this.#out = out;
    this.#nameSize = headerName.length;
    const before = new ByteWriter(64);
    before.reserve(32);
    writeTag(before, 0x10);
    writeVarint(before, Number(timestamp & 0xffff_ffffn), Number(timestamp >> 32n));
    writeTag(before, 0x1a);
    this.#beforeHeader = before.take();
    const name = new ByteWriter(64 + headerName.length);
    name.reserve(16);
    writeTag(name, 0x0a);
    writeVarint(name, headerName.length, 0);
    name.bytes(headerName);
    name.u8(0x12);
    this.#beforeValue = name.take();
  }

  /** The header value of the records that follow starts with this ASCII text. */
  prefix(text: string): void {
    this.#prefix = Buffer.from(text, 'latin1');
  }

  /** One record with header value `<prefix><number><suffix>` and body[start, end). Returns its metered bytes. */
  write(seqNum: number, number: number, suffix: Buffer | null, body: Buffer, start: number, end: number): number {
    const out = this.#out;
    const prefix = this.#prefix;
    const magnitude = Math.abs(number);
    let digits = number < 0 ? 2 : 1;
    for (let rest = magnitude; rest >= 10; rest = Math.floor(rest / 10)) digits++;
    const valueSize = prefix.length + digits + (suffix === null ? 0 : suffix.length);
    const headerSize = this.#beforeValue.length + varintSize(valueSize, 0) + valueSize;
    const seqLow = seqNum >>> 0;
    const seqHigh = Math.floor(seqNum / TWO_32);
    const bodySize = end - start;
    const size =
      1 +
      varintSize(seqLow, seqHigh) +
      this.#beforeHeader.length +
      varintSize(headerSize, 0) +
      headerSize +
      fieldSize(bodySize);
    out.reserve(size + 8);
    writeTag(out, 0x0a);
    writeVarint(out, size, 0);
    writeTag(out, 0x08);
    writeVarint(out, seqLow, seqHigh);
    out.bytes(this.#beforeHeader);
    writeVarint(out, headerSize, 0);
    out.bytes(this.#beforeValue);
    writeVarint(out, valueSize, 0);
    out.bytes(prefix);
    let at = out.length + digits;
    out.length = at;
    let rest = magnitude;
    do {
      const next = Math.floor(rest / 10);
      out.buffer[--at] = 48 + rest - next * 10;
      rest = next;
    } while (rest > 0);
    if (number < 0) out.buffer[--at] = 0x2d;
    if (suffix !== null) out.bytes(suffix);
    if (bodySize > 0) {
      writeTag(out, 0x22);
      writeVarint(out, bodySize, 0);
      out.copy(body, start, end);
    }
    return 10 + this.#nameSize + valueSize + bodySize;
  }
}

/**
 * The records from `fromSeq` on that fit the limits, as a view into `bytes`, cut at record boundaries. null when there
 * is none: all are before `fromSeq`, or the first one does not fit.
 */
export function sliceRecords(bytes: Uint8Array, fromSeq: number, limits: ReadLimits): ReadSlice | null {
  const until = limits.untilTimestamp;
  const untilLow = until === undefined ? 0 : Number(until & 0xffff_ffffn);
  const untilHigh = until === undefined ? 0 : Number(until >> 32n);
  const cursor = new RecordCursor(bytes);
  let start = -1;
  let end = -1;
  let firstSeqNum = 0;
  let count = 0;
  let meteredBytes = 0;
  let lastLow = 0;
  let lastHigh = 0;
  while (count < limits.countMax && cursor.next()) {
    if (cursor.seqNum < fromSeq) continue;
    if (meteredBytes + cursor.meteredBytes > limits.meteredBytesMax) break;
    const { timestampLow, timestampHigh } = cursor;
    if (until !== undefined) {
      if (timestampHigh > untilHigh || (timestampHigh === untilHigh && timestampLow >= untilLow)) break;
    }
    if (count++ === 0) {
      start = cursor.entryStart;
      firstSeqNum = cursor.seqNum;
    }
    end = cursor.entryEnd;
    meteredBytes += cursor.meteredBytes;
    lastLow = timestampLow;
    lastHigh = timestampHigh;
  }
  if (count === 0) return null;
  return {
    records: bytes.subarray(start, end),
    firstSeqNum,
    count,
    meteredBytes,
    lastTimestamp: joinHalves(lastLow, lastHigh),
  };
}
