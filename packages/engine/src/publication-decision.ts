/** What is in a publication of column lists and row filters, and what should be for these sinks: the plan beside the catalog. */
import type { PgConnection } from '@millrace/postgres/connection';
import {
  isHandMade,
  type PublicationForm,
  readPublicationForm,
  type TableChange,
  type TableForm,
} from './publication-form.ts';
import { type PlannedSink, type PlannedTable, type PublicationPlan, planPublication } from './publication-plan.ts';
import { admitsAll, conditionsOf, type RowFilters, sameFilters } from './row-periods.ts';
import { readPublication } from './rows/published-tables.ts';

export interface PublicationNeeds {
  readonly form: PublicationForm;
  /** Of these sinks; each table with all its columns. */
  plan(sinks: readonly PlannedSink[]): PublicationPlan;
  /** Columns and rows that this sink takes of a table; null: all. */
  needed(sink: PlannedSink, table: TableForm): Needed;
}

interface Needed {
  readonly columns: readonly string[] | null;
  readonly rows: RowFilters | null;
}

/** null: there is no such publication. `keepsRows`: see PlannedPublication. */
export async function readPublicationNeeds(
  connection: PgConnection,
  name: string,
  keepsRows: boolean,
): Promise<PublicationNeeds | null> {
  const form = await readPublicationForm(connection, name);
  if (form === null) return null;
  const { tables } = await readPublication(connection, name, true);
  const planned = tables.map(({ schema, own }): PlannedTable => {
    const table = form.tables.find(({ oid }) => oid === schema.oid);
    return { schema, own, settled: table === undefined || table.partitioned ? PARTITIONED : settled(table) };
  });
  return {
    form,
    plan: (sinks) => planPublication({ ...form, keepsRows }, planned, sinks),
    needed(sink, table) {
      const { oid } = table;
      const alone = { ...sink, rules: { ...sink.rules, pushDown: true }, schemaChanges: false };
      const { tables: plans } = planPublication({ ...form, standby: false, keepsRows: false }, planned, [alone]);
      const numberOf = (column: string) => table.columns.find(({ name }) => name === column)?.number;
      return {
        columns: plans.find((one) => one.oid === oid)?.columns ?? null,
        rows: [conditionsOf(sink.rules, table.schema, table.name, numberOf)],
      };
    },
  };
}

const PARTITIONED = 'it is partitioned, and each partition has a replica identity of its own';

function settled(table: TableForm): string | null {
  return isHandMade(table) ? 'it has a column list or a row filter already that is not ours' : null;
}

/** What differs from the plan. `wider`: for now nothing is taken away. */
export function changesTo({ tables }: PublicationForm, plan: PublicationPlan, wider: boolean): TableChange[] {
  const changes: TableChange[] = [];
  for (const table of tables) {
    if (isHandMade(table)) continue;
    const planned = plan.tables.find(({ oid }) => oid === table.oid);
    const names = planned?.columns ?? null;
    let listed = names === null ? null : numbersOf(table, names);
    let { rows = null, where = null } = planned ?? {};
    if (wider && listed !== null)
      listed = table.listed === null ? null : [...new Set([...table.listed, ...listed])].sort((a, b) => a - b);
    // All rows, or those it has: the conditions of then may be about names that are no more.
    if (wider) ({ rows, where } = admitsAll(table.rows, rows) ? table : { rows: null, where: null });
    else if (sameFilters(rows, table.rows)) ({ where } = table);
    if (!sameList(listed, table.listed) || !sameFilters(rows, table.rows)) changes.push({ table, listed, rows, where });
  }
  return changes;
}

function numbersOf({ columns }: TableForm, names: readonly string[]): number[] {
  return columns.filter(({ name }) => names.includes(name)).map(({ number }) => number);
}

function sameList(a: readonly number[] | null, b: readonly number[] | null): boolean {
  if (a === null || b === null) return a === b;
  return a.length === b.length && a.every((number) => b.includes(number));
}

/** Columns or rows come to be published that were not. */
export function widens({ table, listed, rows }: Omit<TableChange, 'where'>): boolean {
  if (!admitsAll(table.rows, rows)) return true;
  return table.listed !== null && (listed === null || listed.some((number) => !table.listed!.includes(number)));
}

/** Sinks that lack columns or rows as long as these changes are not made. */
export function lackingSinks<T extends PlannedSink>(
  { needed }: PublicationNeeds,
  changes: readonly TableChange[],
  sinks: readonly T[],
): T[] {
  const wider = changes.filter(widens);
  return sinks.filter((sink) =>
    wider.some(({ table }) => {
      if (!sink.takes(table.schema, table.name)) return false;
      const { columns, rows } = needed(sink, table);
      return widens({ table, rows, listed: columns === null ? null : numbersOf(table, columns) });
    }),
  );
}
