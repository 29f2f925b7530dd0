/**
 * What a sink's stream adds up to: its records in order, the last state per key, as hashes of the very bytes in the
 * records. In a SQLite file of its own that goes when the verification ends. Nothing of the row index or of the engine's
 * own state enters: a fault in those must not hide itself.
 */
import { rmSync } from 'node:fs';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { ByteWriter } from '@millrace/core/byte-writer';
import type { Lsn } from '@millrace/core/lsn';
import type { SinkRecords } from '@millrace/sinks/sink-records';
import type { ColumnSchema } from '../table-schema.ts';
import type { ComparedRow, ComparedState, ComparedTable } from './compared-state.ts';
import { type MessageRecord, newMessageRecord, readMessage } from './message-record.ts';
import type { PublishedTable } from './published-tables.ts';
import { columnType } from './row-lookup.ts';
import { HASH_BYTES, writeHash, writeUnknownHash } from './value-hash.ts';

/** Since when a column has been what it is now: rows whose last change is older hold another column's value. */
export type ColumnSince = (table: PublishedTable, column: ColumnSchema) => Lsn | null;

export interface StreamStateOptions {
  readonly file: string;
  readonly records: SinkRecords;
  /** Resolves when everything that committed before `lsn` is durable in the stream. */
  readonly delivered: (lsn: Lsn, signal: AbortSignal) => Promise<void>;
  readonly since: ColumnSince;
  readonly takes: (schema: string, table: string) => boolean;
  /** The sink was given every row there is of this table: it has an initial backfill that is complete. */
  readonly whole: (schema: string, table: string) => boolean;
  /** Rules of the sink make its records something else than the rows of this table. */
  readonly altered: (schema: string, table: string) => boolean;
  /** Unchanged values stand as a marker in the record (unchanged_toast: marker). */
  readonly marker: boolean;
}

const MARKER = Buffer.from('"unchanged_toast"');

interface Shape {
  readonly id: number;
  readonly names: readonly string[];
}

export class StreamState implements ComparedState {
  readonly #options: StreamStateOptions;
  readonly #db: DatabaseSync;
  readonly #put: StatementSync;
  readonly #get: StatementSync;
  readonly #remove: StatementSync;
  readonly #empty: StatementSync;
  readonly #next: StatementSync;
  readonly #tables = new Map<string, number>();
  readonly #shapes = new Map<string, Shape>();
  readonly #shapesById: Shape[] = [];
  readonly #message: MessageRecord = newMessageRecord();
  readonly #hashes = new ByteWriter(1024);
  readonly #key = new ByteWriter(256);
  readonly #partial = new Set<number>();
  #records = 0;

  constructor(options: StreamStateOptions) {
    this.#options = options;
    this.#db = new DatabaseSync(options.file);
    this.#db.exec(`PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32768;
      CREATE TABLE rows (id INTEGER PRIMARY KEY, tab INT NOT NULL, key BLOB NOT NULL, shape INT NOT NULL, lsn INT NOT NULL,
        hashes BLOB NOT NULL, UNIQUE (tab, key))`);
    this.#put = this.#db.prepare(`INSERT INTO rows (tab, key, shape, lsn, hashes) VALUES (?, ?, ?, ?, ?)
      ON CONFLICT (tab, key) DO UPDATE SET shape = excluded.shape, lsn = excluded.lsn, hashes = excluded.hashes`);
    this.#get = this.#db.prepare('SELECT id, shape, lsn, hashes FROM rows WHERE tab = ? AND key = ?');
    this.#get.setReadBigInts(true);
    this.#remove = this.#db.prepare('DELETE FROM rows WHERE tab = ? AND key = ?');
    this.#empty = this.#db.prepare('DELETE FROM rows WHERE tab = ?');
    this.#next = this.#db.prepare('SELECT id, key FROM rows WHERE tab = ? AND id > ? ORDER BY id LIMIT ?');
  }

  /** Records of the sink that were read. */
  get records(): number {
    return this.#records;
  }

  async reach(lsn: Lsn, signal: AbortSignal): Promise<void> {
    const { delivered, records } = this.#options;
    await delivered(lsn, signal);
    await records.read((bytes, start, end) => this.#take(bytes, start, end), signal);
  }

  table(group: readonly PublishedTable[]): ComparedTable | { readonly why: string } {
    const { schema } = group[0]!;
    if (!this.#options.takes(schema.schema, schema.name)) return { why: 'the sink does not take it' };
    if (this.#options.altered(schema.schema, schema.name)) {
      return { why: 'where, columns or timestamp_format of the sink make its records other than the rows' };
    }
    for (const { key, schema: one } of group) {
      if (one.primaryKey.length === 0) return { why: 'it has no primary key' };
      // Deletes then do not say which primary key.
      if (key.join('\0') !== one.primaryKey.join('\0')) return { why: 'its replica identity is another key' };
    }
    const tab = this.#tab(schema.schema, schema.name);
    return {
      whole:
        this.#options.whole(schema.schema, schema.name) && !this.#options.records.trimmed && !this.#partial.has(tab),
      find: (table, key) => this.#find(table, tab, key),
      after: (id, rowsMax) => this.#next.all(tab, id, rowsMax) as unknown as { id: number; key: Uint8Array }[],
    };
  }

  close(): void {
    this.#db.close();
    rmSync(this.#options.file, { force: true });
  }

  #find(table: PublishedTable, tab: number, key: Uint8Array): ComparedRow | null {
    const row = this.#get.get(tab, key) as { id: bigint; shape: bigint; lsn: bigint; hashes: Uint8Array } | undefined;
    if (row === undefined) return null;
    const { names } = this.#shapesById[Number(row.shape)]!;
    const { columns } = table.schema;
    const { since } = this.#options;
    return {
      id: Number(row.id),
      hashes: row.hashes,
      lsn: row.lsn,
      place(index) {
        const column = columns[index]!;
        const from = since(table, column);
        // Of the transaction that altered the table, it may be from before or after.
        if (from === null || (from > 0n && row.lsn <= from)) return -1;
        return names[index] === column.name ? index : names.indexOf(column.name);
      },
    };
  }

  #take(bytes: Buffer, start: number, end: number): void {
    const message = this.#message;
    readMessage(bytes, start, end, message);
    this.#records++;
    const { action, metadata } = message;
    const { table_schema: schema, table_name: name } = metadata;
    if (schema === null || name === null) return;
    // Of a table that is not compared.
    if (metadata.record_pks.includes(null)) return;
    const tab = this.#tab(schema, name);
    switch (action) {
      case 'insert':
      case 'update':
      case 'read':
        this.#upsert(tab, bytes, message);
        return;
      case 'delete':
        this.#remove.run(tab, this.#keyOf(metadata.record_pks));
        return;
      case 'truncate':
        this.#empty.run(tab);
        // Which rows were in a partition, messages do not say: those of the others are known again when they change.
        if (metadata.partition !== undefined) this.#partial.add(tab);
        return;
    }
  }

  #upsert(tab: number, bytes: Buffer, message: MessageRecord): void {
    const { names, starts, ends, metadata } = message;
    const { unchanged_columns: unchanged = [], old_record_pks: oldKey, record_pks: key } = metadata;
    const lacking = [...unchanged];
    const hashes = this.#hashes;
    hashes.length = 0;
    for (let i = 0; i < names.length; i++) {
      const isMarker =
        this.#options.marker &&
        ends[i]! - starts[i]! === MARKER.length &&
        MARKER.compare(bytes, starts[i]!, ends[i]!) === 0;
      if (isMarker) {
        lacking.push(names[i]!);
        writeUnknownHash(hashes);
      } else writeHash(hashes, bytes, starts[i]!, ends[i]!);
    }
    const all = unchanged.length === 0 ? names : [...names, ...unchanged];
    for (let i = 0; i < unchanged.length; i++) writeUnknownHash(hashes);
    const shape = this.#shape(all);
    const made = hashes.view();
    if (lacking.length > 0) this.#keep(tab, oldKey ?? key, shape, made, lacking);
    if (oldKey !== undefined) this.#remove.run(tab, this.#keyOf(oldKey));
    this.#put.run(tab, this.#keyOf(key), shape.id, BigInt(metadata.commit_lsn), made);
  }

  /** Values that were not sent are those the row had. */
  #keep(tab: number, key: readonly (string | null)[], shape: Shape, hashes: Buffer, lacking: readonly string[]): void {
    const row = this.#get.get(tab, this.#keyOf(key)) as { shape: bigint; hashes: Uint8Array } | undefined;
    if (row === undefined) return;
    const before = this.#shapesById[Number(row.shape)]!.names;
    for (const name of lacking) {
      const from = before.indexOf(name) * HASH_BYTES;
      if (from >= 0) hashes.set(row.hashes.subarray(from, from + HASH_BYTES), shape.names.indexOf(name) * HASH_BYTES);
    }
  }

  #keyOf(parts: readonly (string | null)[]): Buffer {
    const key = this.#key;
    key.length = 0;
    for (const part of parts) {
      const text = Buffer.from(part ?? '');
      key.ascii(`${text.length}:`);
      key.bytes(text);
    }
    return key.view();
  }

  #tab(schema: string, name: string): number {
    const label = JSON.stringify([schema, name]);
    const known = this.#tables.get(label);
    if (known !== undefined) return known;
    this.#tables.set(label, this.#tables.size);
    return this.#tables.size - 1;
  }

  #shape(names: readonly string[]): Shape {
    const label = JSON.stringify(names);
    const known = this.#shapes.get(label);
    if (known !== undefined) return known;
    const shape = { id: this.#shapesById.length, names: [...names] };
    this.#shapesById.push(shape);
    this.#shapes.set(label, shape);
    return shape;
  }
}

/**
 * Since when a column is what it is now, by the versions of its table's shape. null: the last version has another
 * column of that name, or none.
 */
export function columnSince(
  versions: readonly {
    readonly from: { readonly lsn: Lsn };
    readonly schema: { readonly columns: readonly ColumnSchema[] };
  }[],
  column: ColumnSchema,
): Lsn | null {
  let since: Lsn | null = null;
  for (let i = versions.length - 1; i >= 0; i--) {
    const { from, schema } = versions[i]!;
    const then = schema.columns.find(({ name }) => name === column.name);
    const same =
      then !== undefined &&
      columnType(then) === columnType(column) &&
      (then.number === undefined || column.number === undefined || then.number === column.number);
    if (!same) return since;
    since = from.lsn;
  }
  // There from the first version on: that one holds for whatever came before it as well.
  return since === null ? null : 0n;
}
