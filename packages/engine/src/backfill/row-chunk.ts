/**
 * The rows of one read, as they came: DataRow payloads back to back in one buffer. HOT PATH.
 * A DataRow is an int16 number of columns, then (int32 size or -1, bytes) per column.
 */
import { MillraceError } from '@millrace/core/error';
import { VALUE_NULL, VALUE_TEXT } from '@millrace/postgres/pgoutput';
import type { Snapshot } from './snapshot.ts';

const FIRST_BYTES = 256 * 1024;
const FIRST_ROWS = 1_024;

export class RowChunk {
  bytes = Buffer.allocUnsafeSlow(FIRST_BYTES);
  /** End of each row in `bytes`. */
  ends = new Int32Array(FIRST_ROWS);
  count = 0;
  length = 0;
  snapshot!: Snapshot;
  /** When it was read, microseconds since the epoch. */
  readAtMicros = 0n;
  /** Rows were left out at the end: the range goes on after the last one. */
  cut = false;

  /** Takes the DataRow at source[start, end). */
  add(source: Buffer, start: number, end: number): void {
    const size = end - start;
    const at = this.length;
    if (at + size > this.bytes.length) this.#grow(at + size);
    if (this.count === this.ends.length) this.#growRows();
    source.copy(this.bytes, at, start, end);
    this.length = at + size;
    this.ends[this.count++] = at + size;
  }

  start(row: number): number {
    return row === 0 ? 0 : this.ends[row - 1]!;
  }

  clear(): void {
    this.count = 0;
    this.length = 0;
    this.cut = false;
  }

  #grow(needed: number): void {
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.bytes.length * 2));
    this.bytes.copy(grown, 0, 0, this.length);
    this.bytes = grown;
  }

  #growRows(): void {
    const grown = new Int32Array(this.ends.length * 2);
    grown.set(this.ends);
    this.ends = grown;
  }
}

/** Where the columns of one row lie. */
export class RowColumns {
  readonly kinds: Int32Array;
  readonly starts: Int32Array;
  readonly ends: Int32Array;

  constructor(columns: number) {
    this.kinds = new Int32Array(columns);
    this.starts = new Int32Array(columns);
    this.ends = new Int32Array(columns);
  }

  /** Finds the columns of the DataRow at bytes[start, end). */
  aim(bytes: Buffer, start: number, end: number): void {
    const { kinds, starts, ends } = this;
    const count = end - start < 2 ? -1 : (bytes[start]! << 8) | bytes[start + 1]!;
    if (count !== kinds.length) throw malformed('has another number of columns');
    let at = start + 2;
    for (let i = 0; i < count; i++) {
      if (at + 4 > end) throw malformed('is cut');
      const size = (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
      at += 4;
      starts[i] = at;
      if (size < 0) {
        if (size !== -1) throw malformed('is cut');
        kinds[i] = VALUE_NULL;
      } else {
        kinds[i] = VALUE_TEXT;
        at += size;
        if (at > end) throw malformed('is cut');
      }
      ends[i] = at;
    }
  }
}

/** Columns as one string to compare by, or null when one was not sent. */
export function keyText(
  bytes: Buffer,
  columns: readonly number[],
  kinds: Int32Array,
  starts: Int32Array,
  ends: Int32Array,
): string | null {
  if (columns.length === 1) {
    const only = columns[0]!;
    if (only < 0 || kinds[only] !== VALUE_TEXT) return null;
    return bytes.toString('latin1', starts[only]!, ends[only]!);
  }
  let text = '';
  for (let i = 0; i < columns.length; i++) {
    const column = columns[i]!;
    if (column < 0 || kinds[column] !== VALUE_TEXT) return null;
    text += `${ends[column]! - starts[column]!}:${bytes.toString('latin1', starts[column]!, ends[column]!)}`;
  }
  return text;
}

/** A whole row as one string to compare by, or null when a part of it was not sent. */
export function rowText(
  bytes: Buffer,
  columns: readonly number[],
  kinds: Int32Array,
  starts: Int32Array,
  ends: Int32Array,
): string | null {
  let text = '';
  for (let i = 0; i < columns.length; i++) {
    const column = columns[i]!;
    if (column < 0) return null;
    if (kinds[column] === VALUE_NULL) text += '-';
    else if (kinds[column] !== VALUE_TEXT) return null;
    else text += `${ends[column]! - starts[column]!}:${bytes.toString('latin1', starts[column]!, ends[column]!)}`;
  }
  return text;
}

function malformed(what: string): MillraceError {
  return new MillraceError('pg_protocol', { detail: `A row ${what}.` });
}
