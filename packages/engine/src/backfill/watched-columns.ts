/** Which columns of a change tell whose row it is. */
import type { TableSchema } from '../table-schema.ts';
import type { ReadUnit, TablePlan } from './table-plan.ts';

/** The stream shows a table with other columns than those that are read: one of the two is from before a schema change. */
export const RESHAPED: readonly number[] = [];
/** Another part of the partition tree is published by itself than when it was planned: which rows these are is not known. */
export const REGROUPED: readonly number[] = [];
/** A partition that came after it was planned: nothing that is read is in it. */
export const NOT_READ: readonly number[] = [];

/** Indexes, in the table as the stream has it, of the columns that tell its rows apart; or one of the above. */
export function watchedColumns(plan: TablePlan, table: TableSchema): readonly number[] {
  const unit = unitOf(plan, table.oid);
  if (unit === undefined) return plan.oids.has(table.oid) ? REGROUPED : NOT_READ;
  if (!sameColumns(unit.schema, table)) return RESHAPED;
  const names = unit.key?.names ?? unit.schema.columns.map(({ name }) => name);
  return names.map((name) => table.columns.findIndex((column) => column.name === name));
}

/** As which relation its rows are read: its own, or the root of the tree. */
export function unitOf({ oid: root, whole }: TablePlan, oid: number): ReadUnit | undefined {
  return whole.find((unit) => unit.oid === oid) ?? whole.find((unit) => unit.oid === root);
}

function sameColumns(a: TableSchema, b: TableSchema): boolean {
  if (a.columns.length !== b.columns.length) return false;
  const names = new Set(a.columns.map(({ name }) => name));
  return b.columns.every(({ name }) => names.has(name));
}
