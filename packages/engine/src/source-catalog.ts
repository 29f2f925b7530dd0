/** Questions to the source's catalog, over one connection that is opened when needed and again when it was lost. */
import { MillraceError } from '@millrace/core/error';
import {
  describeTable,
  describeTableByName,
  describeTypes,
  listPublishedTables,
  type TableDescription,
} from '@millrace/postgres/catalog';
import { type ConnectionConfig, PgConnection, quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import type { Relation } from '@millrace/postgres/pgoutput';
import type { BackfillTable } from './backfill/table-reader.ts';
import type { TableSchema } from './table-schema.ts';

export class SourceCatalog {
  readonly #config: ConnectionConfig;
  #connection: Promise<PgConnection> | null = null;

  constructor(config: ConnectionConfig) {
    this.#config = config;
  }

  /** What decoding rows of this relation needs. A table that is gone by now is described from what was announced. */
  async describeRelation(relation: Relation): Promise<TableSchema> {
    const connection = await this.#connected();
    const types = await describeTypes(
      connection,
      relation.columns.map((column) => column.typeOid),
    );
    const table = await describeTable(connection, relation.oid);
    const announcedKey = relation.columns.filter((column) => column.isKey).map((column) => column.name);
    // Under full identity every column is announced as key, so only the catalog knows the primary key.
    const fallbackKey = relation.replicaIdentity === 'f' ? [] : announcedKey;
    const names = new Set(relation.columns.map((column) => column.name));
    const known = table?.primaryKey.filter((name) => names.has(name)) ?? [];
    return {
      oid: relation.oid,
      schema: table?.root.schema ?? (relation.schema === '' ? 'pg_catalog' : relation.schema),
      name: table?.root.name ?? relation.name,
      columns: relation.columns.map((column) => ({
        name: column.name,
        type: types.get(column.typeOid) ?? {
          oid: column.typeOid,
          name: 'unknown',
          schema: 'pg_catalog',
          kind: 'base' as const,
        },
      })),
      primaryKey: known.length > 0 ? known : fallbackKey,
    };
  }

  /** The published tables that `takes` accepts, ready to be read. pg_table_keyless names those without a primary key. */
  async backfillTables(
    publication: string,
    takes: (schema: string, table: string) => boolean,
  ): Promise<BackfillTable[]> {
    const connection = await this.#connected();
    const tables: BackfillTable[] = [];
    for (const found of await listPublishedTables(connection, publication)) {
      const table = await describeTable(connection, found.oid);
      if (table === null || !takes(table.root.schema, table.root.name)) continue;
      // A partition is read through its root, whose name messages carry; the root is described in its place.
      const target = table.root.oid === table.oid ? table : await describeTable(connection, table.root.oid);
      if (target === null || tables.some((other) => other.schema.oid === target.oid)) continue;
      tables.push(await this.#backfillTable(connection, publication, found, target));
    }
    return tables;
  }

  /** Throws pg_table_missing or pg_table_unpublished for the first table that cannot be captured. */
  async requireTables(publication: string, tables: readonly { schema: string; name: string }[]): Promise<void> {
    if (tables.length === 0) return;
    const connection = await this.#connected();
    const published = await listPublishedTables(connection, publication);
    for (const { schema, name } of tables) {
      const table = await describeTableByName(connection, schema, name);
      const label = `${quoteIdentifier(schema)}.${quoteIdentifier(name)}`;
      if (table === null) {
        throw new MillraceError('pg_table_missing', {
          detail: `${label} is not in database "${connection.config.database}".`,
          hint: 'Correct the name, or create the table. In psql, \\dt *.* lists those there are.',
        });
      }
      const covered = published.some((other) => other.oid === table.oid || other.oid === table.root.oid);
      if (covered || (table.kind === 'partitioned' && (await coversPartition(connection, publication, table.oid))))
        continue;
      throw new MillraceError('pg_table_unpublished', {
        detail: `${label} is not in publication "${publication}".`,
        hint: `ALTER PUBLICATION ${quoteIdentifier(publication)} ADD TABLE ${label};`,
      });
    }
  }

  async #backfillTable(
    connection: PgConnection,
    publication: string,
    published: { readonly schema: string; readonly name: string },
    table: TableDescription,
  ): Promise<BackfillTable> {
    if (table.primaryKey.length === 0) {
      throw new MillraceError('pg_table_keyless', {
        detail: `"${table.schema}"."${table.name}" cannot be backfilled without one.`,
        hint: `ALTER TABLE "${table.schema}"."${table.name}" ADD PRIMARY KEY (...); or set initial_backfill: false.`,
      });
    }
    const listed = await publishedColumns(connection, publication, published);
    const columns = table.columns.filter((column) => (listed === null ? !column.generated : listed.has(column.name)));
    const keyTypes = await columnTypes(connection, table);
    return {
      schema: {
        oid: table.oid,
        schema: table.schema,
        name: table.name,
        columns: columns.map(({ name, type }) => ({ name, type })),
        primaryKey: table.primaryKey,
      },
      withDescendants: table.kind === 'partitioned',
      keyTypes: table.primaryKey.map((name) => keyTypes.get(name)!),
    };
  }

  async close(): Promise<void> {
    const connection = await this.#connection?.catch(() => null);
    this.#connection = null;
    await connection?.close();
  }

  #connected(): Promise<PgConnection> {
    if (this.#connection === null) {
      const opening = PgConnection.connect(this.#config);
      this.#connection = opening;
      const forget = () => {
        if (this.#connection === opening) this.#connection = null;
      };
      opening.then((connection) => connection.closed.then(forget), forget);
    }
    return this.#connection;
  }
}

/** The columns a publication lists for a table, or null where it publishes all. Postgres 15 and later have lists. */
async function publishedColumns(
  connection: PgConnection,
  publication: string,
  table: { readonly schema: string; readonly name: string },
): Promise<ReadonlySet<string> | null> {
  if (connection.serverVersion < 150_000) return null;
  const { rows } = await connection.query(
    `SELECT pg_catalog.to_json(attnames) FROM pg_catalog.pg_publication_tables
      WHERE pubname = ${quoteLiteral(publication)} AND schemaname = ${quoteLiteral(table.schema)} AND tablename = ${quoteLiteral(table.name)}`,
  );
  const json = rows[0]?.[0];
  return json === undefined || json === null ? null : new Set(JSON.parse(json) as string[]);
}

/** A publication without publish_via_partition_root lists the leaves of a partitioned table, not the table. */
async function coversPartition(connection: PgConnection, publication: string, root: number): Promise<boolean> {
  const { rows } = await connection.query(
    `SELECT EXISTS (SELECT FROM pg_catalog.pg_partition_tree(${root}) AS t
       JOIN pg_catalog.pg_class AS c ON c.oid = t.relid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
       JOIN pg_catalog.pg_publication_tables AS p ON p.schemaname = n.nspname AND p.tablename = c.relname
      WHERE p.pubname = ${quoteLiteral(publication)})`,
  );
  return rows[0]?.[0] === 't';
}

async function columnTypes(connection: PgConnection, table: TableDescription): Promise<Map<string, string>> {
  const { rows } = await connection.query(
    `SELECT attname, pg_catalog.format_type(atttypid, NULL) FROM pg_catalog.pg_attribute
      WHERE attrelid = ${table.oid} AND attnum > 0 AND NOT attisdropped`,
  );
  return new Map(rows.map(([name, type]) => [name!, type!]));
}
