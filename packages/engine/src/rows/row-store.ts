/**
 * The rows of the index and the values kept beside them, in one SQLite file per source. Written by one thread
 * (row-store-thread.ts), read by others (row-lookup.ts); everything is synchronous. HOT PATH (apply).
 *
 * | table       | holds                                                                                            |
 * |-------------|--------------------------------------------------------------------------------------------------|
 * | meta        | format, an id of this incarnation, the position up to which all changes are in                    |
 * | tables      | per table: name, OID, key columns; generation: raised when its rows have to be read again         |
 * | gone        | names of tables that were forgotten: the generation that another one of the name will be         |
 * | shapes      | the columns a row's hashes are of; col: an identity that a column keeps while name and type stay  |
 * | r<table>    | per row: key, shape, commit LSN of its last change, 8 bytes of hash per column                    |
 * | v<table>    | per kept value: key, col, from and until which position it was the row's                          |
 *
 * Position and rows change in one transaction. Rows have ids, so that a sweep can mark them in a bitmap.
 */
import { randomUUID } from 'node:crypto';
import { rmSync } from 'node:fs';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { assert, InvariantError } from '@millrace/core/assert';
import type { Lsn } from '@millrace/core/lsn';
import { formatPosition, POSITION_ZERO, type Position, parsePosition } from '@millrace/core/position';
import { inheritedCols, type StoredColumn } from './inherited-columns.ts';
import {
  DELETE,
  FLAG_PARTIAL,
  FLAG_READ,
  FLAG_VALUES,
  FORGET,
  MOVE,
  OPERATION_DAMAGED,
  PUT,
  type RowShape,
  SHAPE,
  TRUNCATE,
  VALUE_KEPT,
} from './row-operations.ts';
import type { RowStatements, ValueStatements } from './row-statements.ts';
import * as sql from './row-statements.ts';
import { HASH_BYTES, isUnknownHash } from './value-hash.ts';

export const ROW_STORE_FORMAT = '2';
/** Old values removed in one transaction. */
const COLLECTED_MAX = 10_000;
/** Tables whose statements are kept, some 30 KB each; those of the others are made again when a change comes. */
const PREPARED_MAX = 1_000;
const NO_KEY = JSON.stringify([]);

interface Table {
  readonly id: number;
  statements: RowStatements | null;
  values: KeptValues | null;
  latest: Shape | null;
  /** By OID: partitions that are published by themselves may each have another order of columns. */
  readonly latestOf: Map<number, Shape>;
  nextCol: number;
}

interface KeptValues {
  /** Something was ever kept: without that a row cannot have values to close. */
  used: boolean;
  readonly since: Position;
}

interface Shape {
  readonly id: number;
  readonly table: Table;
  readonly columns: readonly StoredColumn[];
}

interface Announced {
  /** null: the table was forgotten since. */
  shape: Shape | null;
  readonly as: RowShape;
}

interface OldRow {
  readonly shape: number;
  readonly hashes: Uint8Array;
}

interface OpenVersion {
  readonly id: number;
  readonly col: number;
  readonly value: Uint8Array | null;
}

export interface Applied {
  /** Tables whose rows have to be read again. */
  readonly resets: number;
}

export class RowStore {
  readonly #db: DatabaseSync;
  readonly incarnation: string;
  #position: Position | null;
  readonly #tables = new Map<number, Table>();
  readonly #shapes = new Map<number, Shape>();
  /** Those whose statements are prepared, the oldest first. */
  readonly #prepared: Table[] = [];
  readonly #preparedMax: number;
  /** Numbers are not given out again while somebody may remember what they meant. */
  #lastTable: number;
  #lastShape: number;
  /** By the encoder's number, since it was last told to begin. */
  #announced = new Map<number, Announced>();
  /** Of a row's hashes in one shape to those in another; -1: there is none. */
  readonly #alignments = new Map<string, Int32Array>();
  readonly #savePosition: StatementSync;
  #resets = 0;
  /** Where the batch at hand ends. */
  #through: Position = POSITION_ZERO;
  // Of the operation at hand.
  #at = 0;
  #bytes: Buffer = Buffer.alloc(0);
  #lsn: Lsn = 0n;
  #ordinal = 0;

  /** A file of another format, or one that SQLite finds damaged, is replaced by an empty one: all of it can be made anew. */
  static open(file: string, preparedMax = PREPARED_MAX): RowStore {
    try {
      return new RowStore(file, preparedMax);
    } catch (error) {
      if (!isDamage(error)) throw error;
      RowStore.remove(file);
      return new RowStore(file, preparedMax);
    }
  }

  static remove(file: string): void {
    for (const suffix of ['', '-wal', '-shm']) rmSync(`${file}${suffix}`, { force: true });
  }

  private constructor(file: string, preparedMax: number) {
    this.#preparedMax = preparedMax;
    this.#db = new DatabaseSync(file);
    const db = this.#db;
    sql.prepareFile(db);
    const get = db.prepare('SELECT value FROM meta WHERE name = ?');
    const meta = (name: string) => (get.get(name) as { value: string } | undefined)?.value;
    const format = meta('format');
    if (format !== undefined && format !== ROW_STORE_FORMAT) {
      db.close();
      throw new FormatError();
    }
    if (format === undefined) {
      const put = db.prepare('INSERT INTO meta VALUES (?, ?)');
      db.exec('BEGIN');
      put.run('format', ROW_STORE_FORMAT);
      put.run('incarnation', randomUUID());
      db.exec('COMMIT');
    }
    this.incarnation = meta('incarnation')!;
    const position = meta('position');
    this.#position = position === undefined ? null : parsePosition(position);
    this.#savePosition = db.prepare(`INSERT OR REPLACE INTO meta VALUES ('position', ?)`);
    this.#lastTable = sql.lastId(db, 'tables');
    this.#lastShape = sql.lastId(db, 'shapes');
    for (const { id } of db.prepare('SELECT id FROM tables').all() as { id: number }[]) this.#load(id);
  }

  /** Every change at or before it is in. null: nothing is in yet. */
  get position(): Position | null {
    return this.#position;
  }

  /** Where a new index begins: every later change will be told. */
  begin(position: Position): void {
    this.#announced = new Map();
    if (this.#position !== null) return;
    this.#position = position;
    this.#savePosition.run(formatPosition(position));
  }

  /** Takes in a batch of operations, and `through` as the new position, or nothing. Durable when it returns. */
  apply(bytes: Buffer, through: Position): Applied {
    assert(this.#position !== null, 'the row index has begun before it is told of changes');
    this.#resets = 0;
    this.#through = through;
    // At once for writing: one that has read already does not wait for another's lock.
    this.#db.exec('BEGIN IMMEDIATE');
    try {
      this.#bytes = bytes;
      this.#at = 0;
      while (this.#at < bytes.length) this.#operation();
      this.#savePosition.run(formatPosition(through));
      this.#db.exec('COMMIT');
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK');
      this.#forgetLoaded();
      throw error;
    }
    this.#position = through;
    return { resets: this.#resets };
  }

  /** Removes values that were replaced at or before `lsn`, which every reader has passed. True: there may be more. */
  collect(lsn: Lsn): boolean {
    let more = false;
    for (const table of this.#tables.values()) {
      if (table.values === null || !table.values.used) continue;
      const { changes } = this.#db
        .prepare(
          `DELETE FROM v${table.id} WHERE id IN (SELECT id FROM v${table.id} WHERE until_lsn < ? LIMIT ${COLLECTED_MAX})`,
        )
        .run(lsn);
      if (Number(changes) === COLLECTED_MAX) more = true;
    }
    return more;
  }

  /** Forgets tables that are gone at the source and of which no change will come. Durable when it returns. */
  forget(oids: readonly number[]): void {
    const db = this.#db;
    const ids = oids.flatMap((oid) => this.#byOid(oid)?.id ?? []);
    if (ids.length === 0) return;
    db.exec('BEGIN IMMEDIATE');
    try {
      for (const id of ids) sql.forgetTable(db, id);
      db.exec('COMMIT');
    } catch (error) {
      if (db.isTransaction) db.exec('ROLLBACK');
      throw error;
    }
    for (const id of ids) this.#unload(id);
  }

  close(): void {
    this.#db.close();
  }

  #operation(): void {
    const kind = this.#u8();
    switch (kind) {
      case SHAPE: {
        const number = this.#u32();
        const json = this.#slice(this.#u32()).toString();
        const as = JSON.parse(json) as RowShape;
        this.#announced.set(number, { shape: this.#shapeOf(as), as });
        return;
      }
      case PUT:
      case MOVE: {
        const { shape } = this.#head();
        const flags = this.#u8();
        const oldKey = kind === MOVE ? this.#slice(this.#u32()) : null;
        this.#put(shape, flags, oldKey, this.#slice(this.#u32()));
        return;
      }
      case DELETE: {
        const { table } = this.#head().shape;
        const key = this.#slice(this.#u32());
        const { remove, values } = table.statements ?? this.#prepare(table);
        remove.run(key);
        if (values !== null && table.values?.used === true) this.#closeAll(values, key);
        return;
      }
      case TRUNCATE: {
        const announced = this.#head();
        // Which rows lie in the partition is not known here.
        if (announced.as.leaf) this.#reset(announced.shape.table, announced.as);
        else this.#empty(announced.shape.table);
        return;
      }
      case FORGET: {
        const as = JSON.parse(this.#slice(this.#u32()).toString()) as RowShape;
        const row = this.#findTable(as);
        // With a key again, the table is another one to the index, and read anew.
        if (row !== undefined && row.key !== NO_KEY) this.#reset(this.#tables.get(row.id)!, as);
        return;
      }
      default:
        throw new InvariantError(OPERATION_DAMAGED);
    }
  }

  #put(shape: Shape, flags: number, oldKey: Buffer | null, key: Buffer): void {
    const { table } = shape;
    const statements = table.statements ?? this.#prepare(table);
    let hashes: Uint8Array = this.#slice(shape.columns.length * HASH_BYTES);
    if ((flags & FLAG_PARTIAL) !== 0) {
      const old = statements.get.get(oldKey ?? key) as OldRow | undefined;
      if (old !== undefined) hashes = this.#completed(hashes, shape, old);
    }
    if (oldKey !== null) statements.remove.run(oldKey);
    statements.put.run(key, shape.id, this.#lsn, hashes);
    const { values } = table;
    const kept = (flags & FLAG_VALUES) !== 0;
    if (values === null || (!kept && !values.used)) return;
    this.#putValues(values, statements.values!, shape, flags, oldKey, key, kept ? this.#u16() : 0);
  }

  #putValues(
    kept: KeptValues,
    values: ValueStatements,
    shape: Shape,
    flags: number,
    oldKey: Buffer | null,
    key: Buffer,
    count: number,
  ): void {
    const read = (flags & FLAG_READ) !== 0;
    const open = kept.used ? (values.open.all(key) as unknown as OpenVersion[]) : [];
    const before = oldKey === null || !kept.used ? [] : (values.open.all(oldKey) as unknown as OpenVersion[]);
    for (const version of before) values.close.run(this.#lsn, this.#ordinal, version.id);
    const stays = new Set<number>();
    for (let i = 0; i < count; i++) {
      const col = shape.columns[this.#u16()]?.col;
      if (col === undefined) throw new InvariantError(OPERATION_DAMAGED);
      const sent = this.#u8() === VALUE_KEPT;
      const value = sent ? this.#slice(this.#u32()) : null;
      if (read) this.#fillValue(kept, values, open, key, col, value!);
      else if (oldKey !== null) {
        // What moved with the row and is not known yet is a hole that the first fill may close.
        const carried = sent ? value : (before.find((version) => version.col === col)?.value ?? null);
        values.add.run(key, col, this.#lsn, this.#ordinal, carried);
      } else if (sent) values.add.run(key, col, this.#lsn, this.#ordinal, value);
      else stays.add(col);
      kept.used = true;
    }
    if (read) return;
    for (const version of open) {
      if (!stays.has(version.col)) values.close.run(this.#lsn, this.#ordinal, version.id);
    }
  }

  /** A row of the first fill holds what the row held since the index began, unless a change said more. */
  #fillValue(
    { since }: KeptValues,
    values: ValueStatements,
    open: readonly OpenVersion[],
    key: Buffer,
    col: number,
    value: Buffer,
  ): void {
    const known = open.find((version) => version.col === col);
    if (known !== undefined) {
      if (known.value === null) values.fill.run(value, known.id);
      return;
    }
    const last = values.lastUntil.get(key, col) as { until_lsn: number | bigint; until_ord: number } | undefined;
    if (last === undefined) values.add.run(key, col, since.lsn, since.ordinal, value);
    else values.add.run(key, col, last.until_lsn, last.until_ord, value);
  }

  #closeAll(values: ValueStatements, key: Buffer): void {
    for (const { id } of values.open.all(key) as unknown as OpenVersion[]) {
      values.close.run(this.#lsn, this.#ordinal, id);
    }
  }

  #empty(table: Table): void {
    this.#db.exec(`DELETE FROM r${table.id}`);
    if (table.values === null || !table.values.used) return;
    this.#db
      .prepare(`UPDATE v${table.id} SET until_lsn = ?, until_ord = ? WHERE until_lsn IS NULL`)
      .run(this.#lsn, this.#ordinal);
  }

  /** The hashes with those not sent taken from the row as it was. */
  #completed(hashes: Uint8Array, shape: Shape, old: OldRow): Uint8Array {
    const aligned = this.#alignment(old.shape, shape);
    const complete = Buffer.from(hashes);
    for (let i = 0; i < aligned.length; i++) {
      const from = aligned[i]!;
      if (from < 0 || !isUnknownHash(hashes, i)) continue;
      complete.set(old.hashes.subarray(from * HASH_BYTES, from * HASH_BYTES + HASH_BYTES), i * HASH_BYTES);
    }
    return complete;
  }

  #alignment(from: number, to: Shape): Int32Array {
    const name = `${from}:${to.id}`;
    const known = this.#alignments.get(name);
    if (known !== undefined) return known;
    const columns = this.#shapes.get(from)?.columns ?? [];
    const aligned = Int32Array.from(to.columns, ({ col }) => columns.findIndex((other) => other.col === col));
    this.#alignments.set(name, aligned);
    return aligned;
  }

  #shapeOf(announced: RowShape): Shape {
    const table = this.#tableOf(announced);
    const { relation } = announced;
    const known = table.latestOf.get(relation);
    const same =
      known !== undefined &&
      known.columns.length === announced.columns.length &&
      known.columns.every(({ name, type, number }, i) => {
        const other = announced.columns[i]!;
        return other.name === name && other.type === type && other.number === number;
      });
    if (same) return known;
    const cols = inheritedCols((known ?? table.latest)?.columns ?? [], announced.columns, known !== undefined);
    const columns = announced.columns.map((column, i) => ({ ...column, col: cols[i] ?? table.nextCol++ }));
    const id = ++this.#lastShape;
    this.#db
      .prepare('INSERT INTO shapes (id, tab, relation, columns) VALUES (?, ?, ?, ?)')
      .run(id, table.id, relation, JSON.stringify(columns));
    this.#db.prepare('UPDATE tables SET next_col = ? WHERE id = ?').run(table.nextCol, table.id);
    const shape = { id, table, columns };
    this.#shapes.set(shape.id, shape);
    table.latestOf.set(relation, shape);
    table.latest = shape;
    return shape;
  }

  #tableOf(shape: RowShape): Table {
    // A table that became a partition: what comes of it from now on is its root's.
    const alone = shape.leaf ? this.#byOid(shape.relation) : undefined;
    if (alone !== undefined) {
      sql.forgetTable(this.#db, alone.id);
      this.#unload(alone.id);
    }
    const row = this.#findTable(shape);
    if (row === undefined) return this.#create(shape);
    const table = this.#tables.get(row.id)!;
    if (row.schema !== shape.schema || row.name !== shape.name) this.#rename(row.id, shape);
    const key = JSON.stringify(shape.key);
    if (!shape.leaf && row.oid === null) {
      this.#db.prepare('UPDATE tables SET oid = ? WHERE id = ?').run(shape.oid, row.id);
    }
    // Another table of the name, another key, or values that were not kept so far: what is here does not tell of it.
    const other = !shape.leaf && row.oid !== null && row.oid !== shape.oid;
    if (other || row.key !== key || (shape.values && row.values_kept === 0)) {
      this.#reset(table, shape);
    } else if (!shape.values && row.values_kept === 1) {
      this.#db.exec(`DROP TABLE v${row.id}; UPDATE tables SET values_kept = 0 WHERE id = ${row.id}`);
      table.values = null;
    }
    return this.#tables.get(row.id)!;
  }

  #findTable(shape: RowShape): TableRow | undefined {
    const byName = this.#db.prepare('SELECT * FROM tables WHERE schema = ? AND name = ?');
    const own = shape.leaf ? undefined : this.#byOid(shape.oid);
    return own ?? (byName.get(shape.schema, shape.name) as TableRow | undefined);
  }

  #byOid(oid: number): TableRow | undefined {
    return this.#db.prepare('SELECT * FROM tables WHERE oid = ?').get(oid) as TableRow | undefined;
  }

  #rename(id: number, { schema, name }: RowShape): void {
    // Another table had the name; it was renamed or dropped, and says so itself when a row of it comes.
    this.#db
      .prepare(`UPDATE tables SET name = name || ' ' || id WHERE schema = ? AND name = ? AND id <> ?`)
      .run(schema, name, id);
    this.#db.prepare('UPDATE tables SET schema = ?, name = ? WHERE id = ?').run(schema, name, id);
  }

  #create(shape: RowShape): Table {
    const { schema, name, leaf, oid, key, values } = shape;
    const since = formatPosition(this.#position!);
    const before = this.#db
      .prepare('DELETE FROM gone WHERE schema = ? AND name = ? RETURNING generation')
      .get(schema, name) as { generation: number } | undefined;
    const id = ++this.#lastTable;
    this.#db
      .prepare(
        `INSERT INTO tables (id, schema, name, oid, generation, key, values_kept, since, next_col)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)`,
      )
      .run(
        ...[id, schema, name, leaf ? null : oid, before?.generation ?? 0, JSON.stringify(key), values ? 1 : 0, since],
      );
    sql.makeTables(this.#db, id, values);
    return this.#load(id);
  }

  /** Everything of the table is forgotten; a new generation of it is read from the source. */
  #reset({ id }: Table, shape: RowShape): void {
    this.#resets++;
    sql.dropTables(this.#db, id);
    sql.makeTables(this.#db, id, shape.values);
    const { leaf, oid, key, values } = shape;
    this.#db
      .prepare(
        'UPDATE tables SET oid = ?, generation = generation + 1, key = ?, values_kept = ?, since = ? WHERE id = ?',
      )
      .run(leaf ? null : oid, JSON.stringify(key), values ? 1 : 0, formatPosition(this.#through), id);
    const before = [...this.#announced].filter(([, { shape: known }]) => known?.table.id === id);
    this.#unload(id);
    this.#load(id);
    // Shapes announced before name the table as it was. Those of another table or key have nothing more to say.
    for (const [number, announced] of before) {
      const { as } = announced;
      if ((as.leaf || as.oid === oid) && as.values === values && JSON.stringify(as.key) === JSON.stringify(key)) {
        announced.shape = this.#shapeOf(as);
      } else this.#announced.delete(number);
    }
  }

  #load(id: number): Table {
    const db = this.#db;
    const row = db.prepare('SELECT * FROM tables WHERE id = ?').get(id) as unknown as TableRow;
    const used = () => db.prepare(`SELECT 1 FROM v${id} LIMIT 1`).get() !== undefined;
    const table: Table = {
      id,
      statements: null,
      values: row.values_kept === 1 ? { used: used(), since: parsePosition(row.since)! } : null,
      latest: null,
      latestOf: new Map(),
      nextCol: row.next_col,
    };
    this.#tables.set(id, table);
    const shapes = db.prepare('SELECT id, relation, columns FROM shapes WHERE tab = ? ORDER BY id').all(id);
    for (const shape of shapes as { id: number; relation: number; columns: string }[]) {
      table.latest = { id: shape.id, table, columns: JSON.parse(shape.columns) as StoredColumn[] };
      table.latestOf.set(shape.relation, table.latest);
      this.#shapes.set(shape.id, table.latest);
    }
    return table;
  }

  #unload(id: number): void {
    const table = this.#tables.get(id);
    this.#tables.delete(id);
    if (table?.statements != null) this.#prepared.splice(this.#prepared.indexOf(table), 1);
    for (const announced of this.#announced.values()) if (announced.shape?.table.id === id) announced.shape = null;
    for (const [number, known] of this.#shapes) if (known.table.id === id) this.#shapes.delete(number);
    this.#alignments.clear();
  }

  #prepare(table: Table): RowStatements {
    if (this.#prepared.length === this.#preparedMax) this.#prepared.shift()!.statements = null;
    this.#prepared.push(table);
    table.statements = sql.prepareRows(this.#db, table.id, table.values !== null);
    return table.statements;
  }

  /** After a rollback memory may know of tables and shapes that are not there. */
  #forgetLoaded(): void {
    this.#tables.clear();
    this.#prepared.length = 0;
    this.#shapes.clear();
    this.#alignments.clear();
    for (const { id } of this.#db.prepare('SELECT id FROM tables').all() as { id: number }[]) this.#load(id);
  }

  #head(): Announced & { readonly shape: Shape } {
    const announced = this.#announced.get(this.#u32());
    assert(announced !== undefined, 'an operation names a shape that was announced');
    announced.shape ??= this.#shapeOf(announced.as);
    const bytes = this.#bytes;
    if (this.#at + 12 > bytes.length) throw new InvariantError(OPERATION_DAMAGED);
    this.#lsn = bytes.readBigUInt64BE(this.#at);
    this.#ordinal = bytes.readUInt32BE(this.#at + 8);
    this.#at += 12;
    return announced as Announced & { readonly shape: Shape };
  }

  #u8(): number {
    if (this.#at >= this.#bytes.length) throw new InvariantError(OPERATION_DAMAGED);
    return this.#bytes[this.#at++]!;
  }

  #u16(): number {
    return (this.#u8() << 8) | this.#u8();
  }

  #u32(): number {
    const at = this.#at;
    if (at + 4 > this.#bytes.length) throw new InvariantError(OPERATION_DAMAGED);
    this.#at = at + 4;
    return this.#bytes.readUInt32BE(at);
  }

  #slice(size: number): Buffer {
    const at = this.#at;
    if (at + size > this.#bytes.length) throw new InvariantError(OPERATION_DAMAGED);
    this.#at = at + size;
    return this.#bytes.subarray(at, at + size);
  }
}

interface TableRow {
  readonly id: number;
  readonly schema: string;
  readonly name: string;
  readonly oid: number | null;
  readonly generation: number;
  readonly key: string;
  readonly values_kept: number;
  readonly since: string;
  readonly next_col: number;
}

class FormatError extends Error {}

/** SQLITE_CORRUPT and SQLITE_NOTADB, or a file of another version. */
export function isDamage(error: unknown): boolean {
  const code = (error as { errcode?: number }).errcode;
  return error instanceof FormatError || (code !== undefined && ((code & 0xff) === 11 || (code & 0xff) === 26));
}

/** SQLITE_BUSY and SQLITE_LOCKED: a backup tool, or a person, has it open. */
export function isLock(error: unknown): boolean {
  const code = (error as { errcode?: number }).errcode;
  return code !== undefined && ((code & 0xff) === 5 || (code & 0xff) === 6);
}
