/**
 * The SQL of one chunk: the rows of a unit after one position and up to another, in the backfill's order, as the text
 * that the replication stream would send (I10); and the position of a row in that order.
 */
import { MillraceError } from '@millrace/core/error';
import { quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import type { BackfillOrder, BackfillRange } from './backfill-job.ts';
import type { RowColumns } from './row-chunk.ts';
import type { ReadUnit, TablePlan } from './table-plan.ts';

/** Texts that stand for a row's place: `(page,item)`; the key; or the sort column (null too) and the key. */
export type RowPosition = readonly string[];

/** After one position (null: from the start) up to another (null: to the end). On disk `through` is a page, not read. */
export interface RowRange {
  readonly after: RowPosition | null;
  readonly through: RowPosition | null;
}

/** In a position: the sort column is NULL. Texts of values get a `=` in front. */
const NULL_SORT = '-';

export class ChunkQuery {
  readonly order: BackfillOrder;
  readonly unit: ReadUnit;
  readonly #plan: TablePlan;
  readonly #range: BackfillRange;
  readonly #select: string;
  readonly #filter: string;
  readonly #sortType: string;
  /** Rows are told apart by when they were written, and of those that were not written since only the key is there. */
  readonly #late: string | null;

  /** `since`: a transaction, or null for all rows. Absent: every row is read whole, and none is told apart. */
  constructor(plan: TablePlan, unit: ReadUnit, order: BackfillOrder, range: BackfillRange, since?: string | null) {
    this.#plan = plan;
    this.unit = unit;
    this.order = order;
    this.#range = range;
    this.#late = since === undefined ? null : writtenSince(plan, since);
    if (order !== 'physical' && unit.key === null) throw keyless(plan);
    const columns = unit.schema.columns.map(({ name }) => {
      const column = quoteIdentifier(name);
      return this.#late === null || unit.key!.names.includes(name)
        ? column
        : `CASE WHEN ${this.#late} THEN ${column} END AS ${column}`;
    });
    if (this.#late !== null) columns.push(this.#late);
    else if (order === 'physical') columns.push('ctid');
    else if (order === 'sort') columns.push(`${this.#sort} AS "millrace sort"`);
    this.#select = columns.join(', ');
    this.#sortType = order === 'sort' ? typeOf(plan, range.sortColumn!) : '';
    this.#filter = this.#conditions()
      .map((sql) => `(${sql})`)
      .join(' AND ');
  }

  /** Columns of a row, with the one that only tells its place, or whether it is wanted. */
  get columns(): number {
    return this.unit.schema.columns.length + (this.order === 'key' && this.#late === null ? 0 : 1);
  }

  /** What its positions hold for: the file, or the columns that it is ordered by, as they are now. */
  get scope(): string {
    if (this.order === 'physical') return this.unit.file;
    const { sortColumn } = this.#range;
    const names = this.order === 'sort' ? [sortColumn!, ...this.unit.key!.names] : this.unit.key!.names;
    return names.map((name) => this.#plan.columnOrders.get(name)).join(', ');
  }

  /** Of the row that `columns` is aimed at: whether it is one of those that are asked for. */
  wants(bytes: Buffer, columns: RowColumns): boolean {
    return this.#late === null || bytes[columns.starts[this.unit.schema.columns.length]!] === TRUE;
  }

  get from(): string {
    return `${this.unit.only ? 'ONLY ' : ''}${this.unit.relation}`;
  }

  /** Rows that are to be read in all, for an estimate or a count. */
  all(): string {
    return `SELECT FROM ${this.from}${this.#filter === '' ? '' : ` WHERE ${this.#filter}`}`;
  }

  chunk({ after, through }: RowRange, rowsMax: number): string {
    const where = [
      ...this.#printing(),
      ...this.#between(after, through),
      ...(this.#filter === '' ? [] : [this.#filter]),
    ];
    const conditions = where.length === 0 ? '' : ` WHERE ${where.join(' AND ')}`;
    return `SELECT ${this.#select} FROM ${this.from}${conditions}${this.#ordered} LIMIT ${rowsMax}`;
  }

  /**
   * Rows of a range of pages come in its order by themselves, and are not sorted then. A condition could bring them in
   * that of an index, or of another table that it asks: rows between two chunks would be lost.
   */
  get #ordered(): string {
    if (this.order === 'physical') return this.#filter === '' ? '' : ' ORDER BY ctid';
    return ` ORDER BY ${this.#ordering}`;
  }

  /** For its transaction. Otherwise each chunk could go through all that an index has for the condition. */
  get settings(): string {
    return this.order === 'physical' ? 'SET LOCAL enable_indexscan = off; ' : '';
  }

  /**
   * Operators are found by a longer search_path than the stream's session has, in which names (regclass) would print
   * otherwise (I10). So it ends once the statement is parsed: Postgres evaluates this once, before the first row.
   */
  #printing(): string[] {
    const { searchPath, ownSearchPath } = this.#plan;
    if (searchPath === ownSearchPath) return [];
    return [`(SELECT pg_catalog.set_config('search_path', ${quoteLiteral(ownSearchPath)}, true)) IS NOT NULL`];
  }

  /** Of the row that `columns` is aimed at. */
  positionOf(bytes: Buffer, columns: RowColumns): string[] {
    const text = (column: number) => bytes.toString('utf8', columns.starts[column]!, columns.ends[column]!);
    const last = this.unit.schema.columns.length;
    if (this.order === 'physical') return [text(last)];
    const key = this.unit.key!.columns.map(text);
    if (this.order === 'key') return key;
    return [columns.kinds[last] === VALUE_NULL_KIND ? NULL_SORT : `=${text(last)}`, ...key];
  }

  get #sort(): string {
    return quoteIdentifier(this.#range.sortColumn!);
  }

  get #key(): string {
    return this.unit.key!.names.map(quoteIdentifier).join(', ');
  }

  get #ordering(): string {
    return this.order === 'sort' ? `${this.#sort}, ${this.#key}` : this.#key;
  }

  #between(after: RowPosition | null, through: RowPosition | null): string[] {
    switch (this.order) {
      case 'physical':
        return [
          ...(after === null ? [] : [`ctid > ${quoteLiteral(after[0]!)}::tid`]),
          ...(through === null ? [] : [`ctid < ${quoteLiteral(through[0]!)}::tid`]),
        ];
      case 'key':
        return [
          ...(after === null ? [] : [`(${this.#key}) > (${this.#keyValues(after)})`]),
          ...(through === null ? [] : [`(${this.#key}) <= (${this.#keyValues(through)})`]),
        ];
      case 'sort':
        return [
          ...(after === null ? [] : [this.#behind(after, '>')]),
          ...(through === null ? [] : [this.#behind(through, '<=')]),
        ];
    }
  }

  /** NULL sorts last, and has no place in a row comparison. */
  #behind([sort, ...key]: RowPosition, operator: '>' | '<='): string {
    const keys = this.#keyValues(key);
    if (sort === NULL_SORT) {
      const among = `(${this.#sort} IS NULL AND (${this.#key}) ${operator} (${keys}))`;
      return operator === '>' ? among : `(${this.#sort} IS NOT NULL OR ${among})`;
    }
    const value = `${quoteLiteral(sort!.slice(1))}::${this.#sortType}`;
    const rows = `(${this.#sort}, ${this.#key}) ${operator} (${value}, ${keys})`;
    // With a bound there is no NULL in the range; without that knowledge an index could not be used.
    return operator === '>' && !this.#bounded ? `(${rows} OR ${this.#sort} IS NULL)` : rows;
  }

  get #bounded(): boolean {
    return this.#range.startPosition !== undefined || this.#range.endPosition !== undefined;
  }

  #keyValues(values: RowPosition): string {
    return keyValues(this.unit, values);
  }

  #conditions(): string[] {
    const { startPosition, endPosition, where, keys, sortColumn } = this.#range;
    const conditions: string[] = [];
    if (this.unit.filter !== null) conditions.push(this.unit.filter);
    if (sortColumn !== undefined) {
      const type = typeOf(this.#plan, sortColumn);
      const column = quoteIdentifier(sortColumn);
      if (startPosition !== undefined) conditions.push(`${column} >= ${quoteLiteral(startPosition)}::${type}`);
      if (endPosition !== undefined) conditions.push(`${column} <= ${quoteLiteral(endPosition)}::${type}`);
    }
    // A comment at its end must not swallow what follows.
    if (where !== undefined) conditions.push(`${where}\n`);
    if (keys !== undefined) {
      const list = keys.map((key) => `(${keyValues(this.unit, key)})`).join(', ');
      conditions.push(`(${this.#key}) IN (${list})`);
    }
    return conditions;
  }
}

const VALUE_NULL_KIND = 0x6e;
/** `t` */
const TRUE = 0x74;
/** Ids are compared by their lower 32 bits: further apart than this, a later one looks like an earlier one. */
const XID_DISTANCE_MAX = 2n ** 31n;
/** Ids below it are of no transaction. */
const XID_FIRST = 3n;

/** SQL of whether a row was written by this transaction or one with a later id; a row that was written long ago may seem to be. */
function writtenSince({ oldestXid }: TablePlan, since: string | null): string {
  if (since === null || BigInt(oldestXid) - BigInt(since) > XID_DISTANCE_MAX) return 'true';
  const low = BigInt.asUintN(32, BigInt(since));
  const age = `pg_catalog.age('${low < XID_FIRST ? XID_FIRST : low}'::pg_catalog.xid)`;
  return `(pg_catalog.age(xmin) <= ${age} OR ${age} < 0)`;
}

function keyValues(unit: ReadUnit, values: RowPosition): string {
  return values.map((text, i) => `${quoteLiteral(text)}::${unit.key!.types[i]}`).join(', ');
}

function keyless({ schema, name }: TablePlan): MillraceError {
  return new MillraceError('pg_table_keyless', {
    detail: `"${schema}"."${name}" has no key any more, and was to be read in the order of it.`,
    hint: 'Give the table a primary key again, or cancel the backfill and start another one.',
  });
}

function typeOf(plan: TablePlan, column: string): string {
  const type = plan.columnTypes.get(column);
  if (type !== undefined) return type;
  throw new MillraceError('backfill_invalid', {
    detail: `Table "${plan.schema}"."${plan.name}" has no column "${column}" any more.`,
    hint: 'Cancel the backfill and start one with another sort column.',
  });
}
