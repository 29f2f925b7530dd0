/**
 * The tables of a publication as the row index sees them, from the catalog, in the snapshot of the connection's
 * transaction if there is one: columns, key, row filter, and the RELATION message that announces them.
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { describeTypes } from '@millrace/postgres/catalog';
import { type PgConnection, quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import { RELATION, type ReplicaIdentity } from '@millrace/postgres/pgoutput';
import type { ColumnSchema, TableSchema } from '../table-schema.ts';

export interface PublishedTable {
  readonly schema: TableSchema;
  /** By which SELECT reads it: a partition that is published by itself has another name than its messages. */
  readonly own: { readonly schema: string; readonly name: string };
  /** OID of the table that its messages name. */
  readonly root: number;
  readonly withDescendants: boolean;
  /** SQL of the publication's row filter. */
  readonly rowFilter: string | null;
  /**
   * Key columns in key order: of the replica identity, else the primary key. Empty: there is none, or one that is
   * deferrable, which the default identity cannot be.
   */
  readonly key: readonly string[];
  readonly keyTypes: readonly string[];
  readonly relation: Buffer;
  readonly estimatedRows: number;
}

export interface Publication {
  readonly tables: readonly PublishedTable[];
  readonly insert: boolean;
  readonly update: boolean;
  readonly delete: boolean;
}

interface RawColumn {
  readonly name: string;
  readonly number: number;
  readonly type: number | string;
  readonly typmod: number;
  readonly text: string;
  readonly bare: string;
  readonly notnull: boolean;
  readonly generated: boolean;
  readonly listed: boolean;
  readonly key: number | null;
  readonly pk: number | null;
}

interface RawTable {
  readonly oid: number | string;
  readonly schema: string;
  readonly name: string;
  readonly rootSchema: string;
  readonly rootName: string;
  readonly root: number | string;
  readonly kind: string;
  readonly identity: ReplicaIdentity;
  readonly filter: string | null;
  readonly rows: number;
  readonly columns: readonly RawColumn[];
}

/** `whole`: as if the publication had no column lists; without generated columns, which take one. */
export async function readPublication(
  connection: PgConnection,
  publication: string,
  whole = false,
): Promise<Publication> {
  const flags = await connection.query(
    `SELECT pubinsert, pubupdate, pubdelete FROM pg_catalog.pg_publication WHERE pubname = ${quoteLiteral(publication)}`,
  );
  const [insert, update, remove] = (flags.rows[0] ?? []).map((flag) => flag === 't');
  // Column lists and row filters came with Postgres 15, generated columns in publications with 18.
  const lists = connection.serverVersion >= 150_000;
  const generated = connection.serverVersion >= 180_000 && !whole;
  const { rows } = await connection.query(`
    SELECT pg_catalog.json_build_object(
      'oid', c.oid::bigint, 'schema', p.schemaname, 'name', p.tablename, 'rootSchema', rn.nspname, 'rootName', r.relname,
      'root', r.oid::bigint, 'kind', c.relkind, 'identity', c.relreplident, 'filter', ${lists ? 'p.rowfilter' : 'NULL'}, 'rows', c.reltuples::bigint,
      'columns', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
          'name', a.attname, 'number', a.attnum, 'type', a.atttypid::bigint, 'typmod', a.atttypmod,
          'text', pg_catalog.format_type(a.atttypid, a.atttypmod), 'bare', pg_catalog.format_type(a.atttypid, -1),
          'notnull', a.attnotnull, 'generated', a.attgenerated <> '',
          'listed', ${lists && !whole ? 'p.attnames IS NULL OR a.attname = ANY (p.attnames)' : 'true'},
          'key', (SELECT k.place FROM pg_catalog.pg_index AS i
                   CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
                   WHERE i.indrelid = c.oid AND i.indisreplident AND k.attnum = a.attnum AND k.place <= i.indnkeyatts),
          'pk', (SELECT k.place FROM pg_catalog.pg_index AS i
                  CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
                  WHERE i.indrelid = c.oid AND i.indisprimary AND (i.indimmediate OR c.relreplident <> 'd') AND k.attnum = a.attnum AND k.place <= i.indnkeyatts))
          ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
      FROM pg_catalog.pg_publication_tables AS p
      JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.schemaname
      JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename
      JOIN pg_catalog.pg_class AS r ON r.oid = CASE WHEN c.relispartition
           THEN COALESCE(pg_catalog.pg_partition_root(c.oid), c.oid) ELSE c.oid END
      JOIN pg_catalog.pg_namespace AS rn ON rn.oid = r.relnamespace
     WHERE p.pubname = ${quoteLiteral(publication)} ORDER BY p.schemaname, p.tablename`);
  const tables: PublishedTable[] = [];
  for (const [json] of rows) tables.push(await tableOf(connection, JSON.parse(json!) as RawTable, generated));
  return { tables, insert: insert === true, update: update === true, delete: remove === true };
}

async function tableOf(connection: PgConnection, raw: RawTable, generated: boolean): Promise<PublishedTable> {
  const sent = raw.columns.filter((column) => column.listed && (generated || !column.generated));
  const types = await describeTypes(
    connection,
    sent.map(({ type }) => Number(type)),
  );
  const columns = sent.map(
    (column): ColumnSchema => ({
      name: column.name,
      type: types.get(Number(column.type)) ?? {
        oid: Number(column.type),
        name: 'unknown',
        schema: 'pg_catalog',
        kind: 'base',
      },
      typeText: column.text,
      number: column.number,
      nullable: !column.notnull,
    }),
  );
  const ordered = (by: 'key' | 'pk') =>
    raw.columns
      .filter((column) => column[by] !== null)
      .sort((a, b) => a[by]! - b[by]!)
      .map(({ name }) => name);
  const primaryKey = ordered('pk');
  const identity = identityOf(raw, primaryKey, ordered('key'), sent);
  const key = raw.identity === 'n' ? [] : raw.identity === 'i' ? identity : primaryKey;
  const known = new Map(raw.columns.map((column) => [column.name, column]));
  const whole = key.length > 0 && key.every((name) => sent.some((column) => column.name === name));
  return {
    schema: {
      oid: Number(raw.oid),
      schema: raw.rootSchema,
      name: raw.rootName,
      columns,
      primaryKey,
      replicaIdentity: raw.identity,
      identity,
    },
    own: { schema: raw.schema, name: raw.name },
    root: Number(raw.root),
    withDescendants: raw.kind === 'p',
    rowFilter: raw.filter,
    key: whole ? key : [],
    keyTypes: whole ? key.map((name) => known.get(name)!.bare) : [],
    relation: relationMessage(raw, sent, identity),
    estimatedRows: Math.max(0, raw.rows),
  };
}

/** In table order, as RELATION announces it. */
function identityOf(
  { identity }: RawTable,
  primaryKey: readonly string[],
  index: readonly string[],
  sent: readonly RawColumn[],
): readonly string[] {
  const names = identity === 'f' ? null : identity === 'd' ? primaryKey : identity === 'i' ? index : [];
  return sent.filter(({ name }) => names === null || names.includes(name)).map(({ name }) => name);
}

function relationMessage(raw: RawTable, columns: readonly RawColumn[], identity: readonly string[]): Buffer {
  const out = new ByteWriter(1024);
  const text = (value: string) => {
    out.bytes(Buffer.from(value));
    out.u8(0);
  };
  out.u8(RELATION);
  out.u32(Number(raw.oid));
  // pgoutput leaves the name of the system schema empty.
  text(raw.schema === 'pg_catalog' ? '' : raw.schema);
  text(raw.name);
  out.ascii(raw.identity);
  out.u8(columns.length >> 8);
  out.u8(columns.length & 0xff);
  for (const { name, type, typmod } of columns) {
    out.u8(identity.includes(name) ? 1 : 0);
    text(name);
    out.u32(Number(type));
    out.u32(typmod >>> 0);
  }
  return Buffer.from(out.view());
}

/** How SQL names the rows that are published. */
export function relationOf({ own, withDescendants }: PublishedTable): string {
  return `${withDescendants ? '' : 'ONLY '}${quoteIdentifier(own.schema)}.${quoteIdentifier(own.name)}`;
}

/** SELECT of the published columns, in their order, of the rows the filter admits. */
export function selectRows(table: PublishedTable, where: string | null = null): string {
  const { schema, rowFilter } = table;
  const columns = schema.columns.map((column) => quoteIdentifier(column.name)).join(', ');
  const conditions = [rowFilter, where].filter((condition) => condition !== null).map((condition) => `(${condition})`);
  const filter = conditions.length === 0 ? '' : ` WHERE ${conditions.join(' AND ')}`;
  return `SELECT ${columns} FROM ${relationOf(table)}${filter}`;
}

/**
 * Whether the table was written anew after the snapshot of this transaction was taken: ALTER TABLE, VACUUM FULL and
 * TRUNCATE do, and to an older snapshot it then looks empty. The catalog shows the file of the snapshot, the function
 * the one there is now. Asked with the table locked.
 */
export async function rewritten(connection: PgConnection, { schema }: PublishedTable): Promise<boolean> {
  const { rows } = await connection.query(
    `SELECT pg_catalog.count(*) FROM pg_catalog.pg_class AS c
      WHERE c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(${schema.oid}) UNION SELECT ${schema.oid})
        AND c.relkind = 'r' AND c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid)`,
  );
  return rows[0]?.[0] !== '0';
}
