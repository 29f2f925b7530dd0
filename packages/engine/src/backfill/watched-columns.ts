/** Which columns of a change tell whose row it is. */
import type { TableSchema } from '../table-schema.ts';
import type { ReadUnit } from './table-plan.ts';

/** The stream shows a table with other columns than those that are read: one of the two is from before a schema change. */
export const RESHAPED: readonly number[] = [];

/** Indexes, in the table as the stream has it, of the columns that tell its rows apart; RESHAPED where it has others. */
export function watchedColumns(unit: ReadUnit | undefined, table: TableSchema): readonly number[] {
  if (unit !== undefined && !sameColumns(unit.schema, table)) return RESHAPED;
  const names = unit === undefined ? [''] : (unit.key?.names ?? unit.schema.columns.map(({ name }) => name));
  return names.map((name) => table.columns.findIndex((column) => column.name === name));
}

function sameColumns(a: TableSchema, b: TableSchema): boolean {
  if (a.columns.length !== b.columns.length) return false;
  const names = new Set(a.columns.map(({ name }) => name));
  return b.columns.every(({ name }) => names.has(name));
}
