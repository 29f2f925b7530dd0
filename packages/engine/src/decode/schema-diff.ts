/** What a schema message shows of a table's shape, and what differs between two of them. */
import type { ReplicaIdentity } from '@millrace/postgres/pgoutput';
import type { ColumnSchema } from '../table-schema.ts';
import type { VersionedSchema } from './schema-history.ts';

export interface ShownColumn {
  readonly name: string;
  readonly type: string;
  /** Absent where the catalog was not asked in time. */
  readonly nullable?: boolean;
}

export interface ShownSchema {
  readonly version: number;
  readonly columns: readonly ShownColumn[];
  readonly primary_key: readonly string[];
  readonly replica_identity: 'default' | 'nothing' | 'full' | 'index';
}

/** Only what differs is there. */
export interface SchemaDiff {
  readonly version: number;
  readonly table?: { readonly table_schema: string; readonly table_name: string };
  readonly added?: readonly ShownColumn[];
  readonly dropped?: readonly ShownColumn[];
  readonly renamed?: readonly { readonly from: string; readonly to: string }[];
  /** Another type, or null allowed or no more: the column as it was. */
  readonly altered?: readonly ShownColumn[];
  readonly primary_key?: readonly string[];
  readonly replica_identity?: ShownSchema['replica_identity'];
}

const IDENTITIES: Readonly<Record<ReplicaIdentity, ShownSchema['replica_identity']>> = {
  d: 'default',
  n: 'nothing',
  f: 'full',
  i: 'index',
};

export function describeSchema(schema: VersionedSchema): ShownSchema {
  return {
    version: schema.version,
    columns: schema.columns.map(shown),
    primary_key: schema.primaryKey,
    replica_identity: IDENTITIES[schema.replicaIdentity ?? 'd'],
  };
}

/** From `before` to `after`. As in `changes` of a row, what differs stands with its old value; `added` is of the new. */
export function diffSchemas(before: VersionedSchema, after: VersionedSchema): SchemaDiff {
  const renamed: { from: string; to: string }[] = [];
  const altered: ShownColumn[] = [];
  const dropped: ShownColumn[] = [];
  const kept = new Set<ColumnSchema>();
  for (const column of before.columns) {
    const now = successor(column, after.columns);
    if (now === undefined) {
      dropped.push(shown(column));
      continue;
    }
    kept.add(now);
    if (now.name !== column.name) renamed.push({ from: column.name, to: now.name });
    if (typeOf(now) !== typeOf(column) || now.type.oid !== column.type.oid || nullableDiffers(column, now))
      altered.push(shown(column));
  }
  const added = after.columns.filter((column) => !kept.has(column)).map(shown);
  const moved = before.schema !== after.schema || before.name !== after.name;
  const identity = IDENTITIES[before.replicaIdentity ?? 'd'];
  return {
    version: before.version,
    ...(moved && { table: { table_schema: before.schema, table_name: before.name } }),
    ...(added.length > 0 && { added }),
    ...(dropped.length > 0 && { dropped }),
    ...(renamed.length > 0 && { renamed }),
    ...(altered.length > 0 && { altered }),
    ...(before.primaryKey.join('\0') !== after.primaryKey.join('\0') && { primary_key: before.primaryKey }),
    ...(identity !== IDENTITIES[after.replicaIdentity ?? 'd'] && { replica_identity: identity }),
  };
}

/** By its number where both are known, else by its name: a rename that nobody watched is a drop and an addition. */
function successor(column: ColumnSchema, columns: readonly ColumnSchema[]): ColumnSchema | undefined {
  const { number } = column;
  if (number !== undefined) {
    const same = columns.find((other) => other.number === number);
    if (same !== undefined) return same;
  }
  return columns.find((other) => other.name === column.name && (number === undefined || other.number === undefined));
}

function shown(column: ColumnSchema): ShownColumn {
  const { name, nullable } = column;
  return { name, type: typeOf(column), ...(nullable !== undefined && { nullable }) };
}

function typeOf({ type, typeText }: ColumnSchema): string {
  if (typeText !== undefined) return typeText;
  return type.schema === 'pg_catalog' ? type.name : `${type.schema}.${type.name}`;
}

function nullableDiffers(a: ColumnSchema, b: ColumnSchema): boolean {
  return a.nullable !== undefined && b.nullable !== undefined && a.nullable !== b.nullable;
}
