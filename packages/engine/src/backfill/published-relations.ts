/** As which relations a publication sends the rows of one table: its root, its partitions one by one, some of them. */
import type { TableDescription } from '@millrace/postgres/catalog';
import { type PgConnection, quoteLiteral } from '@millrace/postgres/connection';

export interface Published {
  readonly oid: number;
  /** null: all that are not generated. */
  readonly columns: ReadonlySet<string> | null;
  readonly filter: string | null;
}

export async function readPublished(
  connection: PgConnection,
  publication: string,
  root: TableDescription,
): Promise<Published[]> {
  return (
    (await readOfAllTables(connection, publication, root)) ?? (await readFromView(connection, publication, root.oid))
  );
}

/**
 * Of a publication of all tables under the names of their roots, which has no lists and no filters; null: it is not one.
 * pg_publication_tables goes through all its tables whatever is asked of it: too slow for each of ten thousand.
 */
async function readOfAllTables(
  connection: PgConnection,
  publication: string,
  root: TableDescription,
): Promise<Published[] | null> {
  // As JSON: from Postgres 18 on it says of generated columns whether they are published. Exceptions are rows of pg_publication_rel.
  const { rows } = await connection.query(
    `SELECT c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition AND c.oid >= 16384
       FROM pg_catalog.pg_publication AS p CROSS JOIN pg_catalog.pg_class AS c
      WHERE p.pubname = ${quoteLiteral(publication)} AND c.oid = ${root.oid} AND p.puballtables AND p.pubviaroot
        AND pg_catalog.to_jsonb(p) ->> 'pubgencols' IS DISTINCT FROM 's'
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel AS r WHERE r.prpubid = p.oid)`,
  );
  const publishable = rows[0]?.[0];
  if (publishable === undefined) return null;
  return publishable === 't' ? [{ oid: root.oid, columns: null, filter: null }] : [];
}

/** Column lists and row filters are there from Postgres 15 on. */
async function readFromView(connection: PgConnection, publication: string, root: number): Promise<Published[]> {
  const tree = await connection.query(
    `SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree(${root}) UNION SELECT ${root}`,
  );
  const lists = connection.serverVersion >= 150_000;
  // Postgres 15 to 17 list generated columns and do not send them; 18 lists those that it sends.
  const sent = connection.serverVersion >= 180_000 ? '' : ` AND a.attgenerated = ''`;
  const columns = `(SELECT pg_catalog.json_agg(a.attname) FROM pg_catalog.pg_attribute AS a
          WHERE a.attrelid = c.oid AND a.attname = ANY (p.attnames)${sent})`;
  // Numbers, not a query: with one the columns of every published table would be looked up first.
  const { rows } = await connection.query(
    `SELECT c.oid, ${lists ? `${columns}, p.rowfilter` : 'NULL, NULL'}
       FROM pg_catalog.pg_publication_tables AS p
       JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.schemaname
       JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename
      WHERE p.pubname = ${quoteLiteral(publication)} AND c.oid IN (${tree.rows.map(([oid]) => oid).join(', ')})
      ORDER BY 1`,
  );
  return rows.map(([oid, names, filter]) => ({
    oid: Number(oid),
    columns: names === null || names === undefined ? null : new Set(JSON.parse(names) as string[]),
    filter: filter ?? null,
  }));
}
