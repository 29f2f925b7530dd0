/**
 * Makes `read` messages of rows that a backfill reads: the same codecs and the same envelope as a change (I10).
 * HOT PATH (read).
 */
import type { ByteWriter } from '@millrace/core/byte-writer';
import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { TableSchema } from '../table-schema.ts';
import {
  annotationsTail,
  KEY_OPEN,
  type MessageOrigin,
  type MessagePlan,
  planMessages,
  planTransaction,
  RECORD_OPEN,
} from './message-plan.ts';
import { writeDigits, writeKey, writeRecord } from './row-json.ts';

/** Columns of a row, as RowReader has them. */
export interface ReadColumns {
  readonly kinds: Int32Array;
  readonly starts: Int32Array;
  readonly ends: Int32Array;
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

export class ReadEncoder {
  readonly #origin: MessageOrigin;
  #plan: MessagePlan | null = null;
  #context: ReadContext | null = null;
  /** Time and position, of one context. */
  #head: Buffer = Buffer.alloc(0);
  /** base64 of the full 3-byte groups of the prefix, and the bytes left over. */
  #keyStart: Buffer = Buffer.alloc(0);
  #keyRest: Buffer = Buffer.alloc(0);
  #key = Buffer.allocUnsafeSlow(256);

  constructor(origin: MessageOrigin) {
    this.#origin = origin;
  }

  /** `index`: the row's place among those read together. false: the batch is full. */
  read(
    batch: MessageBatch,
    schema: TableSchema,
    bytes: Buffer,
    { kinds, starts, ends }: ReadColumns,
    index: number,
    about: ReadContext,
  ): boolean {
    if (batch.full) return false;
    if (this.#plan?.schema !== schema) this.#plan = planMessages(schema, this.#origin);
    if (this.#context !== about) this.#enter(about);
    const plan = this.#plan;
    const out = batch.body;
    out.bytes(RECORD_OPEN);
    writeRecord(out, plan, bytes, kinds, starts, ends);
    out.bytes(plan.readHead);
    out.bytes(this.#head);
    writeDigits(out, index);
    out.bytes(KEY_OPEN);
    out.bytes(this.#keyStart);
    this.#writeKeyEnd(out, bytes, starts, ends, about.identity);
    out.bytes(NO_ANNOTATIONS);
    writeKey(out, plan, bytes, kinds, starts, ends);
    out.bytes(plan.tail);
    return batch.add(about.at.lsn, about.at.ordinal);
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
    bytes: Buffer,
    starts: Int32Array,
    ends: Int32Array,
    identity: readonly number[],
  ): void {
    let size = this.#keyRest.length;
    for (let i = 0; i < identity.length; i++) size += 1 + ends[identity[i]!]! - starts[identity[i]!]!;
    if (size > this.#key.length) this.#key = Buffer.allocUnsafeSlow(size * 2);
    const key = this.#key;
    let at = 0;
    for (; at < this.#keyRest.length; at++) key[at] = this.#keyRest[at]!;
    for (let i = 0; i < identity.length; i++) {
      key[at++] = COLON;
      const end = ends[identity[i]!]!;
      for (let from = starts[identity[i]!]!; from < end; from++) key[at++] = bytes[from]!;
    }
    writeBase64(out, key, size);
  }
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
