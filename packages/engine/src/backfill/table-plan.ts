/**
 * What has to be read of a table so that it matches what the publication streams of it: which relations (partitions are
 * tables of their own on disk), which columns and rows of them, and by what their rows are told apart.
 */
import { MillraceError } from '@millrace/core/error';
import { describeTable, readPublication, type TableDescription } from '@millrace/postgres/catalog';
import { type PgConnection, quoteIdentifier } from '@millrace/postgres/connection';
import type { TableSchema } from '../table-schema.ts';
import { type Published, readPublished } from './published-relations.ts';

export interface TableKey {
  readonly names: readonly string[];
  /** Indexes among the unit's columns. */
  readonly columns: readonly number[];
  /** As SQL spells the types in the session: `integer`, `public.mood`. */
  readonly types: readonly string[];
}

/** One relation to read, on its own. */
export interface ReadUnit {
  readonly oid: number;
  /** Quoted and qualified. */
  readonly relation: string;
  /** Without its descendants: inheritance children are published as tables of their own. */
  readonly only: boolean;
  /** As the stream has it: the root's name, and the columns in the order of the published relation. */
  readonly schema: TableSchema;
  readonly key: TableKey | null;
  /** Columns of replica identities, of the table or its partitions, that do not say the whole key. */
  readonly otherIdentities: readonly (readonly string[])[];
  /** The publication's row filter, as SQL. */
  readonly filter: string | null;
  readonly file: string;
  /** Changes when a column is added, dropped, renamed or gets another type or collation. */
  readonly fingerprint: string;
  /** Pages when it was planned: what comes after them came through the stream. */
  readonly pages: number;
  /** Pages can be read one by one. */
  readonly heap: boolean;
  readonly estimatedRows: number;
}

export interface TablePlan {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  /** The table and all its partitions: a lock on any of them, or a change of any, is of this table. */
  readonly oids: ReadonlySet<number>;
  readonly partitioned: boolean;
  /** By relation: one per partition. */
  readonly leaves: readonly ReadUnit[];
  /** By published relation, with descendants: for reading in the order of a key. */
  readonly whole: readonly ReadUnit[];
  /** Where operators of the key's types are found. */
  readonly searchPath: string;
  /** That of the session: values that are names (regclass) print as it says, in the stream too. */
  readonly ownSearchPath: string;
  readonly columnTypes: ReadonlyMap<string, string>;
  /** By name: another text when the column is another one, or its values have another order. */
  readonly columnOrders: ReadonlyMap<string, string>;
  /** The publication has updates. */
  readonly updates: boolean;
  /** The oldest transaction in progress when it was planned, as 64 bits. */
  readonly oldestXid: string;
  /** The server can scan a range of pages: Postgres 14 and later. */
  readonly pagesCanBeRead: boolean;
}

/** What a relation looks like now, as SQL. `relation`: an expression of its oid. */
export function fingerprintOf(relation: string): string {
  return `(SELECT pg_catalog.hashtextextended(pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attname, a.atttypid,
    a.atttypmod, a.attgenerated, NULLIF(a.attcollation, 0)), ',' ORDER BY a.attnum), 0)::pg_catalog.text FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = ${relation} AND a.attnum > 0 AND NOT a.attisdropped)`;
}

/**
 * pg_table_missing when it is gone, pg_table_unpublished when the publication has no part of it. In one snapshot: the
 * columns of before a change of the table and the fingerprint of after it would read rows without its new column.
 */
export async function planTable(connection: PgConnection, publication: string, oid: number): Promise<TablePlan> {
  await connection.query('BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY');
  try {
    const plan = await planInSnapshot(connection, publication, oid);
    await connection.query('COMMIT');
    return plan;
  } catch (error) {
    await connection.query('ROLLBACK').catch(() => {});
    throw error;
  }
}

async function planInSnapshot(connection: PgConnection, publication: string, oid: number): Promise<TablePlan> {
  const root = await describeTable(connection, oid);
  if (root === null) throw new MillraceError('pg_table_missing', { detail: 'It was dropped.' });
  const published = await readPublished(connection, publication, root);
  if (published.length === 0) {
    const label = `${quoteIdentifier(root.schema)}.${quoteIdentifier(root.name)}`;
    throw new MillraceError('pg_table_unpublished', {
      detail: `${label} is not in publication "${publication}".`,
      hint: `ALTER PUBLICATION ${quoteIdentifier(publication)} ADD TABLE ${label};`,
    });
  }
  const leaves: ReadUnit[] = [];
  const whole: ReadUnit[] = [];
  for (const part of published) {
    const table = part.oid === root.oid ? root : await describeTable(connection, part.oid);
    if (table === null) continue;
    const types = await columnTypes(connection, table.oid);
    const key = await keyOf(connection, table, part, types);
    const oids = table.kind === 'partitioned' ? leafOids(table.oid) : String(table.oid);
    const about = {
      schema: schemaOf(table, part, await identityKey(connection, table)),
      key,
      otherIdentities: key === null ? [] : await identitiesWithout(connection, oids, key.names),
      filter: part.filter,
    };
    const relations = await readRelations(connection, oids);
    for (const relation of relations) leaves.push({ ...relation, ...about, only: true });
    const [self] = await readRelations(connection, String(table.oid));
    const estimatedRows = relations.reduce((sum, { estimatedRows: rows }) => sum + rows, 0);
    whole.push({ ...self!, ...about, only: table.kind !== 'partitioned', estimatedRows });
  }
  leaves.sort((a, b) => a.oid - b.oid);
  whole.sort((a, b) => a.oid - b.oid);
  const tree = await connection.query(
    `SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree(${root.oid}) UNION SELECT ${root.oid}`,
  );
  return {
    oid: root.oid,
    schema: root.schema,
    name: root.name,
    oids: new Set(tree.rows.map(([relid]) => Number(relid))),
    partitioned: root.kind === 'partitioned',
    leaves,
    whole,
    ...(await searchPaths(connection, root.oid)),
    columnTypes: await columnTypes(connection, root.oid),
    columnOrders: await columnOrders(connection, root.oid),
    updates: (await readPublication(connection, publication))?.update === true,
    oldestXid: await oldestXid(connection),
    pagesCanBeRead: connection.serverVersion >= 140_000,
  };
}

async function oldestXid(connection: PgConnection): Promise<string> {
  const { rows } = await connection.query(
    'SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::pg_catalog.text',
  );
  return rows[0]![0]!;
}

/** Pages of the relations as they are now, by OID. */
export async function readPages(connection: PgConnection, units: readonly ReadUnit[]): Promise<Map<number, number>> {
  const list = units.map(({ oid }) => oid).join(', ');
  const { rows } = await connection.query(
    `SELECT c.oid, pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint
       FROM pg_catalog.pg_class AS c WHERE c.oid IN (${list})`,
  );
  return new Map(rows.map(([oid, pages]) => [Number(oid), Number(pages)]));
}

/** Whether any of them holds values out of line. */
export async function holdsLargeValues(connection: PgConnection, units: readonly ReadUnit[]): Promise<boolean> {
  const list = units.map(({ oid }) => oid).join(', ');
  const { rows } = await connection.query(
    `SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid IN (${list}) AND c.reltoastrelid <> 0
       AND COALESCE(pg_catalog.pg_relation_size(c.reltoastrelid), 1) > 0)`,
  );
  return rows[0]?.[0] === 't';
}

function leafOids(oid: number): string {
  return `SELECT relid FROM pg_catalog.pg_partition_tree(${oid}) WHERE isleaf`;
}

/** The same columns, in the same order, and the same key as in the changes of this relation. */
function schemaOf(table: TableDescription, { columns: listed }: Published, identity: readonly string[]): TableSchema {
  const columns = table.columns.filter(({ name, generated }) => (listed === null ? !generated : listed.has(name)));
  const has = (name: string) => columns.some((column) => column.name === name);
  // As primaryKeyOf in source-catalog.ts: by default the key is what Postgres announces, which a deferrable one is not.
  const announced = table.replicaIdentity !== 'd' || identity.length > 0;
  const { primaryKey } = table;
  return {
    oid: table.oid,
    schema: table.root.schema,
    name: table.root.name,
    columns: columns.map(({ name, type, number }) => ({ name, type, number })),
    primaryKey: announced && primaryKey.length > 0 && primaryKey.every(has) ? primaryKey : identity.filter(has),
  };
}

/** Columns of the index that is the replica identity, in table order: the key of changes without a primary key. */
async function identityKey(connection: PgConnection, table: TableDescription): Promise<string[]> {
  if (table.replicaIdentity !== 'i' && table.replicaIdentity !== 'd') return [];
  const index = table.replicaIdentity === 'i' ? 'i.indisreplident' : 'i.indisprimary AND i.indimmediate';
  const { rows } = await connection.query(
    `SELECT a.attname FROM pg_catalog.pg_index AS i
       JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
      WHERE i.indrelid = ${table.oid} AND ${index} ORDER BY a.attnum`,
  );
  return rows.map(([name]) => name!);
}

/** Replica identities of these relations that do not cover the key: their columns, in table order. */
async function identitiesWithout(
  connection: PgConnection,
  oids: string,
  key: readonly string[],
): Promise<readonly string[][]> {
  const { rows } = await connection.query(
    `SELECT DISTINCT (SELECT pg_catalog.json_agg(a.attname ORDER BY a.attnum)::pg_catalog.text FROM pg_catalog.pg_attribute AS a
                       WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]))
       FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
      WHERE c.oid IN (${oids}) AND (c.relreplident = 'i' AND i.indisreplident
        OR c.relreplident = 'd' AND i.indisprimary AND i.indimmediate)`,
  );
  const identities = rows.map(([names]) => JSON.parse(names!) as string[]);
  return identities.filter((names) => !key.every((name) => names.includes(name)));
}

/**
 * By what rows are told apart: the primary key, or the columns of a unique index that changes carry. Those of the
 * replica identity do, and under full identity those of any.
 */
async function keyOf(
  connection: PgConnection,
  table: TableDescription,
  { columns: listed }: Published,
  types: ReadonlyMap<string, string>,
): Promise<TableKey | null> {
  const columns = table.columns.filter(({ name, generated }) => (listed === null ? !generated : listed.has(name)));
  let names: readonly string[] = table.primaryKey;
  if (names.length === 0) {
    const { rows } = await connection.query(
      `SELECT pg_catalog.json_agg(a.attname ORDER BY k.place)
         FROM pg_catalog.pg_index AS i
        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
         JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE i.indrelid = ${table.oid} AND k.place <= i.indnkeyatts AND i.indisunique AND i.indisvalid AND i.indimmediate
          AND i.indpred IS NULL AND i.indexprs IS NULL AND (i.indisreplident OR ${table.replicaIdentity === 'f'})
        GROUP BY i.indexrelid, i.indisreplident HAVING pg_catalog.bool_and(a.attnotnull)
        ORDER BY i.indisreplident DESC, pg_catalog.count(*), i.indexrelid LIMIT 1`,
    );
    names = JSON.parse(rows[0]?.[0] ?? '[]') as string[];
  }
  const places = names.map((name) => columns.findIndex((column) => column.name === name));
  if (names.length === 0 || places.includes(-1)) return null;
  return { names, columns: places, types: names.map((name) => types.get(name)!) };
}

/** Names resolve as in the user's own sessions; operators of key types in other schemas (citext, ltree) are added. */
async function searchPaths(
  connection: PgConnection,
  oid: number,
): Promise<Pick<TablePlan, 'searchPath' | 'ownSearchPath'>> {
  // OFFSET 0: by index. A database of ten thousand tables has more types than that, and they would be hashed each time.
  const typeOf = '(SELECT * FROM pg_catalog.pg_type WHERE oid = t.oid OFFSET 0) AS p';
  const { rows } = await connection.query(
    `WITH RECURSIVE t AS (
       SELECT atttypid AS oid FROM pg_catalog.pg_attribute WHERE attrelid = ${oid} AND attnum > 0 AND NOT attisdropped
       UNION SELECT next.oid FROM t CROSS JOIN LATERAL ${typeOf}
              CROSS JOIN LATERAL (VALUES (p.typbasetype), (p.typelem)) AS next (oid) WHERE next.oid <> 0)
     SELECT pg_catalog.current_setting('search_path'),
            (SELECT pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(n.nspname), ', ') FROM t
               CROSS JOIN LATERAL ${typeOf} JOIN pg_catalog.pg_namespace AS n ON n.oid = p.typnamespace
              WHERE n.nspname <> 'pg_catalog')`,
  );
  const own = rows[0]?.[0] ?? '';
  const names = [...namesOf(own), ...(rows[0]?.[1] ? [rows[0][1]] : [])];
  return { searchPath: names.join(', ') || 'pg_catalog', ownSearchPath: own };
}

/** As they are quoted in it. `SET search_path = ''` leaves a name without characters, which SET does not take from SQL. */
function namesOf(searchPath: string): string[] {
  return (searchPath.match(/"(?:[^"]|"")*"|[^\s,]+/g) ?? []).filter((name) => name !== '""');
}

async function readRelations(connection: PgConnection, oids: string) {
  const { rows } = await connection.query(
    `SELECT c.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
            COALESCE(pg_catalog.pg_relation_filenode(c.oid)::pg_catalog.text, ''), ${fingerprintOf('c.oid')},
            CASE WHEN c.relkind = 'r' THEN pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint ELSE 0 END,
            m.amname, GREATEST(c.reltuples, 0)::bigint
       FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
       LEFT JOIN pg_catalog.pg_am AS m ON m.oid = c.relam
      WHERE c.oid IN (${oids}) AND c.relkind IN ('r', 'p')`,
  );
  return rows.map(([oid, relation, file, fingerprint, pages, method, estimate]) => ({
    oid: Number(oid),
    relation: relation!,
    file: file!,
    fingerprint: fingerprint!,
    pages: Number(pages),
    heap: method === 'heap',
    estimatedRows: Number(estimate),
  }));
}

async function columnTypes(connection: PgConnection, oid: number): Promise<Map<string, string>> {
  const { rows } = await connection.query(
    // Not NULL for the modifier: that names bpchar "character", which as a cast means one character.
    `SELECT attname, pg_catalog.format_type(atttypid, -1) FROM pg_catalog.pg_attribute
      WHERE attrelid = ${oid} AND attnum > 0 AND NOT attisdropped`,
  );
  return new Map(rows.map(([name, type]) => [name!, type!]));
}

async function columnOrders(connection: PgConnection, oid: number): Promise<Map<string, string>> {
  const { rows } = await connection.query(
    `SELECT attname, pg_catalog.concat_ws(' ', attnum, atttypid, attcollation) FROM pg_catalog.pg_attribute
      WHERE attrelid = ${oid} AND attnum > 0 AND NOT attisdropped`,
  );
  return new Map(rows.map(([name, order]) => [name!, order!]));
}

/** By which columns rows are told apart; null: there is no plan. */
export function keyNames(plan: TablePlan | null): string | null {
  return plan === null ? null : JSON.stringify(plan.whole.map(({ oid, key }) => [oid, key?.names]));
}
