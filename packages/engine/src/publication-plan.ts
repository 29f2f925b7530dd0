/**
 * What of the sinks' rules Postgres does by itself (`push_down`): a column list and a row filter for each table of the
 * publication, where no message of any sink would be another. Pure; publication-push-down.ts puts them there.
 *
 * A column list is the same where every sink of the table lists the columns it includes (with `exclude`, a column that is
 * added later would be missing), all of them are there (one that is made later would be missing), and the replica identity
 * is not FULL (Postgres refuses updates then). Kept are the columns that any sink shows, filters or groups by, the primary
 * key and the replica identity. Not of partitioned tables: each partition has an identity of its own. Not where a sink
 * delivers shapes of tables, or the row index keeps whole rows.
 *
 * A row filter is the same only where the publication publishes inserts alone: of an update Postgres makes an insert or a
 * delete where the row comes into the filter or leaves it, which our filters do not.
 */
import { quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import { familyOf, operandOf } from './decode/comparison.ts';
import { rulesOfTable } from './decode/row-rules.ts';
import type { ComparisonOperator, ConditionValue, RowRulesConfig } from './decode/row-rules-config.ts';
import { conditionsOf, type RowFilters } from './row-periods.ts';
import type { TableSchema } from './table-schema.ts';

export interface PlannedPublication {
  readonly name: string;
  readonly allTables: boolean;
  readonly publishes: { readonly insert: boolean; readonly update: boolean; readonly delete: boolean };
  /** It has whole schemas, beside which Postgres takes no column lists. */
  readonly schemas: boolean;
  /** As server_version_num says. */
  readonly serverVersion: number;
  /** Changes are captured from a standby. */
  readonly standby: boolean;
  /** slot.on_loss: repair, audit or fill_unchanged: whole rows are kept, and compared with those of the tables. */
  readonly keepsRows: boolean;
}

export interface PlannedTable {
  readonly schema: TableSchema;
  /** As SQL names it: a partition that is published by itself has another name than its messages. */
  readonly own: { readonly schema: string; readonly name: string };
  /** Why its entry is to stay as it is, beside what the sinks want. null: it need not. */
  readonly settled?: string | null;
}

export interface PlannedSink {
  readonly name: string;
  readonly rules: RowRulesConfig;
  /** It delivers shapes of tables, and DDL. */
  readonly schemaChanges: boolean;
  readonly takes: (schema: string, table: string) => boolean;
}

export interface TablePlan {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  /** null: all. */
  readonly columns: readonly string[] | null;
  /** SQL; null: all rows. */
  readonly where: string | null;
  /** What it is made of, sink by sink; null: all rows. */
  readonly rows: RowFilters | null;
  /** Why not more of it; constant texts and names. */
  readonly reasons: readonly string[];
}

export interface PublicationPlan {
  /** Of the publication as a whole; null: it may have lists and filters. */
  readonly refused: string | null;
  readonly tables: readonly TablePlan[];
}

/** Column lists and row filters came with it. */
const VERSION_MIN = 150_000;

export function planPublication(
  publication: PlannedPublication,
  tables: readonly PlannedTable[],
  sinks: readonly PlannedSink[],
): PublicationPlan {
  const refused = refusal(publication, sinks);
  if (refused !== null) return { refused, tables: [] };
  return { refused: null, tables: tables.map((table) => planTable(publication, table, sinks)) };
}

/**
 * The tables are taken out and put back in another form: unlike SET TABLE this leaves alone what somebody adds at the
 * same time. In one transaction, or changes are lost between the two. Without descendants: they have entries of their own.
 */
export function alterPublicationSql(
  publication: string,
  tables: readonly Pick<TablePlan, 'schema' | 'name' | 'columns' | 'where'>[],
): string {
  const name = quoteIdentifier(publication);
  const label = (table: { schema: string; name: string }) =>
    `ONLY ${quoteIdentifier(table.schema)}.${quoteIdentifier(table.name)}`;
  const list = tables.map((table) => {
    const columns = table.columns === null ? '' : ` (${table.columns.map(quoteIdentifier).join(', ')})`;
    return `${label(table)}${columns}${table.where === null ? '' : ` WHERE (${table.where})`}`;
  });
  return `ALTER PUBLICATION ${name} DROP TABLE ${tables.map(label).join(', ')};
ALTER PUBLICATION ${name} ADD TABLE ${list.join(', ')};`;
}

function refusal(
  { allTables, schemas, serverVersion, standby, keepsRows }: PlannedPublication,
  sinks: readonly PlannedSink[],
): string | null {
  if (serverVersion < VERSION_MIN) return 'Postgres has column lists and row filters from version 15 on.';
  if (allTables) return 'A publication FOR ALL TABLES takes neither column lists nor row filters.';
  if (schemas) return 'A publication of whole schemas takes no column lists.';
  if (standby) return 'Changes are captured from a standby.';
  if (keepsRows)
    return 'Whole rows are kept to compare them with the tables (slot.on_loss: repair, audit, fill_unchanged).';
  const unasked = sinks.find(({ rules }) => !rules.pushDown);
  if (unasked !== undefined)
    return `Sink "${unasked.name}" does not ask for it (push_down), and reads the same publication.`;
  const shown = sinks.find(({ schemaChanges }) => schemaChanges);
  return shown === undefined
    ? null
    : `Sink "${shown.name}" delivers changes of schemas, which a column list looks like.`;
}

function planTable(publication: PlannedPublication, table: PlannedTable, sinks: readonly PlannedSink[]): TablePlan {
  const { schema, own } = table;
  const reasons: string[] = [];
  const takers = sinks.filter(({ takes }) => takes(schema.schema, schema.name));
  if (takers.length === 0) {
    // Taking the table out would be more, and is for its owner to decide.
    return { oid: schema.oid, ...own, columns: null, where: null, rows: null, reasons: ['no sink takes it'] };
  }
  const columns = columnList(publication, table, takers, reasons);
  const filter = rowFilter(publication, table, takers, reasons);
  return { oid: schema.oid, ...own, columns, where: filter?.sql ?? null, rows: filter?.rows ?? null, reasons };
}

function columnList(
  { publishes }: PlannedPublication,
  { schema: table, own: { schema, name: ownName }, settled = null }: PlannedTable,
  sinks: readonly PlannedSink[],
  reasons: string[],
): readonly string[] | null {
  if (settled !== null) {
    reasons.push(`columns: ${settled}`);
    return null;
  }
  if (schema !== table.schema || ownName !== table.name) {
    reasons.push('columns: it is a partition that is published by itself');
    return null;
  }
  if (table.replicaIdentity === 'f' && (publishes.update || publishes.delete)) {
    reasons.push('columns: its replica identity is full, and Postgres refuses updates under a column list then');
    return null;
  }
  const kept = new Set([...table.primaryKey, ...(table.identity ?? [])]);
  for (const { name, rules } of sinks) {
    const own = rulesOfTable(rules, table.schema, table.name);
    const lists = [rules.columns.include, own?.columns.include ?? null].filter((list) => list !== null);
    if (lists.length === 0) {
      reasons.push(`columns: sink "${name}" takes all columns, or those that come later (include names them)`);
      return null;
    }
    for (const column of lists.reduce((a, b) => a.filter((one) => b.includes(one)))) {
      if (!table.columns.some((one) => one.name === column)) {
        reasons.push(`columns: sink "${name}" includes "${column}", which it has not yet`);
        return null;
      }
      kept.add(column);
    }
    for (const column of own?.groupColumns ?? []) kept.add(column);
    for (const condition of [...rules.where, ...(own?.where ?? [])]) {
      for (const column of 'changed' in condition ? condition.changed : [condition.column]) kept.add(column);
    }
  }
  const columns = table.columns.map(({ name }) => name).filter((name) => kept.has(name));
  if (columns.length < table.columns.length) return columns;
  reasons.push('columns: every column is needed');
  return null;
}

function rowFilter(
  { publishes }: PlannedPublication,
  { schema: table, own, settled = null }: PlannedTable,
  sinks: readonly PlannedSink[],
  reasons: string[],
): { readonly sql: string; readonly rows: RowFilters } | null {
  const isPart = own.schema !== table.schema || own.name !== table.name;
  if (settled !== null || isPart) {
    reasons.push(`rows: ${settled ?? 'it is a partition that is published by itself'}`);
    return null;
  }
  /** From its conditions to its SQL. */
  const filters = new Map<string, string>();
  const numberOf = (name: string) => table.columns.find((column) => column.name === name)?.number;
  for (const { name, rules } of sinks) {
    const where = [...rules.where, ...(rulesOfTable(rules, table.schema, table.name)?.where ?? [])];
    if (where.length === 0) {
      reasons.push(`rows: sink "${name}" takes all rows`);
      return null;
    }
    if (publishes.update || publishes.delete) {
      reasons.push('rows: Postgres turns updates that cross a row filter into inserts and deletes');
      return null;
    }
    const parts: string[] = [];
    for (const condition of where) {
      // Of inserts `changed` holds nothing back.
      if ('changed' in condition) continue;
      const text = conditionSql(table, condition.column, condition.operator, condition.value);
      if (text === null) {
        reasons.push(`rows: "${condition.column}" is of a type that row filters do not take`);
        return null;
      }
      parts.push(text);
    }
    if (parts.length === 0) {
      reasons.push(`rows: sink "${name}" takes all rows that are inserted`);
      return null;
    }
    const conditions = conditionsOf(rules, table.schema, table.name, numberOf);
    filters.set(JSON.stringify(conditions), parts.join(' AND '));
  }
  const sqls = [...new Set(filters.values())];
  return {
    sql: sqls.length === 1 ? sqls[0]! : sqls.map((filter) => `(${filter})`).join(' OR '),
    rows: [...filters.keys()].sort().map((conditions) => JSON.parse(conditions) as string[]),
  };
}

const TEXTS = new Set(['text', 'varchar', 'bpchar', 'name']);

/** null: not in a row filter, which takes built-in types only. */
function conditionSql(
  table: TableSchema,
  name: string,
  operator: ComparisonOperator,
  value: ConditionValue | readonly ConditionValue[] | null,
): string | null {
  const type = table.columns.find((column) => column.name === name)?.type;
  if (type === undefined || type.schema !== 'pg_catalog' || type.kind !== 'base') return null;
  const column = quoteIdentifier(name);
  if (operator === 'is null' || operator === 'is not null') return `${column} ${operator.toUpperCase()}`;
  const family = familyOf(type);
  if (family === null) return null;
  const values = (Array.isArray(value) ? value : [value]) as readonly ConditionValue[];
  const literals = values.map((one) => {
    const operand = operandOf(type, family, one);
    return operand === null
      ? null
      : `${quoteLiteral(operand.bytes.toString())}::pg_catalog.${quoteIdentifier(type.name)}`;
  });
  if (literals.includes(null)) return null;
  const left = TEXTS.has(type.name) ? `${column} COLLATE "C"` : column;
  if (operator === 'in' || operator === 'not in') return `${left} ${operator.toUpperCase()} (${literals.join(', ')})`;
  return `${left} ${operator === '!=' ? '<>' : operator} ${literals[0]}`;
}
