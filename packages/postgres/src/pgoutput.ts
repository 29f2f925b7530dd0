/**
 * Decoders for the messages of the pgoutput plugin, protocol version 1 with logical messages.
 * HOT PATH: RowReader. The others run once per transaction or table.
 * Bytes that do not fit their description end in decode_malformed, never in a crash (I8).
 * Source: "Logical Replication Message Formats" in the Postgres manual.
 */
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';

export const BEGIN = 0x42;
export const COMMIT = 0x43;
export const ORIGIN = 0x4f;
export const RELATION = 0x52;
export const TYPE = 0x59;
export const INSERT = 0x49;
export const UPDATE = 0x55;
export const DELETE = 0x44;
export const TRUNCATE = 0x54;
export const MESSAGE = 0x4d;

/** Kinds of a column's value in a tuple. */
export const VALUE_NULL = 0x6e;
/** A toasted value that the change did not touch: it is not in the message. */
export const VALUE_UNCHANGED = 0x75;
export const VALUE_TEXT = 0x74;
export const VALUE_BINARY = 0x62;

/** Kinds of the old tuple of an update or delete: the key columns only, or the whole row (replica identity full). */
export const OLD_KEY = 0x4b;
export const OLD_ROW = 0x4f;
const NEW_ROW = 0x4e;

/** Microseconds from 1970-01-01 to 2000-01-01, where Postgres counts from. */
const POSTGRES_EPOCH_MICROS = 946_684_800_000_000n;

export interface Begin {
  /** LSN of the commit record: what orders transactions. */
  readonly finalLsn: Lsn;
  /** Since the Unix epoch. */
  readonly commitTimeMicros: bigint;
  readonly xid: number;
}

export interface Commit {
  readonly flags: number;
  /** Equals the finalLsn of its Begin. */
  readonly commitLsn: Lsn;
  /** End of the commit record: what is confirmed once the transaction is durable. */
  readonly endLsn: Lsn;
  readonly commitTimeMicros: bigint;
}

export interface RelationColumn {
  readonly name: string;
  readonly typeOid: number;
  readonly typmod: number;
  /** Part of the replica identity. */
  readonly isKey: boolean;
}

export type ReplicaIdentity = 'd' | 'n' | 'f' | 'i';

export interface Relation {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly replicaIdentity: ReplicaIdentity;
  readonly columns: readonly RelationColumn[];
}

export interface TypeName {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
}

export interface Origin {
  readonly commitLsn: Lsn;
  readonly name: string;
}

export interface Truncate {
  readonly oids: readonly number[];
  readonly cascade: boolean;
  readonly restartIdentity: boolean;
}

/** What pg_logical_emit_message wrote. The content lies at [contentStart, contentEnd) of the decoded buffer. */
export interface LogicalMessage {
  readonly transactional: boolean;
  readonly lsn: Lsn;
  readonly prefix: string;
  readonly contentStart: number;
  readonly contentEnd: number;
}

export function decodeBegin(buffer: Buffer, start: number, end: number): Begin {
  const cursor = new Cursor(buffer, start, end, BEGIN);
  const begin = { finalLsn: cursor.u64(), commitTimeMicros: cursor.i64() + POSTGRES_EPOCH_MICROS, xid: cursor.u32() };
  cursor.finish();
  return begin;
}

export function decodeCommit(buffer: Buffer, start: number, end: number): Commit {
  const cursor = new Cursor(buffer, start, end, COMMIT);
  const commit = {
    flags: cursor.u8(),
    commitLsn: cursor.u64(),
    endLsn: cursor.u64(),
    commitTimeMicros: cursor.i64() + POSTGRES_EPOCH_MICROS,
  };
  cursor.finish();
  return commit;
}

export function decodeRelation(buffer: Buffer, start: number, end: number): Relation {
  const cursor = new Cursor(buffer, start, end, RELATION);
  const oid = cursor.u32();
  const schema = schemaName(cursor.text());
  const name = cursor.text();
  const replicaIdentity = identityOf(cursor.u8());
  const columns: RelationColumn[] = [];
  for (let left = cursor.u16(); left > 0; left--) {
    const flags = cursor.u8();
    columns.push({
      name: cursor.text(),
      typeOid: cursor.u32(),
      typmod: cursor.i32(),
      isKey: (flags & 1) !== 0,
    });
  }
  cursor.finish();
  return { oid, schema, name, replicaIdentity, columns };
}

export function decodeType(buffer: Buffer, start: number, end: number): TypeName {
  const cursor = new Cursor(buffer, start, end, TYPE);
  const type = { oid: cursor.u32(), schema: schemaName(cursor.text()), name: cursor.text() };
  cursor.finish();
  return type;
}

export function decodeOrigin(buffer: Buffer, start: number, end: number): Origin {
  const cursor = new Cursor(buffer, start, end, ORIGIN);
  const origin = { commitLsn: cursor.u64(), name: cursor.text() };
  cursor.finish();
  return origin;
}

export function decodeTruncate(buffer: Buffer, start: number, end: number): Truncate {
  const cursor = new Cursor(buffer, start, end, TRUNCATE);
  const count = cursor.u32();
  const flags = cursor.u8();
  // Checked before the loop, so that a wrong count cannot make us build a huge array.
  if (count * 4 !== cursor.left) throw malformed();
  const oids: number[] = [];
  for (let i = 0; i < count; i++) oids.push(cursor.u32());
  cursor.finish();
  return { oids, cascade: (flags & 1) !== 0, restartIdentity: (flags & 2) !== 0 };
}

/** How many relations a TRUNCATE names, without making anything of it. */
export function truncatedRelations(buffer: Buffer, start: number, end: number): number {
  if (end - start < 6) throw malformed();
  const count = u32(buffer, start + 1);
  if (end - start !== 6 + count * 4) throw malformed();
  return count;
}

export function decodeMessage(buffer: Buffer, start: number, end: number): LogicalMessage {
  const cursor = new Cursor(buffer, start, end, MESSAGE);
  const transactional = (cursor.u8() & 1) !== 0;
  const lsn = cursor.u64();
  const prefix = cursor.text();
  const size = cursor.u32();
  if (size !== cursor.left) throw malformed();
  return { transactional, lsn, prefix, contentStart: cursor.at, contentEnd: cursor.at + size };
}

/**
 * Says where the column values of an insert, update or delete lie. One per decoder, aimed anew at each message; it keeps
 * offsets into the caller's buffer and copies nothing. HOT PATH.
 */
export class RowReader {
  relationOid = 0;
  /** 0, OLD_KEY or OLD_ROW. With OLD_KEY the columns outside of the key are VALUE_NULL. */
  oldKind = 0;
  /** Columns of the new tuple, 0 when there is none (delete). */
  newCount = 0;
  newKinds = new Int32Array(INITIAL_COLUMNS);
  newStarts = new Int32Array(INITIAL_COLUMNS);
  newEnds = new Int32Array(INITIAL_COLUMNS);
  /** Columns of the old tuple, 0 when there is none. */
  oldCount = 0;
  oldKinds = new Int32Array(INITIAL_COLUMNS);
  oldStarts = new Int32Array(INITIAL_COLUMNS);
  oldEnds = new Int32Array(INITIAL_COLUMNS);

  aim(buffer: Buffer, start: number, end: number): void {
    if (start < 0 || end > buffer.length || end - start < 6) throw malformed();
    this.newCount = 0;
    this.oldCount = 0;
    this.oldKind = 0;
    this.relationOid = u32(buffer, start + 1);
    const mark = buffer[start + 5]!;
    let at = start + 6;
    switch (buffer[start]) {
      case INSERT:
        if (mark !== NEW_ROW) throw malformed();
        at = this.#readNew(buffer, at, end);
        break;
      case UPDATE:
        if (mark === NEW_ROW) {
          at = this.#readNew(buffer, at, end);
        } else {
          at = this.#readOld(buffer, mark, at, end);
          if (at >= end || buffer[at] !== NEW_ROW) throw malformed();
          at = this.#readNew(buffer, at + 1, end);
        }
        break;
      case DELETE:
        at = this.#readOld(buffer, mark, at, end);
        break;
      default:
        throw malformed();
    }
    if (at !== end) throw malformed();
  }

  #readNew(buffer: Buffer, start: number, end: number): number {
    const count = tupleCount(buffer, start, end);
    if (count > this.newKinds.length) {
      this.newKinds = new Int32Array(count);
      this.newStarts = new Int32Array(count);
      this.newEnds = new Int32Array(count);
    }
    this.newCount = count;
    return readTuple(buffer, start + 2, end, count, this.newKinds, this.newStarts, this.newEnds);
  }

  #readOld(buffer: Buffer, kind: number, start: number, end: number): number {
    if (kind !== OLD_KEY && kind !== OLD_ROW) throw malformed();
    const count = tupleCount(buffer, start, end);
    if (count > this.oldKinds.length) {
      this.oldKinds = new Int32Array(count);
      this.oldStarts = new Int32Array(count);
      this.oldEnds = new Int32Array(count);
    }
    this.oldKind = kind;
    this.oldCount = count;
    return readTuple(buffer, start + 2, end, count, this.oldKinds, this.oldStarts, this.oldEnds);
  }
}

const INITIAL_COLUMNS = 64;

/** A column takes at least one byte: a count that cannot fit is refused before arrays grow for it. */
function tupleCount(buffer: Buffer, start: number, end: number): number {
  if (end - start < 2) throw malformed();
  const count = (buffer[start]! << 8) | buffer[start + 1]!;
  if (count > end - start - 2) throw malformed();
  return count;
}

function readTuple(
  buffer: Buffer,
  start: number,
  end: number,
  count: number,
  kinds: Int32Array,
  starts: Int32Array,
  ends: Int32Array,
): number {
  let at = start;
  for (let i = 0; i < count; i++) {
    if (at >= end) throw malformed();
    const kind = buffer[at++]!;
    kinds[i] = kind;
    switch (kind) {
      case VALUE_TEXT:
      case VALUE_BINARY: {
        if (end - at < 4) throw malformed();
        const size = u32(buffer, at);
        at += 4;
        if (size > end - at) throw malformed();
        starts[i] = at;
        at += size;
        ends[i] = at;
        break;
      }
      case VALUE_NULL:
      case VALUE_UNCHANGED:
        starts[i] = at;
        ends[i] = at;
        break;
      default:
        throw malformed();
    }
  }
  return at;
}

function u32(buffer: Buffer, at: number): number {
  return ((buffer[at]! << 24) | (buffer[at + 1]! << 16) | (buffer[at + 2]! << 8) | buffer[at + 3]!) >>> 0;
}

/** A bounds-checked walk over one message. */
class Cursor {
  at: number;
  readonly #buffer: Buffer;
  readonly #end: number;

  constructor(buffer: Buffer, start: number, end: number, code: number) {
    if (start < 0 || end > buffer.length || start >= end || buffer[start] !== code) throw malformed();
    this.#buffer = buffer;
    this.#end = end;
    this.at = start + 1;
  }

  get left(): number {
    return this.#end - this.at;
  }

  u8(): number {
    return this.#buffer[this.#take(1)]!;
  }

  u16(): number {
    return this.#buffer.readUInt16BE(this.#take(2));
  }

  u32(): number {
    return this.#buffer.readUInt32BE(this.#take(4));
  }

  i32(): number {
    return this.#buffer.readInt32BE(this.#take(4));
  }

  u64(): bigint {
    return this.#buffer.readBigUInt64BE(this.#take(8));
  }

  i64(): bigint {
    return this.#buffer.readBigInt64BE(this.#take(8));
  }

  /** Zero-terminated. */
  text(): string {
    const zero = this.#buffer.indexOf(0, this.at);
    if (zero < 0 || zero >= this.#end) throw malformed();
    const text = this.#buffer.toString('utf8', this.at, zero);
    this.at = zero + 1;
    return text;
  }

  finish(): void {
    if (this.at !== this.#end) throw malformed();
  }

  #take(size: number): number {
    const at = this.at;
    if (size > this.#end - at) throw malformed();
    this.at = at + size;
    return at;
  }
}

/** pgoutput leaves the name of the system schema empty. */
function schemaName(name: string): string {
  return name === '' ? 'pg_catalog' : name;
}

function identityOf(code: number): ReplicaIdentity {
  switch (code) {
    case 0x64:
      return 'd';
    case 0x6e:
      return 'n';
    case 0x66:
      return 'f';
    case 0x69:
      return 'i';
    default:
      throw malformed();
  }
}

function malformed(): MillraceError {
  return new MillraceError('decode_malformed', {
    hint: 'The bytes are not what pgoutput version 1 sends. Nothing was skipped; please report this with the server version.',
  });
}
