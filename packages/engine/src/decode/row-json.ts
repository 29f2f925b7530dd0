/**
 * Rows as JSON: the parts of a message that come from column bytes, which go straight from one buffer into another.
 * HOT PATH: all of it.
 */
import type { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import { OLD_KEY, type RowReader, VALUE_NULL, VALUE_TEXT, VALUE_UNCHANGED } from '@millrace/postgres/pgoutput';
import { type ValueCodec, writeJson, writeJsonString } from '@millrace/postgres/value-json';
import {
  COLUMN_HASHED,
  COLUMN_HIDDEN,
  COLUMN_MASKED,
  COLUMN_SHOWN,
  type ColumnTreatments,
  MASK_JSON,
} from './column-treatment.ts';
import { type MessagePlan, NULL } from './message-plan.ts';

const BASE64 = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/');

/** I8: a row of an unannounced shape must not be decoded, it would file values under the wrong names, silently. */
export function checkShape(plan: MessagePlan, columns: number): void {
  if (columns === plan.codecs.length) return;
  const { schema, name } = plan.schema;
  throw new MillraceError('decode_stale_relation', {
    detail: `${schema}.${name} was announced with ${plan.codecs.length} columns, a row has ${columns}.`,
  });
}

/** false: a value was not sent (VALUE_UNCHANGED). What was written up to there is for the caller to take back. */
export function writeRecord(
  out: ByteWriter,
  plan: MessagePlan,
  bytes: Buffer,
  kinds: Int32Array,
  starts: Int32Array,
  ends: Int32Array,
): boolean {
  const { names, codecs, treatments } = plan;
  if (treatments !== null) return writeTreatedRecord(out, plan, treatments, bytes, kinds, starts, ends);
  for (let i = 0; i < codecs.length; i++) {
    out.bytes(names[i]!);
    switch (kinds[i]) {
      case VALUE_TEXT:
        writeJson(out, codecs[i]!, bytes, starts[i]!, ends[i]!);
        break;
      case VALUE_UNCHANGED:
        return false;
      default:
        out.bytes(NULL);
    }
  }
  return true;
}

/** As writeRecord, where some columns do not stand as they are. A hidden one may lack its value. */
function writeTreatedRecord(
  out: ByteWriter,
  { names, codecs }: MessagePlan,
  treatments: ColumnTreatments,
  bytes: Buffer,
  kinds: Int32Array,
  starts: Int32Array,
  ends: Int32Array,
): boolean {
  for (let i = 0; i < codecs.length; i++) {
    if (treatments.kinds[i] === COLUMN_HIDDEN) continue;
    out.bytes(names[i]!);
    switch (kinds[i]) {
      case VALUE_TEXT:
        writeTreated(out, codecs[i]!, treatments, i, bytes, starts[i]!, ends[i]!);
        break;
      case VALUE_UNCHANGED:
        return false;
      default:
        out.bytes(NULL);
    }
  }
  return true;
}

/** A value of a column that is not hidden. */
export function writeTreated(
  out: ByteWriter,
  codec: ValueCodec,
  treatments: ColumnTreatments | null,
  column: number,
  bytes: Buffer,
  start: number,
  end: number,
): void {
  const treatment = treatments === null ? COLUMN_SHOWN : treatments.kinds[column];
  if (treatment === COLUMN_MASKED) out.bytes(MASK_JSON);
  else if (treatment === COLUMN_HASHED) {
    out.u8(0x22);
    out.ascii(treatments!.hasher.hex(bytes, start, end));
    out.u8(0x22);
  } else writeJson(out, codec, bytes, start, end);
}

/** The old key of an update is known and is not the new one. */
export function keyChanged(plan: MessagePlan, bytes: Buffer, row: RowReader): boolean {
  const { newStarts, newEnds, oldKinds, oldStarts, oldEnds } = row;
  const { keyColumns } = plan;
  let changed = false;
  for (let i = 0; i < keyColumns.length; i++) {
    const column = keyColumns[i]!;
    if (oldKinds[column] !== VALUE_TEXT) return false;
    changed ||= !sameBytes(bytes, oldStarts[column]!, oldEnds[column]!, newStarts[column]!, newEnds[column]!);
  }
  return changed;
}

/** A column that was not sent anew is in the old tuple: all are under full replica identity, else large key columns. */
export function fillUnchanged(row: RowReader): void {
  const { newKinds, newStarts, newEnds, oldKinds, oldStarts, oldEnds } = row;
  for (let i = 0; i < row.newCount; i++) {
    if (newKinds[i] !== VALUE_UNCHANGED || oldKinds[i] !== VALUE_TEXT) continue;
    newKinds[i] = VALUE_TEXT;
    newStarts[i] = oldStarts[i]!;
    newEnds[i] = oldEnds[i]!;
  }
}

/** Old values of the columns that differ. Under OLD_KEY only key columns were sent, the others are not known. */
export function writeChanges(out: ByteWriter, plan: MessagePlan, bytes: Buffer, row: RowReader): void {
  const { newKinds, newStarts, newEnds, oldKinds, oldStarts, oldEnds } = row;
  const { treatments } = plan;
  let first = true;
  for (let i = 0; i < row.oldCount; i++) {
    const kind = oldKinds[i]!;
    if (treatments !== null && treatments.kinds[i] === COLUMN_HIDDEN) continue;
    if (kind === VALUE_UNCHANGED || newKinds[i] === VALUE_UNCHANGED) continue;
    if (kind === VALUE_NULL) {
      if (row.oldKind === OLD_KEY || newKinds[i] === VALUE_NULL) continue;
    } else if (newKinds[i] === kind && sameBytes(bytes, oldStarts[i]!, oldEnds[i]!, newStarts[i]!, newEnds[i]!))
      continue;
    if (!first) out.u8(0x2c);
    first = false;
    out.bytes(plan.bareNames[i]!);
    if (kind === VALUE_NULL) out.bytes(NULL);
    else writeTreated(out, plan.codecs[i]!, treatments, i, bytes, oldStarts[i]!, oldEnds[i]!);
  }
}

function sameBytes(bytes: Buffer, aStart: number, aEnd: number, bStart: number, bEnd: number): boolean {
  const size = aEnd - aStart;
  if (size !== bEnd - bStart) return false;
  if (size > 64) return bytes.compare(bytes, aStart, aEnd, bStart, bEnd) === 0;
  for (let i = 0; i < size; i++) if (bytes[aStart + i] !== bytes[bStart + i]) return false;
  return true;
}

export function writeKey(
  out: ByteWriter,
  plan: MessagePlan,
  bytes: Buffer,
  kinds: Int32Array,
  starts: Int32Array,
  ends: Int32Array,
): void {
  const { keyColumns, treatments } = plan;
  for (let i = 0; i < keyColumns.length; i++) {
    if (i > 0) out.u8(0x2c);
    const column = keyColumns[i]!;
    if (kinds[column] !== VALUE_TEXT) out.bytes(NULL);
    else if (treatments === null || treatments.kinds[column] === COLUMN_SHOWN)
      writeJsonString(out, bytes, starts[column]!, ends[column]!);
    else if (treatments.kinds[column] === COLUMN_MASKED) out.bytes(MASK_JSON);
    else {
      out.u8(0x22);
      out.ascii(treatments.hasher.hex(bytes, starts[column]!, ends[column]!));
      out.u8(0x22);
    }
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
export function writeKeyEnd(out: ByteWriter, rest: readonly number[], ordinal: number): void {
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
