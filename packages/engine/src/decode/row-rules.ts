/**
 * The rules of a sink, compiled for one shape of a table: which rows become messages, how their columns stand there, and
 * what they are grouped by.
 *
 * Rules of the sink hold for all its tables, those of a table come on top: both filters must hold, a column is hidden,
 * masked or hashed where either says so. A column that a table's rules name has to be there (a rename must not bring to
 * light what was masked); the sink's column rules do not need theirs in every table, its filters do.
 */
import { MillraceError } from '@millrace/core/error';
import type { ColumnSchema, TableSchema } from '../table-schema.ts';
import {
  COLUMN_HASHED,
  COLUMN_HIDDEN,
  COLUMN_MASKED,
  COLUMN_SHOWN,
  type ColumnTreatments,
  ValueHasher,
} from './column-treatment.ts';
import { compileFilter, type RowFilter } from './row-filter.ts';
import type { ColumnRules, RowRulesConfig, TableRules } from './row-rules-config.ts';

export interface CompiledRules {
  /** null: every row. */
  readonly filter: RowFilter | null;
  /** null: every column as it is. */
  readonly treatments: ColumnTreatments | null;
  /** Of each column, as messages have them. */
  readonly names: readonly string[];
  /** Indexes; null: the primary key. */
  readonly groupColumns: readonly number[] | null;
}

export function compileRules(table: TableSchema, rules: RowRulesConfig): CompiledRules {
  const own = rulesOfTable(rules, table.schema, table.name);
  if (own !== null) requireColumns(table, own);
  const kinds = treatmentsOf(table, rules, own);
  const names = shownNames(table, rules, own);
  requireUnique(table, names, kinds);
  return {
    filter: compileFilter(table, own === null ? rules.where : [...rules.where, ...own.where]),
    treatments: kinds.every((kind) => kind === COLUMN_SHOWN) ? null : { kinds, hasher: new ValueHasher(rules.hashKey) },
    names,
    groupColumns: own?.groupColumns?.map((name) => table.columns.findIndex((column) => column.name === name)) ?? null,
  };
}

export function rulesOfTable({ tables }: RowRulesConfig, schema: string, name: string): TableRules | null {
  return tables.find((table) => table.schema === schema && table.name === name) ?? null;
}

/** Some column is not shown as it is, in some table. */
export function hidesValues({ columns, tables }: RowRulesConfig): boolean {
  return hides(columns) || tables.some((table) => hides(table.columns));
}

function hides({ include, exclude, mask, hash }: ColumnRules): boolean {
  return include !== null || exclude.length + mask.length + hash.length > 0;
}

/** Which list keeps the value of this column from messages; null: it stands in them as it is. */
export function concealedBy(
  rules: RowRulesConfig,
  schema: string,
  table: string,
  column: string,
): 'include' | 'exclude' | 'mask' | 'hash' | null {
  for (const { include, exclude, mask, hash } of [
    rules.columns,
    rulesOfTable(rules, schema, table)?.columns ?? null,
  ].filter((one) => one !== null)) {
    if (include !== null && !include.includes(column)) return 'include';
    if (exclude.includes(column)) return 'exclude';
    if (mask.includes(column)) return 'mask';
    if (hash.includes(column)) return 'hash';
  }
  return null;
}

/** Records are not simply the rows of their tables: some are left out, or values are not those of the table. */
export function changesRecords(rules: RowRulesConfig, schema: string, name: string): boolean {
  const own = rulesOfTable(rules, schema, name);
  const changes = ({ include, exclude, mask, hash, rename }: ColumnRules) =>
    include !== null || exclude.length + mask.length + hash.length + Object.keys(rename).length > 0;
  if (rules.where.length > 0 || rules.timestampFormat !== 'iso8601' || changes(rules.columns)) return true;
  return own !== null && (own.where.length > 0 || changes(own.columns));
}

/**
 * A column that a rule keeps from messages has another name now, which no rule knows: what was masked would be shown.
 * Nor may a table leave its rules behind with its name. (That a column is simply gone, the rules of a table find out.)
 */
export function checkRenamed(before: TableSchema | undefined, table: TableSchema, rules: RowRulesConfig): void {
  if (before === undefined) return;
  const own = rulesOfTable(rules, table.schema, table.name);
  if (own === null) requireSameTable(before, table, rules);
  const isListed = (name: string) => listed(name, rules.columns) || (own !== null && listed(name, own.columns));
  for (const column of before.columns) {
    if (!isListed(column.name)) continue;
    const { number } = column;
    const same = number === undefined ? undefined : table.columns.find((other) => other.number === number);
    const isKnown = same !== undefined;
    const candidates = isKnown ? [same] : mayBe(column, before, table);
    const now = candidates.find(({ name }) => !isListed(name));
    if (now === undefined) continue;
    throw invalid(
      table,
      `hide "${column.name}", which ${isKnown ? 'is' : 'may be'} called "${now.name}" now`,
      `Add "${now.name}" to the rules, in the list that has "${column.name}".`,
    );
  }
}

function requireSameTable(before: TableSchema, table: TableSchema, rules: RowRulesConfig): void {
  const former = rulesOfTable(rules, before.schema, before.name);
  if (former === null || (former.where.length === 0 && !hides(former.columns))) return;
  throw invalid(
    before,
    `do not know it as ${table.schema}.${table.name}, which is its name now`,
    `Add an entry for ${table.schema}.${table.name} to \`tables\` of the sink, or leave it out of its source.`,
  );
}

/**
 * Columns that one may have become whose number was not known, or is not among those that are: those that have come up,
 * or are not where they were.
 */
function mayBe({ type, number }: ColumnSchema, before: TableSchema, table: TableSchema): readonly ColumnSchema[] {
  const names = before.columns.map(({ name }) => name);
  const places = table.columns.map(({ name }) => names.indexOf(name));
  const stayed = places.filter((place) => place >= 0);
  const isExchanged = stayed.some((place, i) => i > 0 && place < stayed[i - 1]!);
  const numbers = new Set(before.columns.flatMap(({ number }) => number ?? []));
  return table.columns.filter((column, i) => {
    if (column.type.oid !== type.oid) return false;
    if (column.number !== undefined && (number !== undefined || numbers.has(column.number))) return false;
    return isExchanged || places[i]! < 0;
  });
}

/**
 * Columns that the publication left out, because no sink needed them then (push_down), are not needed by these rules.
 * Otherwise messages would lack them without a word.
 */
export function requireCaptured(table: TableSchema, rules: RowRulesConfig): void {
  if (table.withheld === undefined) return;
  const own = rulesOfTable(rules, table.schema, table.name);
  const looked = new Set(own?.groupColumns ?? []);
  for (const one of [...rules.where, ...(own?.where ?? [])]) {
    for (const column of 'changed' in one ? one.changed : [one.column]) looked.add(column);
  }
  const shows = (name: string) =>
    treatmentOf(name, rules.columns) !== COLUMN_HIDDEN &&
    (own === null || treatmentOf(name, own.columns) !== COLUMN_HIDDEN);
  const lacking = table.withheld.filter((name) => looked.has(name) || shows(name));
  if (lacking.length === 0) return;
  throw new MillraceError('columns_left_out', {
    detail: `${table.schema}.${table.name}: ${lacking.map((name) => `"${name}"`).join(', ')}, left out of the publication for push_down.`,
    hint:
      'Give the sink the columns it had until it has delivered these changes, and change it while it runs; or move it ' +
      'behind them (millrace sink rewind) and backfill the table. A column that was renamed to one of include is ' +
      'captured after the next start. Nothing was skipped: delivery goes on from here.',
  });
}

/** As messages show it: names and types of what is left. Also of a shape that the rules no longer fit. */
export function shownSchema<Schema extends TableSchema>(schema: Schema, rules: RowRulesConfig): Schema {
  const own = rulesOfTable(rules, schema.schema, schema.name);
  const kinds = treatmentsOf(schema, rules, own);
  const names = shownNames(schema, rules, own);
  const columns = schema.columns.flatMap((column, i) => {
    if (kinds[i] === COLUMN_HIDDEN) return [];
    const renamed = { ...column, name: names[i]! };
    return [kinds[i] === COLUMN_SHOWN ? renamed : { ...renamed, typeText: 'text' }];
  });
  const primaryKey = schema.primaryKey.map(
    (name) => names[schema.columns.findIndex((column) => column.name === name)]!,
  );
  return { ...schema, columns, primaryKey };
}

function treatmentsOf(table: TableSchema, rules: RowRulesConfig, own: TableRules | null): Uint8Array {
  return Uint8Array.from(table.columns, ({ name }) => {
    const sink = treatmentOf(name, rules.columns);
    return own === null ? sink : stricter(sink, treatmentOf(name, own.columns));
  });
}

function listed(name: string, { exclude, mask, hash }: ColumnRules): boolean {
  return exclude.includes(name) || mask.includes(name) || hash.includes(name);
}

function treatmentOf(name: string, { include, exclude, mask, hash }: ColumnRules): number {
  if (exclude.includes(name) || (include !== null && !include.includes(name))) return COLUMN_HIDDEN;
  if (mask.includes(name)) return COLUMN_MASKED;
  return hash.includes(name) ? COLUMN_HASHED : COLUMN_SHOWN;
}

/** Hidden tells least, then masked, then hashed. */
function stricter(a: number, b: number): number {
  if (a === COLUMN_HIDDEN || b === COLUMN_HIDDEN) return COLUMN_HIDDEN;
  if (a === COLUMN_MASKED || b === COLUMN_MASKED) return COLUMN_MASKED;
  return a === COLUMN_HASHED || b === COLUMN_HASHED ? COLUMN_HASHED : COLUMN_SHOWN;
}

function shownNames(table: TableSchema, { columns }: RowRulesConfig, own: TableRules | null): readonly string[] {
  return table.columns.map(({ name }) => renamed(own?.columns.rename, name) ?? renamed(columns.rename, name) ?? name);
}

function requireUnique(table: TableSchema, names: readonly string[], kinds: Uint8Array): void {
  const shown = names.filter((_, i) => kinds[i] !== COLUMN_HIDDEN);
  const twice = shown.find((name, i) => shown.indexOf(name) !== i);
  if (twice === undefined) return;
  throw invalid(table, `give two columns the name "${twice}"`, 'Change `rename` in the columns of the sink or table.');
}

/** A column may be called as a property of every object is. */
function renamed(rename: Readonly<Record<string, string>> | undefined, name: string): string | undefined {
  return rename !== undefined && Object.hasOwn(rename, name) ? rename[name] : undefined;
}

function requireColumns(table: TableSchema, { columns, groupColumns }: TableRules): void {
  const { include, exclude, mask, hash, rename } = columns;
  const names = [...(include ?? []), ...exclude, ...mask, ...hash, ...Object.keys(rename), ...(groupColumns ?? [])];
  const missing = names.find((name) => !table.columns.some((column) => column.name === name));
  if (missing === undefined) return;
  throw invalid(
    table,
    `name a column that is not there: "${missing}"`,
    'Change the entry of the table in `tables` of the sink: the column may have been renamed or dropped.',
  );
}

function invalid(table: TableSchema, what: string, hint: string): MillraceError {
  return new MillraceError('rule_invalid', {
    detail: `The rules of ${table.schema}.${table.name} ${what}.`,
    hint: `${hint} Nothing was skipped: delivery goes on from here.`,
  });
}
