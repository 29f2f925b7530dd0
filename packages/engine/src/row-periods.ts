/**
 * Which rows a row filter of ours left out of the change log, and up to where. Nothing in the log tells of them, so it is
 * on record before such a filter is in force: who reads changes from before its end has to be one of those that it was
 * made for, by conditions that hold nothing more back from it than its own do. Pure; see docs/decisions/0016.
 *
 * Conditions are compared as the configuration has them, by the numbers of their columns: two ways to write a value are
 * two conditions. What is taken for different and is the same is refused, never the other way round.
 */
import { MillraceError } from '@millrace/core/error';
import { formatLsn, type Lsn, parseLsn } from '@millrace/core/lsn';
import { rulesOfTable } from './decode/row-rules.ts';
import type { RowRulesConfig } from './decode/row-rules-config.ts';

/** A row passes that satisfies all conditions of one of these. */
export type RowFilters = readonly (readonly string[])[];

export interface RowPeriod {
  readonly filters: RowFilters;
  /** What the table was called while it was in force, as far as we looked. */
  readonly names: readonly (readonly [schema: string, name: string])[];
  /** What the columns of the conditions were called. */
  readonly columns: readonly (readonly [number: number, names: readonly string[]])[];
  /** One of those names is another column's now: nobody is sure which rows it has. */
  readonly torn: boolean;
  /** What commits there and later is not held back by it; null: it is in force, or may be. */
  readonly until: string | null;
}

/** By the oid of the table. */
export type RowPeriods = Readonly<Record<string, readonly RowPeriod[]>>;

/** A table as the catalog has it now. */
export interface FilteredTable {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly columns: readonly { readonly number?: number | undefined; readonly name: string }[];
}

/** Beyond it the oldest become one that nobody has all rows of. */
const PERIODS_MAX = 64;

/** What the rules hold back of rows that are inserted. A column that `numberOf` does not know adds no condition. */
export function conditionsOf(
  rules: RowRulesConfig,
  schema: string,
  name: string,
  numberOf: (column: string) => number | undefined,
): readonly string[] {
  const conditions = new Set<string>();
  for (const one of [...rules.where, ...(rulesOfTable(rules, schema, name)?.where ?? [])]) {
    // Of inserts `changed` holds nothing back.
    if ('changed' in one) continue;
    const number = numberOf(one.column);
    const { value } = one;
    const values = Array.isArray(value)
      ? [...new Set(value.map(String))].sort()
      : value === null
        ? null
        : String(value);
    if (number !== undefined) conditions.add(JSON.stringify([number, one.operator, values]));
  }
  return [...conditions].sort();
}

/** Every row that satisfies these conditions passes. null: there is no filter. */
export function admits(filters: RowFilters | null, conditions: readonly string[]): boolean {
  return filters === null || filters.some((filter) => filter.every((condition) => conditions.includes(condition)));
}

/** Every row that passes `other` passes `filters`. */
export function admitsAll(filters: RowFilters | null, other: RowFilters | null): boolean {
  return filters === null || (other?.every((conditions) => admits(filters, conditions)) ?? false);
}

export function sameFilters(a: RowFilters | null, b: RowFilters | null): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** On record that these filters are in force, or are going to be. Names that the table has now are added. */
export function withFilters(
  periods: readonly RowPeriod[],
  table: FilteredTable,
  inForce: readonly (RowFilters | null)[],
): readonly RowPeriod[] {
  const next = periods.map((period) => (period.until === null ? seenAs(period, table) : period));
  for (const filters of inForce) {
    if (filters === null) continue;
    const at = next.findIndex((one) => !one.torn && sameFilters(one.filters, filters));
    const before = next[at];
    if (before?.until === null) continue;
    const numbers = new Set(filters.flat().map((condition) => (JSON.parse(condition) as [number])[0]));
    const fresh = { filters, names: [], columns: [...numbers].map((number) => [number, []] as const), torn: false };
    const period = seenAs({ ...(before ?? fresh), until: null }, table);
    if (before === undefined) next.push(period);
    // A name that has gone to another column since was not so then.
    else if (period.torn) next.push(seenAs({ ...fresh, until: null }, table));
    else next[at] = period;
  }
  while (next.length > PERIODS_MAX) {
    const closed = next.filter(({ until }) => until !== null);
    const [a, b] = closed;
    if (a === undefined || b === undefined) break;
    const until = lsnOf(a.until!) > lsnOf(b.until!) ? a.until : b.until;
    next[next.indexOf(a)] = { ...a, names: [...a.names, ...b.names], torn: true, until };
    next.splice(next.indexOf(b), 1);
  }
  return next;
}

/** Filters that may still be in force beside `now`, and hold back what it does not. */
export function isHeldBack(periods: readonly RowPeriod[], now: RowFilters | null): boolean {
  return periods.some((period) => isStale(period, now) && (period.torn || !admitsAll(period.filters, now)));
}

/** Nothing but `now` holds back what commits at `lsn` or later. */
export function closed(periods: readonly RowPeriod[], now: RowFilters | null, lsn: Lsn): readonly RowPeriod[] {
  return periods.map((period) => (isStale(period, now) ? { ...period, until: formatLsn(lsn) } : period));
}

function isStale({ filters, torn, until }: RowPeriod, now: RowFilters | null): boolean {
  return until === null && (torn || !sameFilters(filters, now));
}

function seenAs(period: RowPeriod, { schema, name, columns }: FilteredTable): RowPeriod {
  const isKnown = period.names.some((one) => one[0] === schema && one[1] === name);
  const named = period.columns.map(([number, names]) => {
    const now = columns.find((column) => column.number === number)?.name;
    return [number, now === undefined || names.includes(now) ? names : [...names, now]] as const;
  });
  const taken = named.some(([number, names]) =>
    columns.some((column) => column.number !== number && names.includes(column.name)),
  );
  return {
    ...period,
    names: isKnown ? period.names : [...period.names, [schema, name]],
    columns: named,
    torn: period.torn || taken,
  };
}

/** A sink that is to read what comes after `after`. null: it lacks no row. */
export function rowsLeftOut(
  all: RowPeriods,
  { takes, rules }: { readonly takes: (schema: string, table: string) => boolean; readonly rules: RowRulesConfig },
  after: Lsn,
): MillraceError | null {
  for (const periods of Object.values(all)) {
    for (const period of periods) {
      if (isOver(period, after)) continue;
      for (const [schema, name] of period.names) {
        if (!takes(schema, name)) continue;
        const conditions = conditionsOf(rules, schema, name, (column) => numberIn(period, column));
        if (period.torn || !admits(period.filters, conditions)) return leftOut(schema, name, period);
      }
    }
  }
  return null;
}

/** Of rows of a table as they are announced, in a transaction that commits at `lsn`: a name may be another's by then. */
export function announcedLeftOut(
  all: RowPeriods,
  table: FilteredTable,
  rules: RowRulesConfig,
  lsn: Lsn,
): MillraceError | null {
  const isNumbered = table.columns.some(({ number }) => number !== undefined);
  for (const period of all[table.oid] ?? []) {
    if (isOver(period, lsn)) continue;
    // One that was gone before it was looked at is known by the names of then.
    const numberOf = (column: string) =>
      isNumbered ? table.columns.find(({ name }) => name === column)?.number : numberIn(period, column);
    const conditions = conditionsOf(rules, table.schema, table.name, numberOf);
    if (!admits(period.filters, conditions)) return leftOut(table.schema, table.name, period);
  }
  return null;
}

function numberIn({ columns }: RowPeriod, column: string): number | undefined {
  return columns.find(([, names]) => names.includes(column))?.[0];
}

function isOver({ until }: RowPeriod, lsn: Lsn): boolean {
  return until !== null && lsn >= lsnOf(until);
}

function lsnOf(text: string): Lsn {
  return parseLsn(text) ?? 0n;
}

function leftOut(schema: string, name: string, { until }: RowPeriod): MillraceError {
  const where = until === null ? '' : ` before ${until}`;
  const behind = until === null ? 'with start: now' : `from ${until} on`;
  return new MillraceError('rows_left_out', {
    detail: `${schema}.${name}: Postgres left out rows${where} that no sink took then (push_down), and this sink may take them.`,
    hint:
      'Give the sink the `where` it had, and change it while it runs: it is then waited for. Or begin behind them ' +
      `(millrace sink rewind, or as a new sink, ${behind}) and backfill the table. Nothing was skipped: delivery goes on from here.`,
  });
}
