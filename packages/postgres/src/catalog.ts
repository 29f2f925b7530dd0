/**
 * What tables, types, publications and rights there are: the catalog queries, and nothing else that is SQL.
 * All names are qualified, because search_path is the user's.
 */
import { MillraceError } from '@millrace/core/error';
import { type PgConnection, quoteIdentifier, quoteLiteral } from './connection.ts';
import type { ReplicaIdentity } from './pgoutput.ts';
import { PgServerError } from './server-error.ts';
import { builtinType, type TypeDescription } from './value-json.ts';

export interface ColumnDescription {
  readonly name: string;
  /** attnum: stays with the column for life, has gaps where columns were dropped. */
  readonly number: number;
  readonly type: TypeDescription;
  readonly typmod: number;
  readonly notNull: boolean;
  /** A generated column, which pgoutput leaves out unless told otherwise. */
  readonly generated: boolean;
}

export type TableKind = 'table' | 'partitioned' | 'view' | 'materialized-view' | 'foreign' | 'other';

export interface TableName {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
}

export interface TableDescription extends TableName {
  readonly kind: TableKind;
  readonly columns: readonly ColumnDescription[];
  /** Column names in the order of the key; empty without a primary key. */
  readonly primaryKey: readonly string[];
  readonly replicaIdentity: ReplicaIdentity;
  /** The topmost partitioned table above a partition, else the table itself. */
  readonly root: TableName;
  readonly estimatedRows: number;
}

export interface PublicationDescription {
  readonly name: string;
  readonly owner: string;
  readonly allTables: boolean;
  readonly insert: boolean;
  readonly update: boolean;
  readonly delete: boolean;
  readonly truncate: boolean;
  readonly viaPartitionRoot: boolean;
}

export interface UserRights {
  readonly user: string;
  readonly superuser: boolean;
  /** The attribute itself; managed services grant it by a role instead. */
  readonly replication: boolean;
  readonly createInDatabase: boolean;
}

/** Null when there is no table with this OID. */
export async function describeTable(connection: PgConnection, oid: number): Promise<TableDescription | null> {
  return describe(connection, `c.oid = ${Math.trunc(oid)}`);
}

/** Null when there is no such table. */
export async function describeTableByName(
  connection: PgConnection,
  schema: string,
  name: string,
): Promise<TableDescription | null> {
  return describe(connection, `n.nspname = ${quoteLiteral(schema)} AND c.relname = ${quoteLiteral(name)}`);
}

async function describe(connection: PgConnection, where: string): Promise<TableDescription | null> {
  const { rows } = await connection.query(`
    SELECT c.oid, n.nspname, c.relname, c.relkind, c.relreplident, c.reltuples::bigint,
           r.oid, rn.nspname, r.relname,
           (SELECT pg_catalog.json_agg(json_build_array(a.attname, a.attnum, a.atttypid, a.atttypmod, a.attnotnull,
                                                        a.attgenerated <> '') ORDER BY a.attnum)
              FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
           (SELECT pg_catalog.json_agg(a.attname ORDER BY k.ordinality)
              FROM pg_catalog.pg_index AS i
              CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k (attnum, ordinality)
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE i.indrelid = c.oid AND i.indisprimary AND k.ordinality <= i.indnkeyatts)
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_class AS r ON r.oid = CASE WHEN c.relispartition
           THEN COALESCE(pg_catalog.pg_partition_root(c.oid), c.oid) ELSE c.oid END
      JOIN pg_catalog.pg_namespace AS rn ON rn.oid = r.relnamespace
     WHERE ${where} AND c.relkind IN ('r', 'p', 'v', 'm', 'f')`);
  const row = rows[0];
  if (row === undefined) return null;
  const [oid, schema, name, relkind, identity, estimate, rootOid, rootSchema, rootName, columnsJson, keyJson] =
    row as string[];
  const raw = JSON.parse(columnsJson ?? '[]') as [string, number, number | string, number, boolean, boolean][];
  const types = await describeTypes(
    connection,
    raw.map((column) => Number(column[2])),
  );
  return {
    oid: Number(oid),
    schema: schema!,
    name: name!,
    kind: kindOf(relkind!),
    replicaIdentity: identity as ReplicaIdentity,
    estimatedRows: Math.max(0, Number(estimate)),
    root: { oid: Number(rootOid), schema: rootSchema!, name: rootName! },
    primaryKey: JSON.parse(keyJson ?? '[]') as string[],
    columns: raw.map(([column, number, typeOid, typmod, notNull, generated]) => ({
      name: column,
      number,
      type: types.get(Number(typeOid)) ?? unknownType(Number(typeOid)),
      typmod,
      notNull,
      generated,
    })),
  };
}

/**
 * Describes types, each with its base types and elements to any depth. An OID that the catalog does not know (any more)
 * is missing from the result.
 */
export async function describeTypes(
  connection: PgConnection,
  oids: Iterable<number>,
): Promise<Map<number, TypeDescription>> {
  const described = new Map<number, TypeDescription>();
  const unknown = new Set<number>();
  for (const oid of oids) {
    const builtin = builtinType(oid);
    if (builtin !== null) described.set(oid, builtin);
    else unknown.add(Math.trunc(oid));
  }
  if (unknown.size === 0) return described;
  const { rows } = await connection.query(`
    WITH RECURSIVE t AS (
      SELECT oid FROM pg_catalog.pg_type WHERE oid IN (${[...unknown].join(', ')})
      UNION
      SELECT next.oid FROM t
        JOIN pg_catalog.pg_type AS p ON p.oid = t.oid
        CROSS JOIN LATERAL (VALUES (p.typbasetype), (p.typelem)) AS next (oid)
       WHERE next.oid <> 0
    )
    SELECT p.oid, p.typname, n.nspname, p.typtype, p.typbasetype, p.typdelim,
           CASE WHEN p.typinput = 'pg_catalog.array_in'::pg_catalog.regproc THEN p.typelem ELSE 0 END
      FROM t JOIN pg_catalog.pg_type AS p ON p.oid = t.oid JOIN pg_catalog.pg_namespace AS n ON n.oid = p.typnamespace`);
  const raw = new Map(rows.map((row) => [Number(row[0]), row as string[]]));
  const build = (oid: number): TypeDescription => {
    const known = described.get(oid) ?? builtinType(oid);
    if (known !== null && known !== undefined) return known;
    const row = raw.get(oid);
    if (row === undefined) return unknownType(oid);
    const [, name, schema, typtype, base, delimiter, element] = row;
    const type: TypeDescription = {
      oid,
      name: name!,
      schema: schema!,
      kind: typeKinds[typtype!] ?? 'base',
      ...(typtype === 'd' ? { base: build(Number(base)) } : {}),
      ...(element !== '0' && typtype !== 'd' ? { element: build(Number(element)) } : {}),
      ...(delimiter === ',' ? {} : { delimiter: delimiter! }),
    };
    described.set(oid, type);
    return type;
  };
  for (const oid of unknown) {
    if (raw.has(oid)) build(oid);
  }
  return described;
}

export async function readPublication(connection: PgConnection, name: string): Promise<PublicationDescription | null> {
  const { rows } = await connection.query(`
    SELECT pg_catalog.pg_get_userbyid(pubowner), puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot
      FROM pg_catalog.pg_publication WHERE pubname = ${quoteLiteral(name)}`);
  const row = rows[0];
  if (row === undefined) return null;
  const [owner, ...flags] = row;
  const [allTables, insert, update, remove, truncate, viaPartitionRoot] = flags.map((flag) => flag === 't');
  return {
    name,
    owner: owner ?? '',
    allTables: allTables!,
    insert: insert!,
    update: update!,
    delete: remove!,
    truncate: truncate!,
    viaPartitionRoot: viaPartitionRoot!,
  };
}

/** The tables a publication covers now, by schema and name; partitions folded as the publication folds them. */
export async function listPublishedTables(connection: PgConnection, publication: string): Promise<TableName[]> {
  const { rows } = await connection.query(`
    SELECT c.oid, p.schemaname, p.tablename
      FROM pg_catalog.pg_publication_tables AS p
      JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.schemaname
      JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename
     WHERE p.pubname = ${quoteLiteral(publication)}
     ORDER BY 2, 3`);
  return rows.map(([oid, schema, name]) => ({ oid: Number(oid), schema: schema!, name: name! }));
}

/** What a publication covers, each partition under the topmost table above it: in one query, however many there are. */
export async function listPublishedRoots(connection: PgConnection, publication: string): Promise<TableName[]> {
  const { rows } = await connection.query(`
    SELECT DISTINCT rn.nspname, r.relname, r.oid
      FROM pg_catalog.pg_publication_tables AS p
      JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.schemaname
      JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename
      JOIN pg_catalog.pg_class AS r ON r.oid = CASE WHEN c.relispartition
           THEN COALESCE(pg_catalog.pg_partition_root(c.oid), c.oid) ELSE c.oid END
      JOIN pg_catalog.pg_namespace AS rn ON rn.oid = r.relnamespace
     WHERE p.pubname = ${quoteLiteral(publication)}
     ORDER BY 1, 2`);
  return rows.map(([schema, name, oid]) => ({ oid: Number(oid), schema: schema!, name: name! }));
}

/** Creates a publication for `tables`, or for all (present and future) when null. */
export async function createPublication(
  connection: PgConnection,
  name: string,
  tables: readonly { readonly schema: string; readonly name: string }[] | null,
): Promise<void> {
  const list = tables?.map((table) => `${quoteIdentifier(table.schema)}.${quoteIdentifier(table.name)}`).join(', ');
  const target = list === undefined ? 'FOR ALL TABLES' : list === '' ? '' : `FOR TABLE ${list}`;
  try {
    await connection.query(
      `CREATE PUBLICATION ${quoteIdentifier(name)} ${target} WITH (publish_via_partition_root = true)`,
    );
  } catch (error) {
    if (!(error instanceof PgServerError) || error.sqlState !== '42501') throw error;
    const user = quoteIdentifier(connection.config.user);
    throw new MillraceError('pg_privilege', {
      detail: error.detail,
      hint:
        tables === null
          ? `Only a superuser can publish all tables. As one:\n` +
            `  CREATE PUBLICATION ${quoteIdentifier(name)} FOR ALL TABLES WITH (publish_via_partition_root = true);\n` +
            `or, as the owner of the tables, publish some:\n` +
            `  CREATE PUBLICATION ${quoteIdentifier(name)} FOR TABLE public.products WITH (publish_via_partition_root = true);`
          : `The user must own the tables and may create in the database. As a superuser:\n` +
            `  GRANT CREATE ON DATABASE ${quoteIdentifier(connection.config.database)} TO ${user};\n` +
            `or create it yourself:\n` +
            `  CREATE PUBLICATION ${quoteIdentifier(name)} ${target} WITH (publish_via_partition_root = true);`,
      cause: error,
    });
  }
}

export async function currentUserRights(connection: PgConnection): Promise<UserRights> {
  const { rows } = await connection.query(`
    SELECT rolname, rolsuper, rolreplication,
           pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
      FROM pg_catalog.pg_roles WHERE rolname = current_user`);
  const [user, superuser, replication, create] = rows[0] ?? [];
  return {
    user: user ?? connection.config.user,
    superuser: superuser === 't',
    replication: replication === 't',
    createInDatabase: create === 't',
  };
}

/** Throws pg_wal_level unless the server writes what logical decoding needs. */
export async function checkWalLevel(connection: PgConnection): Promise<void> {
  const level = (await connection.query(`SELECT pg_catalog.current_setting('wal_level')`)).rows[0]?.[0];
  if (level === 'logical') return;
  throw new MillraceError('pg_wal_level', {
    detail: `It is "${level}".`,
    hint:
      "As a superuser:\n  ALTER SYSTEM SET wal_level = 'logical';\nthen restart Postgres. " +
      '(Managed services have a parameter for it, such as rds.logical_replication on Amazon RDS.)',
  });
}

const typeKinds: Readonly<Record<string, TypeDescription['kind']>> = {
  b: 'base',
  d: 'domain',
  e: 'enum',
  c: 'composite',
  r: 'range',
  m: 'multirange',
  p: 'pseudo',
};

function unknownType(oid: number): TypeDescription {
  return { oid, name: `oid ${oid}`, schema: '', kind: 'pseudo' };
}

function kindOf(relkind: string): TableKind {
  switch (relkind) {
    case 'r':
      return 'table';
    case 'p':
      return 'partitioned';
    case 'v':
      return 'view';
    case 'm':
      return 'materialized-view';
    case 'f':
      return 'foreign';
    default:
      return 'other';
  }
}
