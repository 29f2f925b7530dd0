/** What the column lists of a publication are, and what they should be for these sinks: the plan beside the catalog. */
import type { PgConnection } from '@millrace/postgres/connection';
import { type PublicationForm, readPublicationForm, type TableChange, type TableForm } from './publication-form.ts';
import { type PlannedSink, type PlannedTable, type PublicationPlan, planPublication } from './publication-plan.ts';
import { readPublication } from './rows/published-tables.ts';

export interface PublicationNeeds {
  readonly form: PublicationForm;
  /** Of these sinks; each table with all its columns. */
  plan(sinks: readonly PlannedSink[]): PublicationPlan;
  /** Columns that this sink takes of a table; null: all. */
  needed(sink: PlannedSink, table: TableForm): readonly string[] | null;
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
    needed(sink, { oid }) {
      const alone = { ...sink, rules: { ...sink.rules, pushDown: true }, schemaChanges: false };
      const { tables: plans } = planPublication({ ...form, standby: false, keepsRows: false }, planned, [alone]);
      return plans.find((one) => one.oid === oid)?.columns ?? null;
    },
  };
}

const PARTITIONED = 'it is partitioned, and each partition has a replica identity of its own';

function settled(table: TableForm): string | null {
  return isHandMade(table) ? 'it has a column list or a row filter already that is not ours' : null;
}

function isHandMade({ listed, filtered, ours }: TableForm): boolean {
  return (listed !== null || filtered) && !ours;
}

/** What differs from the plan. `wider`: for now nothing is taken away. */
export function changesTo({ tables }: PublicationForm, plan: PublicationPlan, wider: boolean): TableChange[] {
  const changes: TableChange[] = [];
  for (const table of tables) {
    if (isHandMade(table)) continue;
    const names = plan.tables.find(({ oid }) => oid === table.oid)?.columns ?? null;
    let listed = names === null ? null : numbersOf(table, names);
    if (wider && listed !== null)
      listed = table.listed === null ? null : [...new Set([...table.listed, ...listed])].sort((a, b) => a - b);
    if (!sameList(listed, table.listed)) changes.push({ table, listed });
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

/** Columns come to be published that were not. */
export function widens({ table, listed }: TableChange): boolean {
  return table.listed !== null && (listed === null || listed.some((number) => !table.listed!.includes(number)));
}

/** Sinks that lack columns as long as these changes are not made. */
export function lackingSinks<T extends PlannedSink>(
  { needed }: PublicationNeeds,
  changes: readonly TableChange[],
  sinks: readonly T[],
): T[] {
  const wider = changes.filter(widens);
  return sinks.filter((sink) =>
    wider.some(({ table }) => {
      if (!sink.takes(table.schema, table.name)) return false;
      const names = needed(sink, table);
      return widens({ table, listed: names === null ? null : numbersOf(table, names) });
    }),
  );
}
