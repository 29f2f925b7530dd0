/**
 * The keyed diff of a repair: compares every published table, as one snapshot of the source shows it, with the row
 * index, and says the difference as ordinary pgoutput messages. A gap in the stream of changes is thereby bridged by
 * changes: also by the deletes that happened in it, which a new backfill alone would never show.
 *
 * Mark and sweep, so that no order of keys has to agree between Postgres and SQLite: a scan of the table looks up each
 * row by key and marks it; what is not marked in the end is gone. Memory: one bit per indexed row, and one page of rows.
 *
 * A table without a key, one whose rows the index has not yet read, and one that it knows under another name, cannot be
 * compared. It is emptied (TRUNCATE) and loaded again: an insert for each row.
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import type { PgConnection } from '@millrace/postgres/connection';
import { DELETE, INSERT, OLD_KEY, TRUNCATE, UPDATE, VALUE_NULL, VALUE_TEXT } from '@millrace/postgres/pgoutput';
import { MarkedRows } from './marked-rows.ts';
import { type PublishedTable, readPublication, relationOf, rewritten, selectRows } from './published-tables.ts';
import { RowHasher, splitKey } from './row-hasher.ts';
import { compareHashes, type IndexedRow, type IndexedTable, placeOf } from './row-lookup.ts';

/** What the diff asks of the row index, which must have reached the end of the log: see row-lookup.ts. */
export interface DiffedIndex {
  /** By the name messages carry. null: the index has never held this table. */
  table(schema: string, name: string): IndexedTable | null;
  /** Whether the index holds every row of the table with this OID that the log tells of under the name. */
  complete(schema: string, name: string, oid: number): boolean;
  /** OIDs of the tables that it holds. */
  oids(): readonly number[];
}

export interface RepairDiffOptions {
  /** A session in a REPEATABLE READ transaction on the snapshot to repair to. The diff leaves it open. */
  readonly connection: PgConnection;
  readonly publication: string;
  readonly index: DiffedIndex;
  /**
   * Takes one pgoutput message (RELATION, INSERT, UPDATE, DELETE, TRUNCATE); valid only during the call. Between a BEGIN
   * and a COMMIT that the caller writes.
   */
  readonly message: (bytes: Buffer, start: number, end: number) => void;
  /** Awaited between pages: where the caller lets its writer catch up. */
  readonly drained?: () => Promise<void>;
  readonly onProgress?: (progress: RepairProgress) => void;
  readonly signal: AbortSignal;
}

export interface RepairProgress extends RepairCounts {
  readonly schema: string;
  readonly table: string;
  readonly done: boolean;
}

export interface RepairCounts {
  rowsCompared: number;
  inserts: number;
  updates: number;
  deletes: number;
}

export interface RepairSummary extends Readonly<RepairCounts> {
  readonly tables: number;
  /** Tables that were emptied and loaded again, as `schema.table`. */
  readonly reloaded: readonly string[];
}

/** Rows of one FETCH: towards a size in bytes, so that neither small nor huge rows hurt. */
const PAGE_ROWS_MAX = 5_000;
const PAGE_BYTES_TARGET = 4 << 20;
const SWEEP_ROWS = 2_000;
const CURSOR = 'millrace_repair';

export async function diffPublication(options: RepairDiffOptions): Promise<RepairSummary> {
  const { connection, publication } = options;
  const { tables } = await readPublication(connection, publication);
  const total: RepairCounts = { rowsCompared: 0, inserts: 0, updates: 0, deletes: 0 };
  const reloaded: string[] = [];
  const held = new Set(options.index.oids());
  // Partitions that are published by themselves are one table to the index, as they are to sinks.
  const groups = Map.groupBy(tables, ({ schema }) => JSON.stringify([schema.schema, schema.name]));
  for (const group of groups.values()) {
    const counts: RepairCounts = { rowsCompared: 0, inserts: 0, updates: 0, deletes: 0 };
    const { schema, name } = group[0]!.schema;
    const diff = new TableDiff(options, group, held, counts);
    if (!(await diff.run())) reloaded.push(`${schema}.${name}`);
    options.onProgress?.({ schema, table: name, ...counts, done: true });
    total.rowsCompared += counts.rowsCompared;
    total.inserts += counts.inserts;
    total.updates += counts.updates;
    total.deletes += counts.deletes;
  }
  return { tables: groups.size, ...total, reloaded };
}

class TableDiff {
  readonly #options: RepairDiffOptions;
  readonly #group: readonly PublishedTable[];
  readonly #held: ReadonlySet<number>;
  readonly #counts: RepairCounts;
  readonly #out = new ByteWriter(64 * 1024);
  readonly #marked = new MarkedRows();

  constructor(
    options: RepairDiffOptions,
    group: readonly PublishedTable[],
    held: ReadonlySet<number>,
    counts: RepairCounts,
  ) {
    this.#options = options;
    this.#group = group;
    this.#held = held;
    this.#counts = counts;
  }

  /** False: the table could not be compared and was loaded again. */
  async run(): Promise<boolean> {
    const { index } = this.#options;
    const { schema, root } = this.#group[0]!;
    const indexed = index.table(schema.schema, schema.name);
    const isComplete = index.complete(schema.schema, schema.name, indexed?.oid ?? root);
    const comparable = isComplete && this.#group.every(({ key }) => key.length > 0);
    const sameKey = indexed === null || this.#group.every(({ key }) => key.join('\0') === indexed.key.join('\0'));
    if (!comparable || !sameKey || this.#isHeldElsewhere(indexed)) {
      await this.#reload();
      return false;
    }
    for (const table of this.#group) {
      this.#send(table.relation);
      await this.#scan(table, indexed);
    }
    if (indexed !== null) await this.#sweep(this.#group.at(-1)!, indexed);
    return true;
  }

  /**
   * The name was another table's when the index heard of both last. What this one differs in from the rows of that one is not
   * what it differs in from its own, which the index keeps by OID.
   */
  #isHeldElsewhere(indexed: IndexedTable | null): boolean {
    const { schema, own } = this.#group[0]!;
    const isWhole = own.schema === schema.schema && own.name === schema.name;
    return isWhole && indexed?.oid !== schema.oid && this.#held.has(schema.oid);
  }

  async #reload(): Promise<void> {
    for (const table of this.#group) this.#send(table.relation);
    const out = this.#begin(TRUNCATE);
    out.u32(this.#group.length);
    out.u8(0);
    for (const { schema } of this.#group) out.u32(schema.oid);
    this.#end();
    for (const table of this.#group) await this.#scan(table, null);
  }

  async #scan(table: PublishedTable, indexed: IndexedTable | null): Promise<void> {
    const { connection, drained, onProgress, signal } = this.#options;
    const hasher = new RowHasher(table.schema, table.key);
    const counts = this.#counts;
    await connection.query(`LOCK TABLE ${relationOf(table)} IN ACCESS SHARE MODE`);
    if (await rewritten(connection, table)) {
      throw new MillraceError('pg_repair_failed', {
        detail: `"${table.own.schema}"."${table.own.name}" was truncated or rewritten (ALTER TABLE, VACUUM FULL) after the snapshot was taken.`,
        hint: 'It is tried again with a new snapshot. Do not alter tables during the repair.',
      });
    }
    await connection.query(`DECLARE ${CURSOR} NO SCROLL CURSOR FOR ${selectRows(table)}`);
    let rowsMax = 100;
    for (let rows = rowsMax; rows === rowsMax; ) {
      if (signal.aborted) throw new MillraceError('storage_closed');
      let bytesRead = 0;
      rows = 0;
      await connection.queryRows(`FETCH ${rowsMax} FROM ${CURSOR}`, (bytes, start, end) => {
        bytesRead += end - start;
        rows++;
        this.#row(table, hasher, indexed, bytes, start, end);
      });
      await drained?.();
      counts.rowsCompared += rows;
      onProgress?.({ schema: table.schema.schema, table: table.schema.name, ...counts, done: false });
      if (rows < rowsMax) break;
      rowsMax = Math.max(1, Math.min(PAGE_ROWS_MAX, Math.floor((PAGE_BYTES_TARGET * rows) / Math.max(1, bytesRead))));
      rows = rowsMax;
    }
    await connection.query(`CLOSE ${CURSOR}`);
  }

  #row(
    table: PublishedTable,
    hasher: RowHasher,
    indexed: IndexedTable | null,
    bytes: Buffer,
    start: number,
    end: number,
  ): void {
    hasher.aim(bytes, start, end);
    const known = indexed?.find(hasher.key) ?? null;
    if (known !== null) {
      this.#marked.mark(known.id);
      if (sameRow(table, hasher, known)) return;
      this.#counts.updates++;
    } else this.#counts.inserts++;
    const out = this.#begin(known === null ? INSERT : UPDATE);
    out.u32(table.schema.oid);
    out.u8(0x4e);
    writeTuple(out, bytes, hasher.starts, hasher.ends);
    this.#end();
  }

  async #sweep(table: PublishedTable, indexed: IndexedTable): Promise<void> {
    const { drained, signal } = this.#options;
    const { columns } = table.schema;
    const places = indexed.key.map((name) => columns.findIndex((column) => column.name === name));
    const starts = new Int32Array(columns.length);
    const ends = new Int32Array(columns.length);
    for (let from = 0; ; ) {
      if (signal.aborted) throw new MillraceError('storage_closed');
      const rows = indexed.after(from, SWEEP_ROWS);
      for (const { id, key } of rows) {
        from = id;
        if (this.#marked.has(id)) continue;
        starts.fill(-1);
        for (const [i, part] of splitKey(key, places.length).entries()) {
          starts[places[i]!] = part.start;
          ends[places[i]!] = part.end;
        }
        const out = this.#begin(DELETE);
        out.u32(table.schema.oid);
        out.u8(OLD_KEY);
        writeTuple(out, key, starts, ends);
        this.#end();
        this.#counts.deletes++;
      }
      if (rows.length < SWEEP_ROWS) return;
      await drained?.();
    }
  }

  #begin(kind: number): ByteWriter {
    this.#out.length = 0;
    this.#out.u8(kind);
    return this.#out;
  }

  #end(): void {
    this.#options.message(this.#out.buffer, 0, this.#out.length);
  }

  #send(message: Buffer): void {
    this.#options.message(message, 0, message.length);
  }
}

/** A value whose hash is not known, or of a column the row's last change did not have, counts as another unless NULL. */
function sameRow({ schema }: PublishedTable, hasher: RowHasher, known: IndexedRow): boolean {
  const { hashes } = hasher;
  for (let i = 0; i < schema.columns.length; i++) {
    const place = placeOf(known.shape, schema, i);
    if (place < 0) {
      if (hasher.starts[i]! >= 0) return false;
    } else if (compareHashes(hashes, i, known.hashes, place) !== 1) return false;
  }
  return true;
}

/** A start below 0 is NULL. */
function writeTuple(out: ByteWriter, bytes: Uint8Array, starts: Int32Array, ends: Int32Array): void {
  out.u8(starts.length >> 8);
  out.u8(starts.length & 0xff);
  for (let i = 0; i < starts.length; i++) {
    const start = starts[i]!;
    if (start < 0) {
      out.u8(VALUE_NULL);
      continue;
    }
    out.u8(VALUE_TEXT);
    out.u32(ends[i]! - start);
    out.copy(bytes, start, ends[i]!);
  }
}
