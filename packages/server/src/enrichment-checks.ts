/**
 * Enrichments that could never find a row: their SQL is wrong, does not return the key, or the sink keeps a column of the
 * primary key in the message, by which it is looked up, from messages. Only the database knows.
 */
import { effectsOf } from '@millrace/api/applied/plan';
import type { Config, SinkConfig } from '@millrace/api/config';
import { MillraceError } from '@millrace/core/error';
import { concealedBy, hidesValues } from '@millrace/engine/decode/row-rules';
import { concealedKeyError, partsOf } from '@millrace/engine/transform/enrichment';
import { checkEnrichment, describeKey } from '@millrace/engine/transform/enrichment-query';
import { describeTableByName, listPublishedTables } from '@millrace/postgres/catalog';
import { PgConnection } from '@millrace/postgres/connection';
import { PgServerError } from '@millrace/postgres/server-error';
import type { DatabaseSet } from './database-set.ts';
import { sourceOf } from './source-of.ts';
import { tableFilter } from './table-filter.ts';

interface NamedTable {
  readonly schema: string;
  readonly name: string;
}

interface KeyedTable extends NamedTable {
  readonly primaryKey: readonly string[];
}

/** Planning is quick; what waits behind it is a lock. */
const TIMEOUT_MS = 5_000;
const CONNECT_TIMEOUT_MS = 10_000;
/** Of a sink. One SQL for thousands of tables is wrong for the first of them, or for none. */
const TABLES_ASKED_MAX = 100;

/** Of those that are published: what its enrichment is asked for. */
function enrichedTables<T extends NamedTable>({ source, functions }: SinkConfig, tables: readonly T[]): T[] {
  const { enrichment } = functions;
  if (enrichment === null) return [];
  const takes = tableFilter(source);
  const parts = partsOf(enrichment.code);
  return tables.filter(
    ({ schema, name }) => takes(schema, name) && (parts.has(`${schema}.${name}`) || parts.has(null)),
  );
}

/** What is wrong with the first table whose key the sink conceals. */
export function concealedKey(sink: SinkConfig, tables: readonly KeyedTable[]): MillraceError | null {
  for (const { schema, name, primaryKey } of enrichedTables(sink, tables)) {
    for (const column of primaryKey) {
      const by = concealedBy(sink.rules, schema, name, column);
      if (by !== null) return concealedKeyError(sink.functions.enrichment!.name, `"${schema}"."${name}"`, column, by);
    }
  }
  return null;
}

/** What Postgres says of the SQL for the first table that it does not work for. Nothing is executed. */
export async function unusableEnrichment(
  connection: PgConnection,
  sink: SinkConfig,
  tables: readonly NamedTable[],
): Promise<MillraceError | null> {
  const asked = enrichedTables(sink, tables).slice(0, TABLES_ASKED_MAX);
  if (asked.length === 0) return null;
  const { name, code } = sink.functions.enrichment!;
  const parts = partsOf(code);
  for (const { schema, name: table } of asked) {
    const query = { name, sql: (parts.get(`${schema}.${table}`) ?? parts.get(null))!, timeoutMs: TIMEOUT_MS };
    try {
      const key = await describeKey(connection, query, { schema, table });
      if (key !== null) await checkEnrichment(connection, query, key);
    } catch (error) {
      if (error instanceof MillraceError && error.code === 'enrichment_failed') return error;
      // The server has no time or room now: that says nothing of the SQL.
      if (!(error instanceof PgServerError)) throw error;
    }
  }
  return null;
}

/** Rejects with enrichment_failed for a new or changed sink. A database that does not answer refuses nothing. */
export async function checkEnrichments(now: Config, next: Config, databases: DatabaseSet): Promise<void> {
  const { sinks } = effectsOf(now, next);
  const asked = [...sinks.added, ...sinks.changed.map(({ after }) => after)].filter(
    ({ functions, status }) => functions.enrichment !== null && status !== 'disabled',
  );
  for (const name of new Set(asked.map(({ database }) => database))) {
    const database = next.databases.find((one) => one.name === name);
    if (database === undefined || databases.find(name)?.state.kind !== 'running') continue;
    const ofDatabase = asked.filter((one) => one.database === name);
    const problem = await firstProblem(database, ofDatabase).catch(() => null);
    if (problem !== null) throw problem;
  }
}

async function firstProblem(
  database: Config['databases'][number],
  sinks: readonly SinkConfig[],
): Promise<MillraceError | null> {
  const connection = await PgConnection.connect({
    ...sourceOf(database).connection,
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
  });
  try {
    const published = await listPublishedTables(connection, database.publication.name);
    for (const sink of sinks) {
      const keyed = hidesValues(sink.rules) ? await keyedTables(connection, enrichedTables(sink, published)) : [];
      const problem = concealedKey(sink, keyed) ?? (await unusableEnrichment(connection, sink, published));
      if (problem !== null) return problem;
    }
    return null;
  } finally {
    await connection.close();
  }
}

async function keyedTables(connection: PgConnection, tables: readonly NamedTable[]): Promise<KeyedTable[]> {
  const found: KeyedTable[] = [];
  for (const { schema, name } of tables) {
    const described = await describeTableByName(connection, schema, name);
    if (described !== null) found.push(described);
  }
  return found;
}
