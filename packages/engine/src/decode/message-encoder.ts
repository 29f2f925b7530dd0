/**
 * Makes messages of rows: column bytes go straight into JSON, once, without strings or objects in between. HOT PATH
 * (row and what it calls). Sequin's envelope: `{record, changes, action, metadata}`.
 */
import type { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import { DDL_PREFIX } from '@millrace/postgres/ddl-trigger';
import {
  DELETE,
  decodeMessage,
  decodeTruncate,
  INSERT,
  OLD_KEY,
  RowReader,
  UPDATE,
  VALUE_TEXT,
  VALUE_UNCHANGED,
} from '@millrace/postgres/pgoutput';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import { type LastValue, type LastValues, rowKey } from '../last-values.ts';
import type { TableSchema } from '../table-schema.ts';
import type { ChangeVisitor } from './change-scanner.ts';
import { COLUMN_HIDDEN } from './column-treatment.ts';
import * as notices from './content-notices.ts';
import {
  type EventContext,
  oneLineJson,
  parseDdl,
  writeDdl,
  writeLogicalMessage,
  writeSchema,
  writeTruncate,
} from './event-messages.ts';
import {
  ANNOTATIONS_PREFIX,
  type ContentNotice,
  DEFAULT_CONTENTS,
  type MessageContents,
  OWN_PREFIX,
} from './message-contents.ts';
import { describeEvent, describeRow, messageGroup, type TupleColumns } from './message-description.ts';
import {
  annotationsTail,
  CHANGES_OPEN,
  KEY_OPEN,
  type MessageOrigin,
  type MessagePlan,
  NULL,
  OLD_KEY_OPEN,
  planMessages,
  planTail,
  planTransaction,
  RECORD_OPEN,
  type TransactionPlan,
  UNCHANGED_OPEN,
  UNCHANGED_TOAST,
} from './message-plan.ts';
import { type FindValue, NO, NOT_SENT, type RowFilter, UNKNOWN as UNKNOWN_NULL, YES } from './row-filter.ts';
import {
  checkShape,
  fillUnchanged,
  keyChanged,
  writeChanges,
  writeDigits,
  writeKey,
  writeKeyEnd,
  writeRecord,
  writeTreated,
} from './row-json.ts';
import { checkRenamed, requireCaptured, shownSchema } from './row-rules.ts';
import { NO_RULES, type RowRulesConfig } from './row-rules-config.ts';
import type { SchemaHistory, VersionedSchema } from './schema-history.ts';

export interface EncoderOptions {
  readonly schemas: SchemaHistory;
  readonly origin: MessageOrigin;
  /** Which tables the sink takes; by the name messages carry. */
  readonly takes: (schema: string, table: string) => boolean;
  readonly actions: {
    readonly insert: boolean;
    readonly update: boolean;
    readonly delete: boolean;
    readonly truncate?: boolean;
  };
  readonly contents?: MessageContents;
  readonly rules?: RowRulesConfig;
  /** Throws where rows of the table may have been left out that the sink takes; asked once per shape. */
  readonly announced?: (table: TableSchema, lsn: Lsn) => void;
  /** Where values come from that were not sent; null: nowhere. */
  readonly lastValues?: LastValues | null;
  /** Marks of the sink's cursor: which version of a table it was told of last. */
  readonly marks?: ReadonlyMap<string, readonly string[]>;
  readonly onNotice?: (notice: ContentNotice) => void;
}

/** What has to be there before the next message can be made. */
export type Needed =
  | { readonly kind: 'schema'; readonly relation: Buffer; readonly at: Position }
  | { readonly kind: 'values'; readonly lastValues: LastValues; readonly at: Position };

/** A mark of this kind in a cursor says which version of a table the sink was told of; others are of backfills. */
export const SCHEMA_MARK = 'schema/';

/** Told of each change that was delivered, for the backfills of the sink: what it does not take makes no row stale. */
export interface ChangeWatch {
  /** Changes of this transaction follow. */
  begun(xid: number, lsn: Lsn): void;
  /** `action`: INSERT, UPDATE or DELETE. */
  changed(table: TableSchema, xid: number, action: number, bytes: Buffer, row: RowReader): void;
  truncated(table: TableSchema, xid: number): void;
}

const ANNOTATIONS_SET = `${ANNOTATIONS_PREFIX}set`;
const ANNOTATIONS_CLEAR = `${ANNOTATIONS_PREFIX}clear`;
const NO_ANNOTATIONS = annotationsTail('null');

/** What becomes of a row: a message, none, or that cannot be told yet. */
const PASSES = 0;
const HELD = 1;
const WAITS = 2;

/** A relation the sink does not take. */
const SKIP = Symbol('skip');
/** A relation whose schema is not known yet. */
const UNKNOWN = Symbol('unknown');
/** The sink has to be told of the table's shape first. */
const UNTOLD = Symbol('untold');
type Entry = MessagePlan | typeof SKIP | typeof UNKNOWN;

export class MessageEncoder implements ChangeVisitor {
  readonly #options: EncoderOptions;
  readonly #contents: MessageContents;
  readonly #rules: RowRulesConfig;
  readonly #lastValues: LastValues | null;
  readonly #row = new RowReader();
  readonly #relations = new Map<number, Buffer>();
  readonly #plans = new Map<number, Entry>();
  /** The plan a relation had before it was announced again. */
  readonly #former = new Map<number, MessagePlan>();
  readonly #told = new Map<number, number>();
  #forgotten: number;
  readonly #tail: Buffer;
  #lastOid = -1;
  #lastPlan: Entry | typeof UNTOLD = SKIP;
  #transaction: TransactionPlan = planTransaction(0n, 0n);
  #annotations: Buffer = NO_ANNOTATIONS;
  /** One of the transaction is no JSON, and no row that the sink takes has come since. */
  #annotationInvalid = false;
  #xid = 0;
  /** Where the idempotency key of the last row lies in the batch. */
  #keyFrom = 0;
  #keyTo = 0;
  /** Names of the columns whose values the row being written lacks. */
  #left: string[] = [];
  readonly #noted = new WeakSet<MessagePlan>();
  readonly #unknownUpdates = new WeakSet<MessagePlan>();
  readonly #unknownDeletes = new WeakSet<MessagePlan>();

  batch: MessageBatch | null = null;
  /** What the next row waits for. */
  needed: Needed | null = null;
  watch: ChangeWatch | null = null;

  constructor(options: EncoderOptions) {
    this.#options = options;
    this.#forgotten = options.schemas.forgotten;
    this.#contents = options.contents ?? DEFAULT_CONTENTS;
    this.#rules = options.rules ?? NO_RULES;
    this.#lastValues = options.lastValues ?? null;
    this.#tail = planTail(options.origin);
    for (const [mark, key] of options.marks ?? []) {
      if (mark.startsWith(SCHEMA_MARK)) this.#told.set(Number(mark.slice(SCHEMA_MARK.length)), Number(key[0]));
    }
  }

  relation(bytes: Buffer, start: number, end: number): void {
    if (this.#forgotten !== this.#options.schemas.forgotten) this.#forget();
    const oid = bytes.readUInt32BE(start + 1);
    const before = this.#relations.get(oid);
    if (before === undefined || before.compare(bytes, start, end) !== 0) {
      this.#relations.set(oid, Buffer.from(bytes.subarray(start, end)));
    }
    // Also where it is the same again: the table may have become a partition, or have another key.
    const plan = this.#plans.get(oid);
    if (typeof plan === 'object') this.#former.set(oid, plan);
    this.#plans.delete(oid);
    this.#lastOid = -1;
  }

  /** What was made of tables that are gone, and of which no change will come. */
  #forget(): void {
    const { schemas } = this.#options;
    this.#forgotten = schemas.forgotten;
    for (const made of [this.#plans, this.#former, this.#told]) {
      for (const oid of made.keys()) if (!schemas.knows(oid)) made.delete(oid);
    }
  }

  begin(lsn: Lsn, commitTimeMicros: bigint, xid: number): void {
    this.#transaction = planTransaction(lsn, commitTimeMicros);
    this.#annotations = NO_ANNOTATIONS;
    this.#annotationInvalid = false;
    this.#xid = xid;
    this.watch?.begun(xid, lsn);
  }

  commit(): void {}

  truncate(bytes: Buffer, start: number, end: number, ordinal: number, index: number): boolean {
    const { oids, cascade, restartIdentity } = decodeTruncate(bytes, start, end);
    const plan = this.#entry(oids[index]!, ordinal);
    if (plan === SKIP) return true;
    if (plan === UNKNOWN) return false;
    if (this.#options.actions.truncate === true) {
      const batch = this.batch!;
      if (batch.full) return false;
      const key = writeTruncate(batch.body, this.#context(), plan.schema, ordinal, { cascade, restartIdentity });
      if (!batch.add(this.#transaction.lsn, ordinal)) return false;
      this.#describeBarrier(batch, 'truncate', plan.schema, key);
    } else this.#options.onNotice?.(notices.truncateNotDelivered(plan.schema));
    this.watch?.truncated(plan.schema, this.#xid);
    return true;
  }

  message(bytes: Buffer, start: number, end: number, ordinal: number, fresh: boolean): boolean {
    const { prefix, transactional, contentStart, contentEnd } = decodeMessage(bytes, start, end);
    const content = bytes.subarray(contentStart, contentEnd);
    if (prefix.startsWith(ANNOTATIONS_PREFIX)) this.#annotate(prefix, content, fresh);
    else if (!fresh) return true;
    else if (prefix === DDL_PREFIX) return this.#ddl(content, ordinal);
    else if (!prefix.startsWith(OWN_PREFIX) && this.#takesMessage(prefix)) {
      const batch = this.batch!;
      if (batch.full) return false;
      const key = writeLogicalMessage(batch.body, this.#context(), ordinal, { prefix, content, transactional });
      if (!batch.add(this.#transaction.lsn, ordinal)) return false;
      if (batch.descriptions !== null) {
        const group = this.#rules.messageGrouping ? messageGroup(prefix) : null;
        describeEvent(batch.descriptions, 'message', null, key, group, false);
      }
    }
    return true;
  }

  #annotate(prefix: string, content: Buffer, fresh: boolean): void {
    if (prefix === ANNOTATIONS_CLEAR) this.#annotations = NO_ANNOTATIONS;
    else if (prefix === ANNOTATIONS_SET) {
      const text = oneLineJson(content.toString());
      if (text !== null) this.#annotations = annotationsTail(text);
      else if (fresh) {
        this.#annotationInvalid = true;
        // The next row looks its table up again.
        this.#lastOid = -1;
      }
    }
  }

  #takesMessage(prefix: string): boolean {
    const { logicalMessages } = this.#contents;
    return logicalMessages === 'all' || logicalMessages.includes(prefix);
  }

  #ddl(content: Buffer, ordinal: number): boolean {
    if (!this.#contents.schemaChanges) return true;
    const event = parseDdl(content);
    if (event === null) {
      this.#options.onNotice?.(notices.invalidDdl());
      return true;
    }
    if (event.table !== null && !this.#options.takes(event.table.schema, event.table.name)) return true;
    const batch = this.batch!;
    if (batch.full) return false;
    const key = writeDdl(batch.body, this.#context(), ordinal, event);
    if (!batch.add(this.#transaction.lsn, ordinal)) return false;
    this.#describeBarrier(batch, 'ddl', event.table, key);
    return true;
  }

  /** What concerns whole tables comes between all that is before it and all that is after it. */
  #describeBarrier(
    { descriptions }: MessageBatch,
    action: 'truncate' | 'schema' | 'ddl',
    table: { readonly schema: string; readonly name: string } | null,
    key: string,
  ): void {
    if (descriptions === null) return;
    const grouped = this.#rules.messageGrouping;
    describeEvent(descriptions, action, table, key, grouped ? action : null, grouped);
  }

  #context(): EventContext {
    return { transaction: this.#transaction, annotations: this.#annotations, tail: this.#tail };
  }

  row(bytes: Buffer, start: number, end: number, ordinal: number): boolean {
    const oid = bytes.readUInt32BE(start + 1);
    if (oid !== this.#lastOid) this.#turnTo(oid, ordinal);
    const plan = this.#lastPlan;
    if (plan === SKIP) return true;
    if (plan === UNKNOWN) return false;
    const batch = this.batch!;
    if (batch.full) return false;
    if (plan === UNTOLD) {
      this.#tell(batch, oid, ordinal);
      return false;
    }
    const row = this.#row;
    row.aim(bytes, start, end);
    const { actions } = this.#options;
    const action = bytes[start]!;
    if (!(action === INSERT ? actions.insert : action === UPDATE ? actions.update : actions.delete)) return true;
    if (plan.filter !== null) {
      const verdict = this.#judge(plan, plan.filter, action, bytes, ordinal);
      if (verdict !== PASSES) return verdict !== WAITS;
    }
    let fits = true;
    switch (action) {
      case INSERT:
        fits = this.#insert(batch, plan, bytes, ordinal);
        break;
      case UPDATE:
        fits = this.#update(batch, plan, bytes, ordinal);
        break;
      case DELETE:
        fits = this.#delete(batch, plan, bytes, ordinal);
        break;
    }
    if (fits && this.watch !== null) this.watch.changed(plan.schema, this.#xid, action, bytes, row);
    return fits;
  }

  /**
   * Whether a row becomes a message, by the filters of the sink. A row that does not is still told to the watch where it
   * makes rows stale that a backfill has read: it is gone, or no longer what the filters let through.
   */
  #judge(plan: MessagePlan, filter: RowFilter, action: number, bytes: Buffer, ordinal: number): number {
    const row = this.#row;
    const { newKinds, newStarts, newEnds, oldKind, oldKinds, oldStarts, oldEnds } = row;
    const keyOnly = oldKind === OLD_KEY;
    let values: number;
    let changes = YES;
    if (action === DELETE) {
      checkShape(plan, row.oldCount);
      values = filter.values(bytes, oldKinds, oldStarts, oldEnds, keyOnly, null);
    } else {
      checkShape(plan, row.newCount);
      if (oldKind !== 0) {
        checkShape(plan, row.oldCount);
        fillUnchanged(row);
      }
      let find: FindValue | null = null;
      if (this.#lastValues !== null && filter.lacks(newKinds)) {
        if (!this.#canFill(ordinal)) return WAITS;
        find = (column) => this.#lastValue(plan, bytes, column, ordinal);
      }
      values = filter.values(bytes, newKinds, newStarts, newEnds, false, find);
      if (action === UPDATE && values === YES) {
        changes = filter.changes(bytes, newKinds, newStarts, newEnds, oldKind, keyOnly, oldKinds, oldStarts, oldEnds);
      }
    }
    if (values === YES && changes === YES) return PASSES;
    if (values === NOT_SENT || changes === NOT_SENT) this.#noteUnknown(plan, action);
    const gone = action === DELETE || values === NO || values === UNKNOWN_NULL;
    if (gone && this.watch !== null) this.watch.changed(plan.schema, this.#xid, action, bytes, row);
    return HELD;
  }

  #noteUnknown(plan: MessagePlan, action: number): void {
    const noted = action === DELETE ? this.#unknownDeletes : this.#unknownUpdates;
    if (noted.has(plan)) return;
    noted.add(plan);
    this.#options.onNotice?.(notices.filterUnknown(plan.schema, action === DELETE ? 'delete' : 'update'));
  }

  /** What a column held that an update left alone. Asked only where the values are known up to here. */
  #lastValue(plan: MessagePlan, bytes: Buffer, column: number, ordinal: number): LastValue | null {
    const { newKinds, newStarts, newEnds, oldKind, oldKinds, oldStarts, oldEnds } = this.#row;
    let key = null;
    if (oldKind !== 0) key = rowKey(bytes, plan.identityColumns, oldKinds, oldStarts, oldEnds);
    key ??= rowKey(bytes, plan.identityColumns, newKinds, newStarts, newEnds);
    if (key === null) return null;
    const at = { lsn: this.#transaction.lsn, ordinal };
    return this.#lastValues!.value(plan.schema, key, plan.schema.columns[column]!.name, at);
  }

  #turnTo(oid: number, ordinal: number): void {
    const entry = this.#entry(oid, ordinal);
    const untold = typeof entry === 'object' && this.#contents.schemaChanges && !this.#isTold(entry.schema);
    this.#lastOid = entry === UNKNOWN || untold ? -1 : oid;
    this.#lastPlan = untold ? UNTOLD : entry;
    if (!this.#annotationInvalid || typeof entry !== 'object') return;
    this.#annotationInvalid = false;
    this.#options.onNotice?.(notices.invalidAnnotation());
  }

  #isTold(schema: TableSchema): boolean {
    return this.#told.get(schema.oid) === schema.version;
  }

  /**
   * The table's shape, as the last message of its batch: the batch carries the mark by which a restart knows that the
   * sink was told. Its position is that of the change before, so the row is still to come either way.
   */
  #tell(batch: MessageBatch, oid: number, ordinal: number): void {
    const schema = (this.#plans.get(oid) as MessagePlan).schema as VersionedSchema;
    const told = this.#told.get(oid);
    const before = told === undefined ? null : (this.#options.schemas.version(oid, told) ?? null);
    const shown = shownSchema(schema, this.#rules);
    const shownBefore = before === null ? null : shownSchema(before, this.#rules);
    const key = writeSchema(batch.body, this.#context(), shown, shownBefore, ordinal);
    if (!batch.add(this.#transaction.lsn, ordinal - 1)) return;
    this.#describeBarrier(batch, 'schema', schema, key);
    batch.mark = { backfill: `${SCHEMA_MARK}${oid}`, key: [String(schema.version)] };
    this.#told.set(oid, schema.version);
  }

  #entry(oid: number, ordinal: number): Entry {
    let entry = this.#plans.get(oid);
    if (entry === undefined || entry === UNKNOWN) {
      entry = this.#plan(oid, ordinal);
      this.#plans.set(oid, entry);
    }
    return entry;
  }

  #plan(oid: number, ordinal: number): Entry {
    const relation = this.#relations.get(oid);
    if (relation === undefined) throw new MillraceError('decode_unknown_relation', { detail: `Relation ${oid}.` });
    const at = { lsn: this.#transaction.lsn, ordinal };
    const schema = this.#options.schemas.lookup(relation, at);
    if (schema === undefined) {
      this.needed = { kind: 'schema', relation, at };
      return UNKNOWN;
    }
    const { takes } = this.#options;
    if (!takes(schema.schema, schema.name)) {
      const before = this.#options.schemas.former(schema);
      if (before !== undefined && takes(before.schema, before.name))
        this.#options.onNotice?.(notices.tableRenamed(before, schema));
      return SKIP;
    }
    if (this.#options.rules !== undefined) requireCaptured(schema, this.#rules);
    this.#options.announced?.(schema, at.lsn);
    if (this.#options.rules !== undefined) {
      checkRenamed(this.#options.schemas.former(schema), schema, this.#rules);
    }
    const former = this.#former.get(oid);
    if (former?.schema === schema) return former;
    notices.identityNotices(former?.schema, schema, (notice) => this.#options.onNotice?.(notice));
    return planMessages(schema, this.#options.origin, this.#rules);
  }

  #insert(batch: MessageBatch, plan: MessagePlan, bytes: Buffer, ordinal: number): boolean {
    const row = this.#row;
    const out = batch.body;
    checkShape(plan, row.newCount);
    const start = out.length;
    out.bytes(RECORD_OPEN);
    // A row that comes into a row filter is an insert to us, without the values that its update did not touch.
    const whole = writeRecord(out, plan, bytes, row.newKinds, row.newStarts, row.newEnds);
    if (!whole && !this.#sparseRecord(out, start, plan, bytes, ordinal)) return false;
    out.bytes(plan.insertHead);
    this.#metadata(out, ordinal);
    writeKey(out, plan, bytes, row.newKinds, row.newStarts, row.newEnds);
    if (!whole) this.#leftOut(out);
    out.bytes(plan.tail);
    return this.#admit(batch, plan, 'insert', bytes, ordinal);
  }

  #update(batch: MessageBatch, plan: MessagePlan, bytes: Buffer, ordinal: number): boolean {
    const row = this.#row;
    const out = batch.body;
    checkShape(plan, row.newCount);
    if (row.oldKind !== 0) checkShape(plan, row.oldCount);
    if (row.oldKind !== 0) fillUnchanged(row);
    const start = out.length;
    out.bytes(RECORD_OPEN);
    const whole = writeRecord(out, plan, bytes, row.newKinds, row.newStarts, row.newEnds);
    if (!whole && !this.#sparseRecord(out, start, plan, bytes, ordinal)) return false;
    out.bytes(CHANGES_OPEN);
    if (row.oldKind !== 0) writeChanges(out, plan, bytes, row);
    out.bytes(plan.updateHead);
    this.#metadata(out, ordinal);
    writeKey(out, plan, bytes, row.newKinds, row.newStarts, row.newEnds);
    if (row.oldKind !== 0 && keyChanged(plan, bytes, row)) {
      out.bytes(OLD_KEY_OPEN);
      writeKey(out, plan, bytes, row.oldKinds, row.oldStarts, row.oldEnds);
    }
    if (!whole) this.#leftOut(out);
    out.bytes(plan.tail);
    return this.#admit(batch, plan, 'update', bytes, ordinal);
  }

  #delete(batch: MessageBatch, plan: MessagePlan, bytes: Buffer, ordinal: number): boolean {
    const row = this.#row;
    const out = batch.body;
    checkShape(plan, row.oldCount);
    out.bytes(RECORD_OPEN);
    if (!writeRecord(out, plan, bytes, row.oldKinds, row.oldStarts, row.oldEnds)) {
      throw new MillraceError('decode_malformed', { detail: 'A deleted row lacks a value, which only a new one can.' });
    }
    out.bytes(plan.deleteHead);
    this.#metadata(out, ordinal);
    writeKey(out, plan, bytes, row.oldKinds, row.oldStarts, row.oldEnds);
    out.bytes(plan.tail);
    return this.#admit(batch, plan, 'delete', bytes, ordinal);
  }

  #admit(
    batch: MessageBatch,
    plan: MessagePlan,
    action: 'insert' | 'update' | 'delete',
    bytes: Buffer,
    ordinal: number,
  ): boolean {
    if (!batch.add(this.#transaction.lsn, ordinal)) return false;
    if (batch.descriptions !== null) this.#describe(batch, plan, action, bytes);
    return true;
  }

  #describe(batch: MessageBatch, plan: MessagePlan, action: 'insert' | 'update' | 'delete', bytes: Buffer): void {
    const { oldKind, oldKinds, oldStarts, oldEnds, newKinds, newStarts, newEnds } = this.#row;
    const old: TupleColumns | null = oldKind === 0 ? null : { kinds: oldKinds, starts: oldStarts, ends: oldEnds };
    const row = action === 'delete' ? old! : { kinds: newKinds, starts: newStarts, ends: newEnds };
    const key = batch.body.buffer.toString('latin1', this.#keyFrom, this.#keyTo);
    describeRow(batch.descriptions!, plan, action, bytes, row, oldKind, old, key);
  }

  /** False: the values that are to be filled in are not known up to here yet; the row has to wait. */
  #canFill(ordinal: number): boolean {
    const lastValues = this.#lastValues;
    if (lastValues === null) return true;
    const at = { lsn: this.#transaction.lsn, ordinal };
    if (lastValues.covers(at)) return true;
    this.needed = { kind: 'values', lastValues, at };
    return false;
  }

  /**
   * A row of which some values were not sent: filled in from before, or left out. The message begins at `start`; false:
   * it cannot be made yet, and nothing of it is left.
   */
  #sparseRecord(out: ByteWriter, start: number, plan: MessagePlan, bytes: Buffer, ordinal: number): boolean {
    out.rewind(start);
    if (!this.#canFill(ordinal)) return false;
    out.bytes(RECORD_OPEN);
    const { newKinds, newStarts, newEnds } = this.#row;
    const { codecs, treatments } = plan;
    this.#left = [];
    let first = true;
    for (let i = 0; i < codecs.length; i++) {
      if (treatments !== null && treatments.kinds[i] === COLUMN_HIDDEN) continue;
      const codec = codecs[i]!;
      const kind = newKinds[i];
      const filled = kind === VALUE_UNCHANGED && this.#lastValues !== null;
      const last = filled ? this.#lastValue(plan, bytes, i, ordinal) : null;
      if (kind === VALUE_UNCHANGED && last === null) this.#left.push(plan.shownNames[i]!);
      if (kind === VALUE_UNCHANGED && last === null && this.#contents.unchanged === 'omit') continue;
      if (!first) out.u8(0x2c);
      first = false;
      out.bytes(plan.bareNames[i]!);
      if (last !== null) writeTreated(out, codec, treatments, i, last.bytes, last.start, last.end);
      else if (kind === VALUE_TEXT) writeTreated(out, codec, treatments, i, bytes, newStarts[i]!, newEnds[i]!);
      else out.bytes(kind === VALUE_UNCHANGED ? UNCHANGED_TOAST : NULL);
    }
    if (this.#left.length > 0) this.#noteLeft(plan);
    return true;
  }

  /** Without values that the update left alone. They are not null: the metadata names them. */
  #leftOut(out: ByteWriter): void {
    if (this.#left.length === 0 || this.#contents.unchanged === 'marker') return;
    out.bytes(UNCHANGED_OPEN);
    out.bytes(Buffer.from(JSON.stringify(this.#left).slice(1, -1)));
  }

  #noteLeft(plan: MessagePlan): void {
    if (this.#noted.has(plan)) return;
    this.#noted.add(plan);
    const filled = this.#lastValues !== null;
    this.#options.onNotice?.(notices.unchangedColumns(plan.schema, this.#left, filled));
  }

  #metadata(out: ByteWriter, ordinal: number): void {
    const transaction = this.#transaction;
    out.bytes(transaction.head);
    writeDigits(out, ordinal);
    out.bytes(KEY_OPEN);
    this.#keyFrom = out.length;
    out.bytes(transaction.keyStart);
    writeKeyEnd(out, transaction.keyRest, ordinal);
    this.#keyTo = out.length;
    out.bytes(this.#annotations);
  }
}
