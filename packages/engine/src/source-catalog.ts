/** Questions to the source's catalog, over one connection that is opened when needed and again when it was lost. */
import { MillraceError } from '@millrace/core/error';
import { LSN_MAX, parseLsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import {
  describeTable,
  describeTableByName,
  describeTypes,
  listPublishedTables,
  readPublication,
  type TableDescription,
} from '@millrace/postgres/catalog';
import { type ConnectionConfig, PgConnection, quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import type { Relation } from '@millrace/postgres/pgoutput';
import type { TypeDescription } from '@millrace/postgres/value-json';
import { parseSnapshot, sees } from './backfill/snapshot.ts';
import type { DescribedRelation } from './decode/schema-history.ts';
import type { MissingRelations } from './decode/schema-pruning.ts';
import type { TableSchema } from './table-schema.ts';

type PresentColumn = TableDescription['columns'][number];

const COLUMN_LISTS_VERSION_MIN = 150_000;
const VISIBLE_PAUSE_MS = 5;
const VISIBLE_TIMEOUT_MS = 10_000;
/** While one of before that took too long still is not visible. */
const VISIBLE_AGAIN_MS = 200;
/** When an answer takes longer its connection is given up: sinks wait for it, and the network may have forgotten it. */
const ANSWER_MS = 60_000;

/** Whether this column (by its number) is one that we keep, or kept, out of the publication. null: none of the table's. */
export type WithheldColumns = (oid: number) => ((number: number) => boolean) | null;

export class SourceCatalog {
  readonly #config: ConnectionConfig;
  readonly #publication: string;
  readonly #withheld: WithheldColumns;
  #connection: Promise<PgConnection> | null = null;
  readonly #closing = new AbortController();
  /** A transaction that was waited for in vain. */
  #unseen: number | null = null;

  constructor(
    config: ConnectionConfig,
    publication: string,
    withheld: WithheldColumns = () => null,
    answerMs = ANSWER_MS,
  ) {
    this.#config = { ...config, answerMs };
    this.#publication = publication;
    this.#withheld = withheld;
  }

  /** What decoding rows of this relation needs. A table that is gone by now is described from what was announced. */
  async describeRelation(relation: Relation, xid = 0): Promise<DescribedRelation> {
    const connection = await this.#connected();
    if (xid !== 0) await this.#seen(connection, xid);
    const types = await describeTypes(
      connection,
      relation.columns.map((column) => column.typeOid),
    );
    const typeTexts = await formatTypes(connection, relation);
    const table = await describeTable(connection, relation.oid);
    const identity = relation.columns.filter((column) => column.isKey).map((column) => column.name);
    const isWithheld = this.#withheld(relation.oid);
    const listed = await this.#listedColumns(connection, relation.oid);
    const present = presentColumns(relation, table, listed, isWithheld !== null);
    const partition =
      table !== null && table.root.oid !== table.oid ? { schema: table.schema, name: table.name } : null;
    const schema: TableSchema = {
      oid: relation.oid,
      // A partition carries the name of its root; a table of its own the name it had when it was announced.
      schema: partition === null ? relation.schema : table!.root.schema,
      name: partition === null ? relation.name : table!.root.name,
      columns: relation.columns.map((column, i) => {
        const now = present[i];
        return {
          name: column.name,
          type: types.get(column.typeOid) ?? unknownType(column.typeOid),
          ...(typeTexts[i] && { typeText: typeTexts[i] }),
          ...(now && { number: now.number, nullable: !now.notNull }),
        };
      }),
      primaryKey: primaryKeyOf(relation, identity, table, present),
      replicaIdentity: relation.replicaIdentity,
      identity,
      ...(partition && { partition }),
      ...(isWithheld !== null && withheldOf(table, present, isWithheld)),
    };
    return { schema, gone: table === null };
  }

  /**
   * Waits until queries see a transaction of the stream. Its commit is sent once it is in the WAL; it becomes visible a
   * moment later, or much later where commits wait for a synchronous standby: then the catalog is asked as it is. That is
   * found out once, not for each table.
   */
  async #seen(connection: PgConnection, xid: number): Promise<void> {
    const started = performance.now();
    while (!this.#closing.signal.aborted) {
      const { rows } = await connection.query('SELECT pg_catalog.pg_current_snapshot()::text');
      const snapshot = parseSnapshot(rows[0]![0]!, 0n);
      if (this.#unseen !== null && sees(snapshot, this.#unseen)) this.#unseen = null;
      if (sees(snapshot, xid)) return;
      const waitMs = this.#unseen === null ? VISIBLE_TIMEOUT_MS : VISIBLE_AGAIN_MS;
      if (performance.now() - started > waitMs) break;
      await pause(VISIBLE_PAUSE_MS, this.#closing.signal);
    }
    this.#unseen ??= xid;
  }

  /** Numbers of the columns that the publication lists of this table; null: there is no list. */
  async #listedColumns(connection: PgConnection, oid: number): Promise<readonly number[] | null> {
    if (connection.serverVersion < COLUMN_LISTS_VERSION_MIN) return null;
    const { rows } = await connection.query(
      `SELECT r.prattrs::pg_catalog.text FROM pg_catalog.pg_publication_rel AS r
         JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
        WHERE r.prrelid = ${oid} AND p.pubname = ${quoteLiteral(this.#publication)}`,
    );
    return rows[0]?.[0]?.split(' ').map(Number) ?? null;
  }

  /** Which of these relations are not there. One that cannot be seen yet, since what made it is committing, is locked by it. */
  async missingRelations(oids: readonly number[]): Promise<MissingRelations> {
    const connection = await this.#connected();
    const list = `${quoteLiteral(`{${oids.join(',')}}`)}::pg_catalog.oid[]`;
    const { rows } = await connection.query(
      `SELECT (SELECT pg_catalog.json_agg(oid::pg_catalog.int8) FROM (
                 SELECT oid FROM pg_catalog.pg_class WHERE oid = ANY (${list})
                 UNION SELECT relation FROM pg_catalog.pg_locks WHERE relation = ANY (${list})
                   AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())) AS t),
              CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                   ELSE pg_catalog.pg_current_wal_insert_lsn() END`,
    );
    const [there, lsn] = rows[0] ?? [];
    const found = new Set(JSON.parse(there ?? '[]') as number[]);
    return { oids: oids.filter((oid) => !found.has(oid)), lsn: parseLsn(lsn ?? '') ?? LSN_MAX };
  }

  /** Throws pg_table_missing or pg_table_unpublished for the first table that cannot be captured. */
  async requireTables(tables: readonly { schema: string; name: string }[]): Promise<void> {
    if (tables.length === 0) return;
    const publication = this.#publication;
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
      const holdsAll = (await readPublication(connection, publication))?.allTables === true;
      throw new MillraceError('pg_table_unpublished', {
        detail: `${label} is not in publication "${publication}".`,
        hint: holdsAll
          ? 'It holds all tables that Postgres can publish, and an unlogged, temporary or foreign table or a view is none.'
          : `ALTER PUBLICATION ${quoteIdentifier(publication)} ADD TABLE ${label};`,
      });
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    const connection = await this.#connection?.catch(() => null);
    this.#connection = null;
    await connection?.close();
  }

  #connected(): Promise<PgConnection> {
    if (this.#closing.signal.aborted) return Promise.reject(new MillraceError('storage_closed'));
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

/**
 * What became of each announced column. They are announced in the order in which they were made, and keep it whatever they
 * are called by now: where it is known which of them are sent, their places tell. Else names do, unless they were
 * exchanged. A column that either may mistake is left undefined.
 */
function presentColumns(
  { columns }: Relation,
  table: TableDescription | null,
  listed: readonly number[] | null,
  isOurs: boolean,
): readonly (PresentColumn | undefined)[] {
  const now = table?.columns ?? [];
  const places = new Map(now.map(({ name }, i) => [name, i]));
  const sent = isOurs ? null : sentColumns(now, listed, columns.length);
  if (sent !== null) {
    const isCertain = sent.length === now.length && sent.length === columns.length;
    return columns.map(({ name }, i) => {
      // The name is taken by another column by now, or the list was another one then.
      const isElsewhere = places.has(name) && sent[i]?.name !== name;
      return isElsewhere && !isCertain ? undefined : sent[i];
    });
  }
  const found = columns.map(({ name }) => places.get(name)).filter((place) => place !== undefined);
  if (found.some((place, i) => i > 0 && place < found[i - 1]!)) return columns.map(() => undefined);
  return columns.map(({ name, typeOid }, i) => {
    const place = places.get(name);
    if (place === undefined || now[place]!.type.oid !== typeOid) return undefined;
    // Without a list, no more columns stand before one now than stood there then: this one was made later.
    return listed === null && !isOurs && countSent(now, place) > i ? undefined : now[place];
  });
}

/** Those that changes have now, where they stand as they stood when `count` were announced; null: that is not known. */
function sentColumns(
  now: readonly PresentColumn[],
  listed: readonly number[] | null,
  count: number,
): readonly PresentColumn[] | null {
  if (listed === null) return now.every(({ number, generated }, i) => number === i + 1 && !generated) ? now : null;
  const sent = now.filter(({ number }) => listed.includes(number));
  return sent.length === count ? sent : null;
}

/** Of those before `place`, how many changes have in any case. */
function countSent(now: readonly PresentColumn[], place: number): number {
  return now.slice(0, place).filter(({ generated }) => !generated).length;
}

function withheldOf(
  table: TableDescription | null,
  present: ReturnType<typeof presentColumns>,
  isWithheld: (number: number) => boolean,
): { withheld?: readonly string[] } {
  const announced = new Set(present.map((column) => column?.number));
  const withheld = (table?.columns ?? [])
    .filter(({ number, generated }) => !generated && !announced.has(number) && isWithheld(number))
    .map(({ name }) => name);
  return withheld.length === 0 ? {} : { withheld };
}

/** The announcement is of its position, the catalog of now: it is asked only for what was not announced. */
function primaryKeyOf(
  relation: Relation,
  identity: readonly string[],
  table: TableDescription | null,
  present: ReturnType<typeof presentColumns>,
): readonly string[] {
  const announced = table?.primaryKey.map((now) => {
    const found =
      relation.columns.find((_, i) => present[i]?.name === now) ??
      relation.columns.find(({ name }, i) => name === now && present[i] === undefined);
    return found?.name;
  });
  const known = announced?.every((name) => name !== undefined) ? announced : [];
  switch (relation.replicaIdentity) {
    case 'd': {
      // The key itself, but in the order of the table's columns.
      const same = known.length === identity.length && known.every((name) => identity.includes(name));
      return same ? known : identity;
    }
    case 'f': // Every column is announced as a part of it.
      return known;
    default:
      return known.length > 0 ? known : identity;
  }
}

/** The types of the announced columns as SQL spells them; '' for one that is gone. */
async function formatTypes(connection: PgConnection, { columns }: Relation): Promise<string[]> {
  if (columns.length === 0) return [];
  const list = columns.map(({ typeOid, typmod }, i) => `(${i}, ${typeOid}, ${typmod})`).join(', ');
  const { rows } = await connection.query(
    `SELECT COALESCE((SELECT pg_catalog.format_type(t.oid, c.typmod) FROM pg_catalog.pg_type AS t WHERE t.oid = c.type::oid), '')
       FROM (VALUES ${list}) AS c (place, type, typmod) ORDER BY c.place`,
  );
  return rows.map(([text]) => text ?? '');
}

function unknownType(oid: number): TypeDescription {
  return { oid, name: 'unknown', schema: 'pg_catalog', kind: 'base' };
}
