/**
 * Turns changes and rows of the first fill into operations of the row index (row-operations.ts). HOT PATH (row and what
 * it calls): a value is written as its JSON into scratch memory, by the codec of messages (I10), and hashed there.
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import {
  DELETE as DELETE_MESSAGE,
  decodeRelation,
  decodeTruncate,
  INSERT,
  OLD_ROW,
  RowReader,
  UPDATE,
  VALUE_TEXT,
  VALUE_UNCHANGED,
} from '@millrace/postgres/pgoutput';
import { codecOf, type ValueCodec, writeJson } from '@millrace/postgres/value-json';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import { identityColumns } from '../last-values.ts';
import type { TableSchema } from '../table-schema.ts';
import {
  DELETE,
  FLAG_PARTIAL,
  FLAG_READ,
  FLAG_VALUES,
  FORGET,
  MOVE,
  PUT,
  type RowShape,
  SHAPE,
  TRUNCATE,
  VALUE_KEPT,
  VALUE_NOT_SENT,
} from './row-operations.ts';
import { TOAST_ROW_BYTES, type Toastability, TUPLE_HEADER_BYTES, toastability } from './toastable.ts';
import { writeHash, writeUnknownHash } from './value-hash.ts';

export interface RowEncoderOptions {
  readonly schemas: {
    lookup(message: Buffer, at: Position): TableSchema | undefined;
  };
  readonly takes: (schema: string, table: string) => boolean;
  /** Whether values are kept that an update may leave out (sinks with fill_unchanged). */
  readonly keepsValues: (schema: string, table: string) => boolean;
  /** A table without a key, which is left out; said once per shape. */
  readonly onKeyless?: (table: TableSchema) => void;
  /**
   * Relations that are left out because rows of theirs came without the whole key: a partition that is published by its root
   * has a replica identity of its own, which nothing announces. Added to; outlives the encoder.
   */
  readonly keyNotSent?: Set<number>;
  /** A table that is indexed is met for the first time, or in another shape. `leaf`: see ReadTable. */
  readonly onTable?: (table: TableSchema, leaf: boolean) => void;
}

/** A table as the first fill reads it. `leaf`: a partition that is published by itself. */
export interface ReadTable {
  readonly schema: TableSchema;
  readonly leaf: boolean;
}

/** Told of what goes by: decides which rows of the first fill are stale. */
export interface RowWatch {
  begun(xid: number, lsn: Lsn): void;
  changed(table: TableSchema, xid: number, action: number, bytes: Buffer, row: RowReader): void;
  truncated(table: TableSchema, xid: number): void;
}

interface RowPlan {
  readonly schema: TableSchema;
  readonly codecs: readonly ValueCodec[];
  /** Empty: it is left out, which the index has to know, or rows from before would pass for what they are now. */
  readonly keyColumns: readonly number[];
  readonly taken: boolean;
  readonly shape: number;
  readonly shapeJson: Buffer;
  readonly keepsValues: boolean;
  readonly toast: Toastability;
  announced: boolean;
}

const UNKNOWN = Symbol('unknown');
type Entry = RowPlan | typeof UNKNOWN;

const NULL = Buffer.from('null');
const SCRATCH_BYTES = 64 * 1024;
/** A huge value does not keep its memory. */
const SCRATCH_KEPT_BYTES = 4 << 20;

export class RowEncoder {
  readonly #options: RowEncoderOptions;
  readonly #keyNotSent: Set<number>;
  readonly #row = new RowReader();
  readonly #relations = new Map<number, Buffer>();
  readonly #plans = new Map<number, Entry>();
  #readPlan: RowPlan | null = null;
  #lastOid = -1;
  #lastPlan: Entry = UNKNOWN;
  #shapes = 0;
  #lsn: Lsn = 0n;
  #xid = 0;
  #scratch = new ByteWriter(SCRATCH_BYTES);

  batch: MessageBatch | null = null;
  /** RELATION message whose schema has to be learned before the change can be taken, and where it stands. */
  needed: { readonly kind: 'schema'; readonly relation: Buffer; readonly at: Position } | null = null;
  watch: RowWatch | null = null;

  constructor(options: RowEncoderOptions) {
    this.#options = options;
    this.#keyNotSent = options.keyNotSent ?? new Set();
  }

  relation(bytes: Buffer, start: number, end: number): void {
    const oid = bytes.readUInt32BE(start + 1);
    const before = this.#relations.get(oid);
    if (before === undefined || before.compare(bytes, start, end) !== 0) {
      this.#relations.set(oid, Buffer.from(bytes.subarray(start, end)));
    }
    // Also when it is the same: what the catalog says of it may be new.
    this.#plans.delete(oid);
    this.#lastOid = -1;
  }

  begin(lsn: Lsn, _commitTimeMicros: bigint, xid: number): void {
    this.#lsn = lsn;
    this.#xid = xid;
    this.watch?.begun(xid, lsn);
  }

  commit(): void {}

  message(): boolean {
    return true;
  }

  truncate(bytes: Buffer, start: number, end: number, ordinal: number, index: number): boolean {
    const oid = decodeTruncate(bytes, start, end).oids[index]!;
    const plan = this.#planOf(oid, ordinal);
    if (plan === UNKNOWN) return this.#need(oid, ordinal);
    const batch = this.batch!;
    if (plan.keyColumns.length === 0) return this.#leaveOut(batch, plan, this.#lsn, ordinal);
    if (batch.full) return false;
    const { body } = batch;
    this.#announce(body, plan);
    writeHead(body, TRUNCATE, plan.shape, this.#lsn, ordinal);
    if (!batch.add(this.#lsn, ordinal)) return false;
    plan.announced = true;
    this.watch?.truncated(plan.schema, this.#xid);
    return true;
  }

  row(bytes: Buffer, start: number, end: number, ordinal: number): boolean {
    const oid = bytes.readUInt32BE(start + 1);
    if (oid !== this.#lastOid) {
      this.#lastPlan = this.#planOf(oid, ordinal);
      this.#lastOid = this.#lastPlan === UNKNOWN ? -1 : oid;
    }
    const plan = this.#lastPlan;
    if (plan === UNKNOWN) return this.#need(oid, ordinal);
    const batch = this.batch!;
    if (plan.keyColumns.length === 0) return this.#leaveOut(batch, plan, this.#lsn, ordinal);
    if (batch.full) return false;
    const row = this.#row;
    row.aim(bytes, start, end);
    checkShape(plan, row.newCount);
    checkShape(plan, row.oldCount);
    if (row.oldKind !== 0 && !hasKey(plan, row.oldKinds)) {
      this.#keyNotSent.add(oid);
      this.#plans.delete(oid);
      this.#lastOid = -1;
      return this.row(bytes, start, end, ordinal);
    }
    const { body } = batch;
    this.#announce(body, plan);
    switch (bytes[start]) {
      case INSERT:
        this.#put(body, plan, bytes, row.newKinds, row.newStarts, row.newEnds, this.#lsn, ordinal, 0, false);
        break;
      case UPDATE: {
        if (row.oldKind !== 0) fillUnchanged(plan, row);
        const moved = row.oldKind !== 0 && !sameKey(plan, bytes, row);
        this.#put(body, plan, bytes, row.newKinds, row.newStarts, row.newEnds, this.#lsn, ordinal, 0, moved);
        break;
      }
      case DELETE_MESSAGE:
        writeHead(body, DELETE, plan.shape, this.#lsn, ordinal);
        writeKey(body, plan, bytes, row.oldKinds, row.oldStarts, row.oldEnds);
        break;
    }
    if (!batch.add(this.#lsn, ordinal)) return false;
    plan.announced = true;
    if (this.watch !== null) this.watch.changed(plan.schema, this.#xid, bytes[start]!, bytes, row);
    return true;
  }

  /** A row of the first fill; `kinds`, `starts` and `ends` as RowReader's, in column order. false: the batch is full. */
  read(
    batch: MessageBatch,
    { schema, leaf }: ReadTable,
    bytes: Buffer,
    { kinds, starts, ends }: { readonly kinds: Int32Array; readonly starts: Int32Array; readonly ends: Int32Array },
    at: Position,
  ): boolean {
    if (this.#readPlan?.schema !== schema) {
      this.#readPlan = this.#planFor(schema, leaf, true);
    }
    const plan = this.#readPlan;
    if (plan.keyColumns.length === 0) return this.#leaveOut(batch, plan, at.lsn, at.ordinal);
    if (batch.full) return false;
    this.#announce(batch.body, plan);
    this.#put(batch.body, plan, bytes, kinds, starts, ends, at.lsn, at.ordinal, FLAG_READ, false);
    if (!batch.add(at.lsn, at.ordinal)) return false;
    plan.announced = true;
    return true;
  }

  #need(oid: number, ordinal: number): false {
    this.needed = { kind: 'schema', relation: this.#relations.get(oid)!, at: { lsn: this.#lsn, ordinal } };
    return false;
  }

  #planOf(oid: number, ordinal: number): Entry {
    const known = this.#plans.get(oid);
    if (known !== undefined && known !== UNKNOWN) return known;
    const entry = this.#plan(oid, ordinal);
    this.#plans.set(oid, entry);
    return entry;
  }

  #plan(oid: number, ordinal: number): Entry {
    const message = this.#relations.get(oid);
    if (message === undefined) throw new MillraceError('decode_unknown_relation', { detail: `Relation ${oid}.` });
    const schema = this.#options.schemas.lookup(message, { lsn: this.#lsn, ordinal });
    if (schema === undefined) return UNKNOWN;
    const announced = decodeRelation(message, 0, message.length);
    const leaf = announced.schema !== schema.schema || announced.name !== schema.name;
    const plan = this.#planFor(schema, leaf, this.#options.takes(schema.schema, schema.name));
    if (plan.keyColumns.length > 0) this.#options.onTable?.(schema, leaf);
    else if (plan.taken) this.#options.onKeyless?.(schema);
    return plan;
  }

  #planFor(schema: TableSchema, leaf: boolean, taken: boolean): RowPlan {
    const isKeyed = taken && schema.replicaIdentity !== 'n' && !this.#keyNotSent.has(schema.oid);
    const keyColumns = isKeyed ? identityColumns(schema) : [];
    // Under replica identity full nothing is left out.
    const keepsValues = schema.replicaIdentity !== 'f' && this.#options.keepsValues(schema.schema, schema.name);
    const shape: RowShape = {
      relation: schema.oid,
      oid: leaf ? 0 : schema.oid,
      schema: schema.schema,
      name: schema.name,
      leaf,
      values: keepsValues,
      key: keyColumns.map((column) => schema.columns[column]!.name),
      columns: schema.columns.map((column) => ({
        name: column.name,
        type: `${column.type.oid} ${column.typeText ?? ''}`,
        ...(column.number !== undefined && { number: column.number }),
      })),
    };
    return {
      schema,
      codecs: schema.columns.map((column) => codecOf(column.type)),
      keyColumns,
      taken,
      shape: this.#shapes++,
      shapeJson: Buffer.from(JSON.stringify(shape)),
      keepsValues,
      toast: toastability(schema),
      announced: false,
    };
  }

  #leaveOut(batch: MessageBatch, plan: RowPlan, lsn: Lsn, ordinal: number): boolean {
    if (plan.announced) return true;
    if (batch.full) return false;
    // Of a table that will be read once it has a key, the index notes that it had none.
    if (plan.taken) this.#announce(batch.body, plan);
    else {
      batch.body.u8(FORGET);
      batch.body.u32(plan.shapeJson.length);
      batch.body.bytes(plan.shapeJson);
    }
    if (!batch.add(lsn, ordinal)) return false;
    plan.announced = true;
    return true;
  }

  #announce(out: ByteWriter, plan: RowPlan): void {
    if (plan.announced) return;
    out.u8(SHAPE);
    out.u32(plan.shape);
    out.u32(plan.shapeJson.length);
    out.bytes(plan.shapeJson);
  }

  #put(
    out: ByteWriter,
    plan: RowPlan,
    bytes: Buffer,
    kinds: Int32Array,
    starts: Int32Array,
    ends: Int32Array,
    lsn: Lsn,
    ordinal: number,
    flagsBefore: number,
    moved: boolean,
  ): void {
    writeHead(out, moved ? MOVE : PUT, plan.shape, lsn, ordinal);
    const flagsAt = out.length;
    let flags = flagsBefore;
    out.u8(0);
    if (moved) writeKey(out, plan, bytes, this.#row.oldKinds, this.#row.oldStarts, this.#row.oldEnds);
    writeKey(out, plan, bytes, kinds, starts, ends);
    const scratch = this.#scratch;
    const { codecs } = plan;
    for (let i = 0; i < codecs.length; i++) {
      const kind = kinds[i]!;
      if (kind === VALUE_TEXT) {
        scratch.length = 0;
        writeJson(scratch, codecs[i]!, bytes, starts[i]!, ends[i]!);
        writeHash(out, scratch.buffer, 0, scratch.length);
      } else if (kind === VALUE_UNCHANGED) {
        flags |= FLAG_PARTIAL;
        writeUnknownHash(out);
      } else writeHash(out, NULL, 0, NULL.length);
    }
    if (scratch.buffer.length > SCRATCH_KEPT_BYTES) this.#scratch = new ByteWriter(SCRATCH_BYTES);
    if (plan.keepsValues && writeValues(out, plan, bytes, kinds, starts, ends)) flags |= FLAG_VALUES;
    out.buffer[flagsAt] = flags;
  }
}

function writeHead(out: ByteWriter, kind: number, shape: number, lsn: Lsn, ordinal: number): void {
  out.u8(kind);
  out.u32(shape);
  out.u64(lsn);
  // A transaction's end, which fills carry, is the largest ordinal there is; before the first it is -1.
  out.u32(Math.max(ordinal, 0));
}

function writeKey(
  out: ByteWriter,
  plan: RowPlan,
  bytes: Buffer,
  kinds: Int32Array,
  starts: Int32Array,
  ends: Int32Array,
): void {
  const sizeAt = out.length;
  out.u32(0);
  const { keyColumns } = plan;
  for (let i = 0; i < keyColumns.length; i++) {
    const column = keyColumns[i]!;
    // Postgres keeps key columns in line and not null, so anything else means the announced key is not the row's.
    if (kinds[column] !== VALUE_TEXT) throw keyIncomplete(plan);
    const start = starts[column]!;
    const end = ends[column]!;
    writeSize(out, end - start);
    out.copy(bytes, start, end);
  }
  const size = out.length - sizeAt - 4;
  const target = out.buffer;
  target[sizeAt] = size >>> 24;
  target[sizeAt + 1] = size >>> 16;
  target[sizeAt + 2] = size >>> 8;
  target[sizeAt + 3] = size;
}

/** Decimal digits and a colon. */
function writeSize(out: ByteWriter, size: number): void {
  out.reserve(12);
  const target = out.buffer;
  let digits = 1;
  for (let rest = size; rest >= 10; rest = (rest / 10) | 0) digits++;
  let at = out.length + digits;
  out.length = at + 1;
  target[at] = 0x3a;
  let rest = size;
  do {
    const next = (rest / 10) | 0;
    target[--at] = 48 + rest - next * 10;
    rest = next;
  } while (rest > 0);
}

/** The values that a later update could leave out: see toastable.ts. False, and nothing written, when there is none. */
function writeValues(
  out: ByteWriter,
  plan: RowPlan,
  bytes: Buffer,
  kinds: Int32Array,
  starts: Int32Array,
  ends: Int32Array,
): boolean {
  const { columns, minimums, densities, fixedBytes } = plan.toast;
  if (columns.length === 0) return false;
  let stored = TUPLE_HEADER_BYTES + fixedBytes;
  let unchanged = 0;
  for (let i = 0; i < columns.length; i++) {
    const column = columns[i]!;
    if (kinds[column] === VALUE_TEXT) stored += 32 + ((ends[column]! - starts[column]!) << densities[i]!);
    else if (kinds[column] === VALUE_UNCHANGED) unchanged++;
  }
  // Beside a value that lies out of line already, Postgres shrinks the row further at any length.
  if (unchanged === 0 && stored <= TOAST_ROW_BYTES) return false;
  const countAt = out.length;
  out.reserve(2);
  out.length += 2;
  let count = 0;
  for (let i = 0; i < columns.length; i++) {
    const column = columns[i]!;
    const kind = kinds[column]!;
    const size = ends[column]! - starts[column]!;
    if (kind === VALUE_UNCHANGED) {
      out.reserve(3);
      out.buffer[out.length++] = column >>> 8;
      out.buffer[out.length++] = column;
      out.buffer[out.length++] = VALUE_NOT_SENT;
      count++;
    } else if (kind === VALUE_TEXT && size >= minimums[i]!) {
      out.reserve(3);
      out.buffer[out.length++] = column >>> 8;
      out.buffer[out.length++] = column;
      out.buffer[out.length++] = VALUE_KEPT;
      out.u32(size);
      out.copy(bytes, starts[column]!, ends[column]!);
      count++;
    }
  }
  out.buffer[countAt] = count >>> 8;
  out.buffer[countAt + 1] = count;
  return true;
}

function hasKey({ keyColumns }: RowPlan, kinds: Int32Array): boolean {
  for (let i = 0; i < keyColumns.length; i++) if (kinds[keyColumns[i]!] !== VALUE_TEXT) return false;
  return true;
}

function sameKey(plan: RowPlan, bytes: Buffer, row: RowReader): boolean {
  const { keyColumns } = plan;
  for (let i = 0; i < keyColumns.length; i++) {
    const column = keyColumns[i]!;
    const oldSize = row.oldEnds[column]! - row.oldStarts[column]!;
    if (oldSize !== row.newEnds[column]! - row.newStarts[column]!) return false;
    const oldStart = row.oldStarts[column]!;
    const newStart = row.newStarts[column]!;
    for (let at = 0; at < oldSize; at++) if (bytes[oldStart + at] !== bytes[newStart + at]) return false;
  }
  return true;
}

/**
 * Replica identity full sends the old row whole, so a column that was not sent anew is in there. So is a key column that
 * lies out of line: for its sake the old key is sent although it did not change.
 */
function fillUnchanged({ keyColumns }: RowPlan, row: RowReader): void {
  for (let i = 0; i < row.newCount; i++) {
    if (row.newKinds[i] !== VALUE_UNCHANGED) continue;
    if (row.oldKind !== OLD_ROW && !keyColumns.includes(i)) continue;
    row.newKinds[i] = row.oldKinds[i]!;
    row.newStarts[i] = row.oldStarts[i]!;
    row.newEnds[i] = row.oldEnds[i]!;
  }
}

function checkShape(plan: RowPlan, columns: number): void {
  if (columns === 0 || columns === plan.codecs.length) return;
  const { schema, name } = plan.schema;
  throw new MillraceError('decode_stale_relation', {
    detail: `${schema}.${name} was announced with ${plan.codecs.length} columns, a row has ${columns}.`,
  });
}

function keyIncomplete(plan: RowPlan): MillraceError {
  return new MillraceError('decode_stale_relation', {
    detail: `A row of ${plan.schema.schema}.${plan.schema.name} came without its whole key.`,
  });
}
