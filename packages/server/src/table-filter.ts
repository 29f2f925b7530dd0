import type { SourceConfig } from '@millrace/api/config';

/** Which tables a sink takes: of each pair of lists at most one is given; none means everything published. */
export function tableFilter(source: SourceConfig): (schema: string, table: string) => boolean {
  const key = (schema: string, table: string) => JSON.stringify([schema, table]);
  const keys = (tables: SourceConfig['includeTables']) => tables && new Set(tables.map((t) => key(t.schema, t.name)));
  const included = keys(source.includeTables);
  const excluded = keys(source.excludeTables);
  const schemas = source.includeSchemas && new Set(source.includeSchemas);
  const noSchemas = source.excludeSchemas && new Set(source.excludeSchemas);
  return (schema, table) =>
    (schemas === undefined || schemas.has(schema)) &&
    !noSchemas?.has(schema) &&
    (included === undefined || included.has(key(schema, table))) &&
    !excluded?.has(key(schema, table));
}
