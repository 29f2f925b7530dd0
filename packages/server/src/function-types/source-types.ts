/** What the types of functions are made of, read from the database. */
import type { Config, DatabaseConfig } from '@millrace/api/config';
import { describeTableByName, listPublishedTables } from '@millrace/postgres/catalog';
import { PgConnection } from '@millrace/postgres/connection';
import { sourceOf } from '../source-of.ts';
import type { DeclarationOptions, TypedTable } from './type-declarations.ts';

/** Throws a coded error when a database cannot be asked. */
export async function readSourceTypes({ databases, sinks }: Config): Promise<DeclarationOptions> {
  const tables: TypedTable[] = [];
  const labels = new Map<number, string[]>();
  for (const database of databases) await readDatabase(database, tables, labels);
  const numericTimestamps = sinks.some(({ rules }) => rules.timestampFormat === 'unix_microsecond');
  return { tables, labels, numericTimestamps };
}

async function readDatabase(database: DatabaseConfig, tables: TypedTable[], labels: Map<number, string[]>) {
  const connection = await PgConnection.connect(sourceOf(database).connection);
  try {
    for (const { schema, name } of await listPublishedTables(connection, database.publication.name)) {
      const table = await describeTableByName(connection, schema, name);
      const known = tables.some((other) => other.schema === schema && other.name === name);
      if (table !== null && !known) tables.push(table);
    }
    const { rows } = await connection.query(
      'SELECT enumtypid, enumlabel FROM pg_catalog.pg_enum ORDER BY enumtypid, enumsortorder',
    );
    for (const [oid, label] of rows) labels.set(Number(oid), [...(labels.get(Number(oid)) ?? []), label!]);
  } finally {
    await connection.close();
  }
}
