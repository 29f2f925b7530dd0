/**
 * Key and column hashes of a row as a query sends it (a DataRow payload), the same as the index has of the same row from
 * the stream (I10). HOT PATH (aim).
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import { codecOf, type ValueCodec, writeJson } from '@millrace/postgres/value-json';
import type { TableSchema } from '../table-schema.ts';
import { writeHash } from './value-hash.ts';

const NULL = Buffer.from('null');

export class RowHasher {
  readonly #codecs: readonly ValueCodec[];
  readonly #keyColumns: readonly number[];
  readonly #scratch = new ByteWriter(64 * 1024);
  readonly #hashes: ByteWriter;
  readonly #key = new ByteWriter(256);
  /** Of each column's text; equal for NULL, whose start is -1. */
  readonly starts: Int32Array;
  readonly ends: Int32Array;

  constructor(table: TableSchema, key: readonly string[]) {
    this.#codecs = table.columns.map((column) => codecOf(column.type));
    this.#keyColumns = key.map((name) => table.columns.findIndex((column) => column.name === name));
    this.#hashes = new ByteWriter(table.columns.length * 8);
    this.starts = new Int32Array(table.columns.length);
    this.ends = new Int32Array(table.columns.length);
  }

  /** Of the row aimed at; until the next one. */
  get key(): Buffer {
    return this.#key.view();
  }

  get hashes(): Buffer {
    return this.#hashes.view();
  }

  aim(bytes: Buffer, start: number, end: number): void {
    const codecs = this.#codecs;
    const { starts, ends } = this;
    if (end - start < 2 || bytes.readUInt16BE(start) !== codecs.length) throw malformed();
    let at = start + 2;
    const hashes = this.#hashes;
    hashes.length = 0;
    for (let i = 0; i < codecs.length; i++) {
      if (at + 4 > end) throw malformed();
      const size = bytes.readInt32BE(at);
      at += 4;
      if (size < 0) {
        starts[i] = -1;
        ends[i] = -1;
        writeHash(hashes, NULL, 0, NULL.length);
        continue;
      }
      if (at + size > end) throw malformed();
      starts[i] = at;
      at += size;
      ends[i] = at;
      const scratch = this.#scratch;
      scratch.length = 0;
      writeJson(scratch, codecs[i]!, bytes, starts[i]!, at);
      writeHash(hashes, scratch.buffer, 0, scratch.length);
    }
    const key = this.#key;
    key.length = 0;
    for (let i = 0; i < this.#keyColumns.length; i++) {
      const column = this.#keyColumns[i]!;
      if (starts[column]! < 0) throw malformed();
      key.ascii(`${ends[column]! - starts[column]!}:`);
      key.copy(bytes, starts[column]!, ends[column]!);
    }
  }
}

/** The parts of a key as rowKey writes it: where the text of each lies. Throws on what is no key. */
export function splitKey(key: Uint8Array, parts: number): { readonly start: number; readonly end: number }[] {
  const found: { start: number; end: number }[] = [];
  let at = 0;
  for (let i = 0; i < parts; i++) {
    let size = 0;
    for (; key[at] !== 0x3a; at++) {
      const digit = (key[at] ?? 0) - 0x30;
      if (digit < 0 || digit > 9) throw malformed();
      size = size * 10 + digit;
    }
    found.push({ start: at + 1, end: at + 1 + size });
    at += 1 + size;
  }
  if (at !== key.length) throw malformed();
  return found;
}

function malformed(): MillraceError {
  return new MillraceError('pg_protocol', { detail: 'A row is not of the shape that was asked for.' });
}
