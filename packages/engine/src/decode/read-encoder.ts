/**
 * Makes `read` messages of rows that a backfill reads: the same codecs and the same envelope as a change (I10).
 * HOT PATH (read).
 */
import type { ByteWriter } from '@millrace/core/byte-writer';
import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { TableSchema } from '../table-schema.ts';
import { COLUMN_SHOWN, type ColumnTreatments } from './column-treatment.ts';
import { describeRow } from './message-description.ts';
import {
  annotationsTail,
  KEY_OPEN,
  type MessageOrigin,
  type MessagePlan,
  planMessages,
  planTransaction,
  RECORD_OPEN,
} from './message-plan.ts';
import { YES } from './row-filter.ts';
import { writeDigits, writeKey, writeRecord } from './row-json.ts';
import { checkRenamed } from './row-rules.ts';
import { NO_RULES, type RowRulesConfig } from './row-rules-config.ts';

/** Columns of a row, as RowReader has them. */
export interface ReadColumns {
  readonly kinds: Int32Array;
  readonly starts: Int32Array;
  readonly ends: Int32Array;
}

/** What was known of tables before: a column that rules hide may have another name by now. */
export interface FormerSchemas {
  /** As changes were announced with. */
  announced(schema: TableSchema): TableSchema | undefined;
  /** As they were read last, by OID. */
  readonly read: Map<number, TableSchema>;
}

/** What the messages of one batch share. */
export interface ReadContext {
  /** Everything at or before it was delivered before these rows. */
  readonly at: Position;
  readonly lsn: Lsn;
  readonly readAtMicros: bigint;
  /** Start of the idempotency key; the texts of the `identity` columns follow. */
  readonly prefix: string;
  /** Indexes of the columns that tell the row from others. */
  readonly identity: readonly number[];
}

const NO_ANNOTATIONS = annotationsTail('null');
const BASE64 = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/');
const COLON = 0x3a;
const BACKSLASH = 0x5c;
const COLON_BYTES = Buffer.from(':');

export class ReadEncoder {
  readonly #origin: MessageOrigin;
  readonly #rules: RowRulesConfig;
  readonly #former: FormerSchemas | null;
  #plan: MessagePlan | null = null;
  #context: ReadContext | null = null;
  /** Time and position, of one context. */
  #head: Buffer = Buffer.alloc(0);
  /** base64 of the full 3-byte groups of the prefix, and the bytes left over. */
  #keyStart: Buffer = Buffer.alloc(0);
  #keyRest: Buffer = Buffer.alloc(0);
  #key = Buffer.allocUnsafeSlow(256);

  constructor(origin: MessageOrigin, rules: RowRulesConfig = NO_RULES, former: FormerSchemas | null = null) {
    this.#origin = origin;
    this.#rules = rules;
    this.#former = former;
  }

  /**
   * `index`: the row's place among those read together. false: the batch is full. null: the row is none that the sink's
   * filters let through.
   */
  read(
    batch: MessageBatch,
    schema: TableSchema,
    bytes: Buffer,
    columns: ReadColumns,
    index: number,
    about: ReadContext,
  ): boolean | null {
    if (batch.full) return false;
    if (this.#plan?.schema !== schema) this.#plan = this.#planOf(schema);
    if (this.#context !== about) this.#enter(about);
    const plan = this.#plan;
    const { kinds, starts, ends } = columns;
    if (plan.filter !== null && plan.filter.values(bytes, kinds, starts, ends, false, null) !== YES) return null;
    const out = batch.body;
    out.bytes(RECORD_OPEN);
    writeRecord(out, plan, bytes, kinds, starts, ends);
    out.bytes(plan.readHead);
    out.bytes(this.#head);
    writeDigits(out, index);
    out.bytes(KEY_OPEN);
    const keyStart = out.length;
    out.bytes(this.#keyStart);
    this.#writeKeyEnd(out, plan.treatments, bytes, starts, ends, about.identity);
    const keyEnd = out.length;
    out.bytes(NO_ANNOTATIONS);
    writeKey(out, plan, bytes, kinds, starts, ends);
    out.bytes(plan.tail);
    if (!batch.add(about.at.lsn, about.at.ordinal)) return false;
    if (batch.descriptions !== null) {
      const key = out.buffer.toString('latin1', keyStart, keyEnd);
      describeRow(batch.descriptions, plan, 'read', bytes, columns, 0, null, key);
    }
    return true;
  }

  #planOf(schema: TableSchema): MessagePlan {
    if (this.#former !== null) {
      checkRenamed(this.#former.announced(schema), schema, this.#rules);
      checkRenamed(this.#former.read.get(schema.oid), schema, this.#rules);
      this.#former.read.set(schema.oid, schema);
    }
    return planMessages(schema, this.#origin, this.#rules);
  }

  #enter(about: ReadContext): void {
    this.#context = about;
    this.#head = planTransaction(about.lsn, about.readAtMicros).head;
    const prefix = Buffer.from(about.prefix);
    const whole = prefix.length - (prefix.length % 3);
    this.#keyStart = Buffer.from(prefix.toString('base64', 0, whole));
    this.#keyRest = prefix.subarray(whole);
  }

  /** base64 of what is left of the prefix and, for each identity column, a colon and its text. */
  #writeKeyEnd(
    out: ByteWriter,
    treatments: ColumnTreatments | null,
    bytes: Buffer,
    starts: Int32Array,
    ends: Int32Array,
    identity: readonly number[],
  ): void {
    if (treatments !== null) {
      this.#writeTreatedKeyEnd(out, treatments, bytes, starts, ends, identity);
      return;
    }
    let room = this.#keyRest.length;
    for (let i = 0; i < identity.length; i++) room += 1 + 2 * (ends[identity[i]!]! - starts[identity[i]!]!);
    if (room > this.#key.length) this.#key = Buffer.allocUnsafeSlow(room * 2);
    const key = this.#key;
    const several = identity.length > 1;
    let at = 0;
    for (; at < this.#keyRest.length; at++) key[at] = this.#keyRest[at]!;
    for (let i = 0; i < identity.length; i++) {
      key[at++] = COLON;
      const end = ends[identity[i]!]!;
      for (let from = starts[identity[i]!]!; from < end; from++) {
        const byte = bytes[from]!;
        // Otherwise two rows could have one key, and a destination that knows keys would drop the second.
        if (several && (byte === COLON || byte === BACKSLASH)) key[at++] = BACKSLASH;
        key[at++] = byte;
      }
    }
    writeBase64(out, key, at);
  }

  /** With the hashes of what messages do not show. Behind the columns is the place of a row without a key, which may be shown. */
  #writeTreatedKeyEnd(
    out: ByteWriter,
    { kinds, hasher }: ColumnTreatments,
    bytes: Buffer,
    starts: Int32Array,
    ends: Int32Array,
    identity: readonly number[],
  ): void {
    const parts: Buffer[] = [this.#keyRest];
    for (const column of identity) {
      const shown = column >= kinds.length || kinds[column] === COLUMN_SHOWN;
      const value = bytes.subarray(starts[column]!, ends[column]!);
      parts.push(COLON_BYTES);
      if (!shown) parts.push(Buffer.from(hasher.hex(value, 0, value.length)));
      else parts.push(identity.length > 1 ? escaped(value) : value);
    }
    const key = Buffer.concat(parts);
    writeBase64(out, key, key.length);
  }
}

/** As #writeKeyEnd does. */
function escaped(value: Buffer): Buffer {
  return Buffer.from(value.toString('latin1').replace(/[:\\]/g, '\\$&'), 'latin1');
}

function writeBase64(out: ByteWriter, source: Buffer, size: number): void {
  out.reserve(((size + 2) / 3) * 4 + 4);
  const target = out.buffer;
  let at = out.length;
  let i = 0;
  for (; i + 2 < size; i += 3) {
    const group = (source[i]! << 16) | (source[i + 1]! << 8) | source[i + 2]!;
    target[at++] = BASE64[group >>> 18]!;
    target[at++] = BASE64[(group >>> 12) & 63]!;
    target[at++] = BASE64[(group >>> 6) & 63]!;
    target[at++] = BASE64[group & 63]!;
  }
  if (size - i === 1) {
    target[at++] = BASE64[source[i]! >>> 2]!;
    target[at++] = BASE64[(source[i]! & 3) << 4]!;
    target[at++] = 0x3d;
    target[at++] = 0x3d;
  } else if (size - i === 2) {
    target[at++] = BASE64[source[i]! >>> 2]!;
    target[at++] = BASE64[((source[i]! & 3) << 4) | (source[i + 1]! >>> 4)]!;
    target[at++] = BASE64[(source[i + 1]! & 15) << 2]!;
    target[at++] = 0x3d;
  }
  out.length = at;
}
