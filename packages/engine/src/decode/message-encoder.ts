/**
 * Makes messages of rows: column bytes go straight into JSON, once, without strings or objects in between. HOT PATH
 * (row and what it calls). Sequin's envelope: `{record, changes, action, metadata}`.
 */
import type { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import {
  DELETE,
  decodeMessage,
  decodeTruncate,
  INSERT,
  OLD_KEY,
  OLD_ROW,
  RowReader,
  UPDATE,
  VALUE_NULL,
  VALUE_TEXT,
  VALUE_UNCHANGED,
} from '@millrace/postgres/pgoutput';
import { writeJson, writeJsonString } from '@millrace/postgres/value-json';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { TableSchema } from '../table-schema.ts';
import type { ChangeVisitor } from './change-scanner.ts';
import {
  annotationsTail,
  CHANGES_OPEN,
  KEY_OPEN,
  type MessageOrigin,
  type MessagePlan,
  NULL,
  planMessages,
  planTransaction,
  RECORD_OPEN,
  type TransactionPlan,
  UNCHANGED_TOAST,
} from './message-plan.ts';
import type { SchemaHistory } from './schema-history.ts';

export interface EncoderOptions {
  readonly schemas: SchemaHistory;
  readonly origin: MessageOrigin;
  /** Which tables the sink takes; by the name messages carry. */
  readonly takes: (schema: string, table: string) => boolean;
  readonly actions: { readonly insert: boolean; readonly update: boolean; readonly delete: boolean };
}

/** What a `read` message says besides its row. */
export interface ReadContext {
  /** Everything at or before it was delivered before this row. */
  readonly at: Position;
  /** In the chunk. */
  readonly index: number;
  readonly lsn: Lsn;
  readonly readAtMicros: bigint;
  readonly backfill: string;
  readonly key: readonly string[];
}

/** Told of each change of a table that is being backfilled, whatever the sink's actions are. */
export interface ChangeWatch {
  changed(table: TableSchema, xid: number, bytes: Buffer, row: RowReader): void;
  truncated(table: TableSchema, xid: number): void;
}

const ANNOTATIONS_SET = 'sequin:transaction_annotations.set';
const ANNOTATIONS_CLEAR = 'sequin:transaction_annotations.clear';
const NO_ANNOTATIONS = annotationsTail('null');
const BASE64 = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/');

/** A relation the sink does not take. */
const SKIP = Symbol('skip');
/** A relation whose schema is not known yet. */
const UNKNOWN = Symbol('unknown');
type Entry = MessagePlan | typeof SKIP | typeof UNKNOWN;

export class MessageEncoder implements ChangeVisitor {
  readonly #options: EncoderOptions;
  readonly #row = new RowReader();
  readonly #relations = new Map<number, Buffer>();
  readonly #plans = new Map<number, Entry>();
  #lastOid = -1;
  #lastPlan: Entry = SKIP;
  #transaction: TransactionPlan = planTransaction(0n, 0n);
  #annotations: Buffer = NO_ANNOTATIONS;
  #xid = 0;

  #readPlan: MessagePlan | null = null;

  batch: MessageBatch | null = null;
  /** RELATION message whose schema has to be learned before the next row can be taken. */
  needed: Buffer | null = null;
  watch: ChangeWatch | null = null;

  constructor(options: EncoderOptions) {
    this.#options = options;
  }

  relation(bytes: Buffer, start: number, end: number): void {
    const oid = bytes.readUInt32BE(start + 1);
    const before = this.#relations.get(oid);
    if (before !== undefined && before.compare(bytes, start, end) === 0) return;
    this.#relations.set(oid, Buffer.from(bytes.subarray(start, end)));
    this.#plans.delete(oid);
    this.#lastOid = -1;
  }

  begin(lsn: Lsn, commitTimeMicros: bigint, xid: number): void {
    this.#transaction = planTransaction(lsn, commitTimeMicros);
    this.#annotations = NO_ANNOTATIONS;
    this.#xid = xid;
  }

  commit(): void {}

  truncate(bytes: Buffer, start: number, end: number): void {
    if (this.watch === null) return;
    for (const oid of decodeTruncate(bytes, start, end).oids) {
      const message = this.#relations.get(oid);
      // A relation nobody asked about yet has no change that a backfill could be waiting for.
      const schema = message === undefined ? undefined : this.#options.schemas.lookup(message);
      if (schema !== undefined) this.watch.truncated(schema, this.#xid);
    }
  }

  message(bytes: Buffer, start: number, end: number): void {
    const { prefix, contentStart, contentEnd } = decodeMessage(bytes, start, end);
    if (prefix === ANNOTATIONS_CLEAR) this.#annotations = NO_ANNOTATIONS;
    else if (prefix === ANNOTATIONS_SET) {
      const text = oneLineJson(bytes.toString('utf8', contentStart, contentEnd));
      if (text !== null) this.#annotations = annotationsTail(text);
    }
  }

  row(bytes: Buffer, start: number, end: number, ordinal: number): boolean {
    const oid = bytes.readUInt32BE(start + 1);
    if (oid !== this.#lastOid) this.#turnTo(oid);
    const plan = this.#lastPlan;
    if (plan === SKIP) return true;
    if (plan === UNKNOWN) {
      this.needed = this.#relations.get(oid)!;
      return false;
    }
    const batch = this.batch!;
    if (batch.full) return false;
    const row = this.#row;
    row.aim(bytes, start, end);
    const { actions } = this.#options;
    let fits = true;
    switch (bytes[start]) {
      case INSERT:
        if (actions.insert) fits = this.#insert(batch, plan, bytes, ordinal);
        break;
      case UPDATE:
        if (actions.update) fits = this.#update(batch, plan, bytes, ordinal);
        break;
      case DELETE:
        if (actions.delete) fits = this.#delete(batch, plan, bytes, ordinal);
        break;
    }
    if (fits && this.watch !== null) this.watch.changed(plan.schema, this.#xid, bytes, row);
    return fits;
  }

  /** A row of a backfill; `kinds`, `starts` and `ends` as RowReader's, one per column. false: the batch is full. */
  read(
    batch: MessageBatch,
    schema: TableSchema,
    row: { readonly bytes: Buffer; readonly kinds: Int32Array; readonly starts: Int32Array; readonly ends: Int32Array },
    about: ReadContext,
  ): boolean {
    if (batch.full) return false;
    if (this.#readPlan?.schema !== schema) this.#readPlan = planMessages(schema, this.#options.origin);
    const plan = this.#readPlan;
    const { bytes, kinds, starts, ends } = row;
    const out = batch.body;
    out.bytes(RECORD_OPEN);
    writeRecord(out, plan, bytes, kinds, starts, ends);
    out.bytes(plan.readHead);
    out.bytes(planTransaction(about.lsn, about.readAtMicros).head);
    writeDigits(out, about.index);
    out.bytes(KEY_OPEN);
    out.ascii(Buffer.from([about.backfill, ...about.key].join(':')).toString('base64'));
    out.bytes(NO_ANNOTATIONS);
    writeKey(out, plan, bytes, kinds, starts, ends);
    out.bytes(plan.tail);
    return batch.add(about.at.lsn, about.at.ordinal);
  }

  #turnTo(oid: number): void {
    let entry = this.#plans.get(oid);
    if (entry === undefined || entry === UNKNOWN) {
      entry = this.#plan(oid);
      this.#plans.set(oid, entry);
    }
    this.#lastOid = entry === UNKNOWN ? -1 : oid;
    this.#lastPlan = entry;
  }

  #plan(oid: number): Entry {
    const message = this.#relations.get(oid);
    if (message === undefined) throw new MillraceError('decode_unknown_relation', { detail: `Relation ${oid}.` });
    const schema = this.#options.schemas.lookup(message);
    if (schema === undefined) return UNKNOWN;
    return this.#options.takes(schema.schema, schema.name) ? planMessages(schema, this.#options.origin) : SKIP;
  }

  #insert(batch: MessageBatch, plan: MessagePlan, bytes: Buffer, ordinal: number): boolean {
    const row = this.#row;
    const out = batch.body;
    checkShape(plan, row.newCount);
    out.bytes(RECORD_OPEN);
    writeRecord(out, plan, bytes, row.newKinds, row.newStarts, row.newEnds);
    out.bytes(plan.insertHead);
    this.#metadata(out, ordinal);
    writeKey(out, plan, bytes, row.newKinds, row.newStarts, row.newEnds);
    out.bytes(plan.tail);
    return batch.add(this.#transaction.lsn, ordinal);
  }

  #update(batch: MessageBatch, plan: MessagePlan, bytes: Buffer, ordinal: number): boolean {
    const row = this.#row;
    const out = batch.body;
    checkShape(plan, row.newCount);
    if (row.oldKind !== 0) checkShape(plan, row.oldCount);
    if (row.oldKind === OLD_ROW) fillUnchanged(row);
    out.bytes(RECORD_OPEN);
    writeRecord(out, plan, bytes, row.newKinds, row.newStarts, row.newEnds);
    out.bytes(CHANGES_OPEN);
    if (row.oldKind !== 0) writeChanges(out, plan, bytes, row);
    out.bytes(plan.updateHead);
    this.#metadata(out, ordinal);
    writeKey(out, plan, bytes, row.newKinds, row.newStarts, row.newEnds);
    out.bytes(plan.tail);
    return batch.add(this.#transaction.lsn, ordinal);
  }

  #delete(batch: MessageBatch, plan: MessagePlan, bytes: Buffer, ordinal: number): boolean {
    const row = this.#row;
    const out = batch.body;
    checkShape(plan, row.oldCount);
    out.bytes(RECORD_OPEN);
    writeRecord(out, plan, bytes, row.oldKinds, row.oldStarts, row.oldEnds);
    out.bytes(plan.deleteHead);
    this.#metadata(out, ordinal);
    writeKey(out, plan, bytes, row.oldKinds, row.oldStarts, row.oldEnds);
    out.bytes(plan.tail);
    return batch.add(this.#transaction.lsn, ordinal);
  }

  #metadata(out: ByteWriter, ordinal: number): void {
    const transaction = this.#transaction;
    out.bytes(transaction.head);
    writeDigits(out, ordinal);
    out.bytes(KEY_OPEN);
    out.bytes(transaction.keyStart);
    writeKeyEnd(out, transaction.keyRest, ordinal);
    out.bytes(this.#annotations);
  }
}

/** I8: a row of an unannounced shape must not be decoded, it would file values under the wrong names, silently. */
function checkShape(plan: MessagePlan, columns: number): void {
  if (columns === plan.codecs.length) return;
  const { schema, name } = plan.schema;
  throw new MillraceError('decode_stale_relation', {
    detail: `${schema}.${name} was announced with ${plan.codecs.length} columns, a row has ${columns}.`,
  });
}

function writeRecord(
  out: ByteWriter,
  plan: MessagePlan,
  bytes: Buffer,
  kinds: Int32Array,
  starts: Int32Array,
  ends: Int32Array,
): void {
  const { names, codecs } = plan;
  for (let i = 0; i < codecs.length; i++) {
    out.bytes(names[i]!);
    switch (kinds[i]) {
      case VALUE_TEXT:
        writeJson(out, codecs[i]!, bytes, starts[i]!, ends[i]!);
        break;
      case VALUE_UNCHANGED:
        out.bytes(UNCHANGED_TOAST);
        break;
      default:
        out.bytes(NULL);
    }
  }
}

/** Replica identity full sends the old row whole, so a column that was not sent anew is in there. */
function fillUnchanged(row: RowReader): void {
  const { newKinds, newStarts, newEnds, oldKinds, oldStarts, oldEnds } = row;
  for (let i = 0; i < row.newCount; i++) {
    if (newKinds[i] !== VALUE_UNCHANGED) continue;
    newKinds[i] = oldKinds[i]!;
    newStarts[i] = oldStarts[i]!;
    newEnds[i] = oldEnds[i]!;
  }
}

/** Old values of the columns that differ. Under OLD_KEY only key columns were sent, the others are not known. */
function writeChanges(out: ByteWriter, plan: MessagePlan, bytes: Buffer, row: RowReader): void {
  const { newKinds, newStarts, newEnds, oldKinds, oldStarts, oldEnds } = row;
  let first = true;
  for (let i = 0; i < row.oldCount; i++) {
    const kind = oldKinds[i]!;
    if (kind === VALUE_UNCHANGED || newKinds[i] === VALUE_UNCHANGED) continue;
    if (kind === VALUE_NULL) {
      if (row.oldKind === OLD_KEY || newKinds[i] === VALUE_NULL) continue;
    } else if (newKinds[i] === kind && sameBytes(bytes, oldStarts[i]!, oldEnds[i]!, newStarts[i]!, newEnds[i]!))
      continue;
    if (!first) out.u8(0x2c);
    first = false;
    out.bytes(plan.bareNames[i]!);
    if (kind === VALUE_NULL) out.bytes(NULL);
    else writeJson(out, plan.codecs[i]!, bytes, oldStarts[i]!, oldEnds[i]!);
  }
}

function sameBytes(bytes: Buffer, aStart: number, aEnd: number, bStart: number, bEnd: number): boolean {
  const size = aEnd - aStart;
  if (size !== bEnd - bStart) return false;
  if (size > 64) return bytes.compare(bytes, aStart, aEnd, bStart, bEnd) === 0;
  for (let i = 0; i < size; i++) if (bytes[aStart + i] !== bytes[bStart + i]) return false;
  return true;
}

function writeKey(
  out: ByteWriter,
  plan: MessagePlan,
  bytes: Buffer,
  kinds: Int32Array,
  starts: Int32Array,
  ends: Int32Array,
): void {
  const { keyColumns } = plan;
  for (let i = 0; i < keyColumns.length; i++) {
    if (i > 0) out.u8(0x2c);
    const column = keyColumns[i]!;
    if (kinds[column] === VALUE_TEXT) writeJsonString(out, bytes, starts[column]!, ends[column]!);
    else out.bytes(NULL);
  }
}

export function writeDigits(out: ByteWriter, value: number): void {
  out.reserve(10);
  const target = out.buffer;
  let size = 1;
  for (let rest = value; rest >= 10; rest = (rest / 10) | 0) size++;
  let at = out.length + size;
  out.length = at;
  let rest = value;
  do {
    const next = (rest / 10) | 0;
    target[--at] = 48 + rest - next * 10;
    rest = next;
  } while (rest > 0);
}

const scratch = Buffer.alloc(16);

/** The last groups of base64(`<lsn>:<ordinal>`): what is left of the prefix, then the ordinal's digits. */
function writeKeyEnd(out: ByteWriter, rest: readonly number[], ordinal: number): void {
  let size = 0;
  for (; size < rest.length; size++) scratch[size] = rest[size]!;
  let digits = 1;
  for (let left = ordinal; left >= 10; left = (left / 10) | 0) digits++;
  size += digits;
  let left = ordinal;
  for (let at = size - 1; at >= size - digits; at--) {
    const next = (left / 10) | 0;
    scratch[at] = 48 + left - next * 10;
    left = next;
  }
  out.reserve(20);
  const target = out.buffer;
  let at = out.length;
  let i = 0;
  for (; i + 2 < size; i += 3) {
    const group = (scratch[i]! << 16) | (scratch[i + 1]! << 8) | scratch[i + 2]!;
    target[at++] = BASE64[group >>> 18]!;
    target[at++] = BASE64[(group >>> 12) & 63]!;
    target[at++] = BASE64[(group >>> 6) & 63]!;
    target[at++] = BASE64[group & 63]!;
  }
  if (size - i === 1) {
    target[at++] = BASE64[scratch[i]! >>> 2]!;
    target[at++] = BASE64[(scratch[i]! & 3) << 4]!;
    target[at++] = 0x3d;
    target[at++] = 0x3d;
  } else if (size - i === 2) {
    target[at++] = BASE64[scratch[i]! >>> 2]!;
    target[at++] = BASE64[((scratch[i]! & 3) << 4) | (scratch[i + 1]! >>> 4)]!;
    target[at++] = BASE64[(scratch[i + 1]! & 15) << 2]!;
    target[at++] = 0x3d;
  }
  out.length = at;
}

/** JSON text that fits on one line, or null when it is not JSON. */
function oneLineJson(text: string): string | null {
  try {
    JSON.parse(text);
    return text.replace(/[\n\r\t]/g, ' ');
  } catch {
    return null;
  }
}
