/**
 * Questions to the row index from other threads than the one that writes it: rows by key (repair, verification), and
 * values as of a position (sinks with fill_unchanged). Synchronous; what it sees is what was committed.
 */
import { existsSync } from 'node:fs';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { MillraceError } from '@millrace/core/error';
import type { Position } from '@millrace/core/position';
import type { LastValue } from '../last-values.ts';
import type { TableSchema } from '../table-schema.ts';
import type { StoredColumn } from './inherited-columns.ts';
import type { ShapeColumn } from './row-operations.ts';
import { isDamage, isLock } from './row-store.ts';
import { HASH_BYTES, isUnknownHash } from './value-hash.ts';

/** Column names and places in `hashes`; one object per shape. */
export interface IndexedShape {
  /** The OID it was announced or read under. */
  readonly relation: number;
  readonly columns: readonly StoredColumn[];
}

export interface IndexedRow {
  readonly id: number;
  readonly shape: IndexedShape;
  readonly hashes: Uint8Array;
  /** Commit LSN of its last change. */
  readonly lsn: bigint;
}

export interface IndexedTable {
  readonly schema: string;
  readonly name: string;
  /** null: only partitions of it have been published, each by itself. */
  readonly oid: number | null;
  /** Part of the name of its first fill: rows of an earlier generation were forgotten. */
  readonly generation: number;
  readonly key: readonly string[];
  count(): number;
  /** `key` as rowKey has it, as bytes. */
  find(key: Uint8Array): IndexedRow | null;
  /** Rows with larger ids, in their order: for a sweep. */
  after(
    id: number,
    rowsMax: number,
  ): readonly { readonly id: number; readonly key: Uint8Array; readonly lsn: bigint }[];
}

interface TableRow {
  readonly id: number;
  readonly schema: string;
  readonly name: string;
  readonly oid: number | null;
  readonly generation: number;
  readonly key: string;
  readonly values_kept: number;
}

interface Filler {
  readonly statement: StatementSync;
  /** By column name; of the shape the asker decodes with. */
  readonly cols: ReadonlyMap<string, number>;
}

export class RowLookup {
  readonly #file: string;
  readonly #onDamage: () => void;
  #db: DatabaseSync | null = null;
  #generation: StatementSync | null = null;
  #fillers = new WeakMap<TableSchema, Filler>();
  readonly #shapes = new Map<number, IndexedShape>();

  /** `onDamage`: the file has to be made anew; the writer may never look where a reader did. */
  constructor(file: string, onDamage: () => void = () => {}) {
    this.#file = file;
    this.#onDamage = onDamage;
  }

  /** Looks anew: after the index was made anew, or a table of it. */
  reopen(): void {
    this.#db?.close();
    this.#db = null;
    this.#generation = null;
    this.#shapes.clear();
    this.#fillers = new WeakMap();
  }

  /** By the name messages carry. null: the index has never held this table. Throws row_index_reset, as what it returns. */
  table(schema: string, name: string): IndexedTable | null {
    return this.#look(() => {
      const db = this.#open();
      if (db === null) return null;
      const row = db.prepare('SELECT * FROM tables WHERE schema = ? AND name = ?').get(schema, name);
      return row === undefined ? null : this.#table(db, row as unknown as TableRow);
    });
  }

  /** Of the table that has the name, or that will have it next. */
  generation(schema: string, name: string): number {
    return this.#look(() => {
      const db = this.#open();
      if (db === null) return 0;
      this.#generation ??= db.prepare(
        `SELECT generation FROM tables WHERE schema = ? AND name = ?
         UNION ALL SELECT generation FROM gone WHERE schema = ? AND name = ?`,
      );
      const row = this.#generation.get(schema, name, schema, name);
      return (row as { generation: number } | undefined)?.generation ?? 0;
    });
  }

  /** OIDs of the tables that are held. */
  oids(): number[] {
    return this.#look(() => {
      const rows = this.#open()?.prepare('SELECT oid FROM tables WHERE oid IS NOT NULL').all() ?? [];
      return (rows as { oid: number }[]).map(({ oid }) => oid);
    });
  }

  /** See LastValues. */
  value(table: TableSchema, key: string, column: string, before: Position): LastValue | null {
    try {
      let filler = this.#fillers.get(table);
      if (filler === undefined) {
        const made = this.#filler(table);
        if (made === null) return null;
        filler = made;
        this.#fillers.set(table, filler);
      }
      const col = filler.cols.get(column);
      if (col === undefined) return null;
      const { lsn, ordinal } = before;
      const found = filler.statement.get(Buffer.from(key, 'latin1'), col, lsn, lsn, ordinal, lsn, lsn, ordinal);
      const value = (found as { value: Uint8Array | null } | undefined)?.value;
      if (value === undefined || value === null) return null;
      const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
      return { bytes, start: 0, end: bytes.length };
    } catch (error) {
      if ((error as { code?: string }).code !== 'ERR_SQLITE_ERROR') throw error;
      if (isLock(error)) throw locked(error);
      if (isDamage(error)) this.#onDamage();
      // Its tables are being made anew at this moment: nothing is known.
      this.reopen();
      return null;
    }
  }

  close(): void {
    this.#db?.close();
    this.#db = null;
    this.#generation = null;
  }

  #look<T>(question: () => T): T {
    try {
      return question();
    } catch (error) {
      if (isLock(error)) throw locked(error);
      if (isSqlError(error)) {
        throw new MillraceError('row_index_reset', { detail: 'A table of it was forgotten.', cause: error });
      }
      if (!isDamage(error)) throw error;
      this.#onDamage();
      throw new MillraceError('row_index_reset', { detail: 'Its file is damaged.', cause: error });
    }
  }

  #open(): DatabaseSync | null {
    if (this.#db === null && existsSync(this.#file)) {
      this.#db = new DatabaseSync(this.#file, { readOnly: true });
      this.#db.exec('PRAGMA busy_timeout = 5000');
    }
    return this.#db;
  }

  #table(db: DatabaseSync, { id, schema, name, oid, generation, key }: TableRow): IndexedTable {
    const find = db.prepare(`SELECT id, shape, lsn, hashes FROM r${id} WHERE key = ?`);
    const after = db.prepare(`SELECT id, key, lsn FROM r${id} WHERE id > ? ORDER BY id LIMIT ?`);
    find.setReadBigInts(true);
    after.setReadBigInts(true);
    return {
      schema,
      name,
      oid,
      generation,
      key: JSON.parse(key) as string[],
      count: () => this.#look(() => (db.prepare(`SELECT count(*) AS n FROM r${id}`).get() as { n: number }).n),
      find: (bytes) =>
        this.#look(() => {
          const row = find.get(bytes) as { id: bigint; shape: bigint; lsn: bigint; hashes: Uint8Array } | undefined;
          if (row === undefined) return null;
          return {
            id: Number(row.id),
            shape: this.#shapeOf(db, Number(row.shape)),
            hashes: row.hashes,
            lsn: row.lsn,
          };
        }),
      after: (from, rowsMax) =>
        this.#look(() =>
          (after.all(from, rowsMax) as { id: bigint; key: Uint8Array; lsn: bigint }[]).map((row) => ({
            ...row,
            id: Number(row.id),
          })),
        ),
    };
  }

  #shapeOf(db: DatabaseSync, id: number): IndexedShape {
    const known = this.#shapes.get(id);
    if (known !== undefined) return known;
    const row = db.prepare('SELECT relation, columns FROM shapes WHERE id = ?').get(id) as
      | { relation: number; columns: string }
      | undefined;
    const shape =
      row === undefined
        ? { relation: 0, columns: [] }
        : { relation: row.relation, columns: JSON.parse(row.columns) as StoredColumn[] };
    this.#shapes.set(id, shape);
    return shape;
  }

  #filler(table: TableSchema): Filler | null {
    const db = this.#open();
    if (db === null) return null;
    const row = (db.prepare('SELECT * FROM tables WHERE oid = ?').get(table.oid) ??
      db.prepare('SELECT * FROM tables WHERE schema = ? AND name = ?').get(table.schema, table.name)) as
      | TableRow
      | undefined;
    if (row === undefined || row.values_kept === 0) return null;
    const shapes = db
      .prepare('SELECT columns FROM shapes WHERE tab = ? AND relation = ? ORDER BY id DESC')
      .all(row.id, table.oid);
    for (const { columns } of shapes as { columns: string }[]) {
      const stored = JSON.parse(columns) as StoredColumn[];
      if (!sameColumns(stored, table)) continue;
      const statement = db.prepare(
        `SELECT value FROM (SELECT value, until_lsn, until_ord FROM v${row.id}
           WHERE key = ? AND col = ? AND (from_lsn < ? OR (from_lsn = ? AND from_ord < ?))
           ORDER BY from_lsn DESC, from_ord DESC LIMIT 1)
         WHERE until_lsn IS NULL OR until_lsn > ? OR (until_lsn = ? AND until_ord >= ?)`,
      );
      return { statement, cols: new Map(stored.map(({ name, col }) => [name, col])) };
    }
    return null;
  }
}

/** SQLITE_ERROR: between two questions the table was dropped. */
function isSqlError(error: unknown): boolean {
  const code = (error as { errcode?: number }).errcode;
  return code !== undefined && (code & 0xff) === 1;
}

function locked(cause: unknown): MillraceError {
  return new MillraceError('row_index_locked', { cause });
}

function sameColumns(stored: readonly StoredColumn[], { columns }: TableSchema): boolean {
  return (
    stored.length === columns.length &&
    stored.every(({ name, type, number }, i) => {
      const other = columns[i]!;
      const named = name === other.name && type === columnType(other);
      return named && (number === undefined || number === other.number);
    })
  );
}

/** A column's type as shapes have it. */
export function columnType(column: TableSchema['columns'][number]): string {
  return `${column.type.oid} ${column.typeText ?? ''}`;
}

/** The place in a row's hashes of the `i`th column of a table as it is now; -1: the row had no such column. */
export function placeOf({ relation, columns }: IndexedShape, { oid, columns: now }: TableSchema, i: number): number {
  const column = now[i]!;
  const own = columns[i];
  // Nearly always the columns are where they were.
  if (own !== undefined && sameColumn(own, column, relation === oid)) return i;
  return columns.findIndex((other) => sameColumn(other, column, relation === oid));
}

/** Numbers tell within one relation: partitions number their columns each in its own way. */
function sameColumn(stored: ShapeColumn, column: TableSchema['columns'][number], sameRelation: boolean): boolean {
  if (stored.type !== columnType(column)) return false;
  if (sameRelation && stored.number !== undefined && column.number !== undefined)
    return stored.number === column.number;
  return stored.name === column.name;
}

/** -1: one of the two hashes is not known; 0: they differ; 1: the same. */
export function compareHashes(a: Uint8Array, aIndex: number, b: Uint8Array, bIndex: number): -1 | 0 | 1 {
  if (isUnknownHash(a, aIndex) || isUnknownHash(b, bIndex)) return -1;
  const from = aIndex * HASH_BYTES;
  const to = bIndex * HASH_BYTES;
  for (let i = 0; i < HASH_BYTES; i++) if (a[from + i] !== b[to + i]) return 0;
  return 1;
}
