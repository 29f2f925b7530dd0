import { S2Error } from './s2-error.ts';

/*
 * Walking records in the protobuf form in which clients send them, the journal keeps them and readers get them.
 *
 *   AppendRecord    { 1: optional uint64 timestamp, 2: repeated Header, 3: bytes body }           in AppendInput field 1
 *   SequencedRecord { 1: uint64 seq_num, 2: uint64 timestamp, 3: repeated Header, 4: bytes body } in ReadBatch field 1
 *   Header          { 1: bytes name, 2: bytes value }
 *
 * HOT PATH: every append is walked twice (scan, sequence) and every partial read once. 64-bit values are two uint32
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
    return joinHalves(this.timestampLow, this.timestampHigh);
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

/** The 64-bit value of two uint32 halves. */
export function joinHalves(low: number, high: number): bigint {
  return high === 0 ? BigInt(low) : (BigInt(high) << 32n) | BigInt(low);
}
