/** The row index as a side of a verification. */
import type { Lsn } from '@millrace/core/lsn';
import type { ComparedState, ComparedTable } from './compared-state.ts';
import type { PublishedTable } from './published-tables.ts';
import { type IndexedTable, placeOf } from './row-lookup.ts';

export interface IndexStateOptions {
  table(schema: string, name: string): IndexedTable | null;
  /** `oid`: of the table that was read under the name. */
  complete(schema: string, name: string, oid: number): boolean;
  /** OIDs of the tables that it holds. */
  oids(): readonly number[];
  reach(lsn: Lsn, signal: AbortSignal): Promise<void>;
}

export function indexState(index: IndexStateOptions): ComparedState {
  return {
    reach: (lsn, signal) => index.reach(lsn, signal),
    table: (group) => comparedTable(index, group),
  };
}

function comparedTable(index: IndexStateOptions, group: readonly PublishedTable[]): ComparedTable | { why: string } {
  const { schema, own, root } = group[0]!;
  const isWhole = own.schema === schema.schema && own.name === schema.name;
  if (group.some(({ key }) => key.length === 0)) return { why: 'it has no key' };
  if (!index.complete(schema.schema, schema.name, root)) return { why: 'the row index has not read it yet' };
  const indexed = index.table(schema.schema, schema.name);
  if (indexed === null) return isWhole && index.oids().includes(schema.oid) ? { why: OTHER_NAME } : NOTHING;
  if (isWhole && indexed.oid !== null && indexed.oid !== schema.oid) return { why: OTHER_NAME };
  if (group.some(({ key }) => key.join('\0') !== indexed.key.join('\0'))) {
    return { why: 'its key was changed, and no row since' };
  }
  return {
    whole: true,
    find: (table, key) => {
      const row = indexed.find(key);
      if (row === null) return null;
      return {
        id: row.id,
        hashes: row.hashes,
        lsn: row.lsn,
        place: (i) => placeOf(row.shape, table.schema, i),
      };
    },
    after: (id, rowsMax) => indexed.after(id, rowsMax),
  };
}

const OTHER_NAME = 'it had another name, or another table had its name, and no row of it has come since';

/** No row of the table was ever there. */
const NOTHING: ComparedTable = { whole: true, find: () => null, after: () => [] };
