/** The TypeScript type of a Postgres value as it stands in a message: the table of value-json.ts of @millrace/postgres. */
import type { TypeDescription } from '@millrace/postgres/value-json';

/** Labels of an enum by the OID of its type. */
export type EnumLabels = ReadonlyMap<number, readonly string[]>;

const NAMES: Readonly<Record<string, string>> = {
  bool: 'boolean',
  int2: 'number',
  int4: 'number',
  oid: 'number',
  int8: 'Int8',
  float4: 'Float',
  float8: 'Float',
  timestamp: 'Timestamp',
  timestamptz: 'Timestamp',
  interval: 'Interval',
  json: 'Json',
  jsonb: 'Json',
};

/** What is no type of its own is a string, as in the message. */
export function valueType(type: TypeDescription, labels: EnumLabels): string {
  if (type.base !== undefined) return valueType(type.base, labels);
  if (type.element !== undefined) return `(${valueType(type.element, labels)} | null)[]`;
  if (type.kind === 'enum') {
    const known = labels.get(type.oid) ?? [];
    return known.length === 0 ? 'string' : known.map(quoted).join(' | ');
  }
  if (type.kind !== 'base') return 'string';
  if (type.name === 'vector' && type.schema !== 'pg_catalog') return 'number[]';
  return (type.schema === 'pg_catalog' ? NAMES[type.name] : undefined) ?? 'string';
}

/** A name as a text of TypeScript. */
export function quoted(text: string): string {
  const json = JSON.stringify(text);
  return json.includes("'") ? json : `'${json.slice(1, -1).replaceAll('\\"', '"')}'`;
}

export function propertyName(name: string): string {
  return /^[A-Za-z_$][\w$]*$/.test(name) ? name : quoted(name);
}
