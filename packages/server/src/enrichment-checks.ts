/**
 * Enrichments that could never find a row: it is looked up by the primary key in the message, and the sink keeps a column of
 * that from messages. Which columns those are, only the database knows.
 */
import { effectsOf } from '@millrace/api/applied/plan';
import type { Config, SinkConfig } from '@millrace/api/config';
import type { MillraceError } from '@millrace/core/error';
import { concealedBy, hidesValues } from '@millrace/engine/decode/row-rules';
import { concealedKeyError, partsOf } from '@millrace/engine/transform/enrichment';
import { describeTableByName, listPublishedTables } from '@millrace/postgres/catalog';
import { PgConnection } from '@millrace/postgres/connection';
import type { DatabaseSet } from './database-set.ts';
import { sourceOf } from './source-of.ts';
import { tableFilter } from './table-filter.ts';

interface KeyedTable {
  readonly schema: string;
  readonly name: string;
  readonly primaryKey: readonly string[];
}

/** Of a sink with an enrichment: what is wrong with the first such table. */
export function concealedKey(sink: SinkConfig, tables: readonly KeyedTable[]): MillraceError | null {
  const { enrichment } = sink.functions;
  if (enrichment === null) return null;
  const takes = tableFilter(sink.source);
  const parts = partsOf(enrichment.code);
  for (const { schema, name, primaryKey } of tables) {
    if (!takes(schema, name) || !(parts.has(`${schema}.${name}`) || parts.has(null))) continue;
    for (const column of primaryKey) {
      const by = concealedBy(sink.rules, schema, name, column);
      if (by !== null) return concealedKeyError(enrichment.name, `"${schema}"."${name}"`, column, by);
    }
  }
  return null;
}

/** Rejects with enrichment_failed for a new or changed sink. A database that does not answer refuses nothing. */
export async function checkEnrichments(now: Config, next: Config, databases: DatabaseSet): Promise<void> {
  const { sinks } = effectsOf(now, next);
  const asked = [...sinks.added, ...sinks.changed.map(({ after }) => after)].filter(
    ({ functions, rules, status }) => functions.enrichment !== null && hidesValues(rules) && status !== 'disabled',
  );
  for (const name of new Set(asked.map(({ database }) => database))) {
    const database = next.databases.find((one) => one.name === name);
    if (database === undefined || databases.find(name)?.state.kind !== 'running') continue;
    const tables = await keyedTables(database).catch(() => null);
    if (tables === null) continue;
    for (const sink of asked.filter((one) => one.database === name)) {
      const problem = concealedKey(sink, tables);
      if (problem !== null) throw problem;
    }
  }
}

async function keyedTables(database: Config['databases'][number]): Promise<KeyedTable[]> {
  const connection = await PgConnection.connect(sourceOf(database).connection);
  try {
    const tables: KeyedTable[] = [];
    for (const { schema, name } of await listPublishedTables(connection, database.publication.name)) {
      const described = await describeTableByName(connection, schema, name);
      if (described !== null) tables.push(described);
    }
    return tables;
  } finally {
    await connection.close();
  }
}
