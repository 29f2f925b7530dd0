/** The declaration file that `millrace types` writes: rows and messages of tables, and what functions get and return. */
import type { ColumnDescription, TableDescription } from '@millrace/postgres/catalog';
import { type JsonSchema, routeSchemas } from '@millrace/sinks/route-schema';
import { sinkKind } from '@millrace/sinks/sink-kinds';
import { type EnumLabels, propertyName, quoted, valueType } from './value-types.ts';

export type TypedTable = Pick<TableDescription, 'schema' | 'name' | 'primaryKey' | 'replicaIdentity'> & {
  readonly columns: readonly Pick<ColumnDescription, 'name' | 'type' | 'notNull'>[];
};

export interface DeclarationOptions {
  readonly tables: readonly TypedTable[];
  readonly labels: EnumLabels;
  /** Some sink has `timestamp_format: unix_microsecond`. */
  readonly numericTimestamps: boolean;
}

/** By `schema.name`: what its types begin with, unique in the file. */
export function typeNames(tables: readonly Pick<TypedTable, 'schema' | 'name'>[]): Map<string, string> {
  const names = new Map<string, string>();
  const taken = new Set<string>();
  for (const { schema, name } of tables) {
    const plain = pascal(schema === 'public' ? name : `${schema}_${name}`);
    let unique = plain;
    for (let i = 2; taken.has(unique); i++) unique = `${plain}${i}`;
    taken.add(unique);
    names.set(`${schema}.${name}`, unique);
  }
  return names;
}

function pascal(text: string): string {
  const words = text.split(/[^A-Za-z0-9]+/).filter((word) => word !== '');
  const joined = words.map((word) => word[0]!.toUpperCase() + word.slice(1)).join('');
  return /^[A-Za-z]/.test(joined) ? joined : `Table${joined}`;
}

export function typeDeclarations({ tables, labels, numericTimestamps }: DeclarationOptions): string {
  const names = typeNames(tables);
  const parts = tables.map((table) => tableTypes(table, names.get(`${table.schema}.${table.name}`)!, labels));
  const all = [...names.values()].map((name) => `${name}Arguments`).join(' | ') || 'never';
  return [
    HEAD,
    `/** Of timestamp and timestamptz: ${numericTimestamps ? 'ISO 8601, or microseconds since 1970.' : 'ISO 8601.'} */`,
    `type Timestamp = ${numericTimestamps ? 'string | number' : 'string'};\n`,
    COMMON,
    ...parts,
    '/** Of any table. */',
    `type AnyArguments = ${all};\n`,
    FUNCTIONS,
    ...routeTypes(),
  ].join('\n');
}

const HEAD = `// Made by \`millrace types\`; do not edit. Everything in it is there in every function, without an import.
/* eslint-disable */
/* biome-ignore-all lint: generated */
`;

const COMMON = `/** A bigint beyond 2^53 - 1, where a number is not exact. */
type Int8 = number | bigint;
type Float = number | 'NaN' | 'Infinity' | '-Infinity';
interface Interval {
  months: number;
  days: number;
  microseconds: Int8;
}
// biome-ignore lint/suspicious/noExplicitAny: it holds what somebody wrote into it.
type Json = any;

interface Metadata<Schema extends string = string, Table extends string = string> {
  table_schema: Schema;
  table_name: Table;
  commit_timestamp: string;
  commit_lsn: number;
  commit_idx: number;
  idempotency_key: string;
  transaction_annotations: Json;
  record_pks: string[];
  /** Before the update, where it changed the primary key. */
  old_record_pks?: string[];
  /** Large values that the update left alone and that are not in the record. */
  unchanged_columns?: string[];
  enrichment: Json;
  database_name: string;
  database: { id: string; name: string; annotations: Json; database: string; hostname: string };
  consumer: { id: string; name: string; annotations: Json };
}

/** Several messages, or none, in place of one. */
interface Messages {
  readonly __messages: never;
}
declare function messages(values?: readonly unknown[]): Messages;
`;

const FUNCTIONS = `/**
 * To have an action say what record and changes are, take them as they come:
 * function filter(...[action, record, changes]: ProductsArguments)
 */
type Shape = readonly [action: string, record: unknown, changes: unknown, metadata: unknown];
type FunctionOf<Arguments extends Shape, Result> = (
  action: Arguments[0],
  record: Arguments[1],
  changes: Arguments[2],
  metadata: Arguments[3],
) => Result;
type FilterFunction<Arguments extends Shape = AnyArguments> = FunctionOf<Arguments, boolean>;
type TransformFunction<Arguments extends Shape = AnyArguments> = FunctionOf<Arguments, unknown>;
type RouteFunction<Arguments extends Shape = AnyArguments, Route = Record<string, unknown>> = FunctionOf<Arguments, Route>;
`;

function tableTypes(
  { schema, name, columns, primaryKey, replicaIdentity }: TypedTable,
  type: string,
  labels: EnumLabels,
) {
  const property = (column: TypedTable['columns'][number], nullable: boolean) =>
    `  ${propertyName(column.name)}: ${valueType(column.type, labels)}${nullable ? ' | null' : ''};`;
  const whole = columns.map((column) => property(column, !column.notNull));
  const full = replicaIdentity === 'f';
  const old = columns.map((column) => property(column, !column.notNull || !primaryKey.includes(column.name)));
  const metadata = `Metadata<${quoted(schema)}, ${quoted(name)}>`;
  const deleted = full ? `${type}Record` : `${type}Deleted`;
  return [
    `/** A row of ${schema}.${name}. */`,
    `interface ${type}Record {`,
    ...whole,
    '}',
    ...(full
      ? []
      : [
          `/** A row that was deleted: null but for the primary key. REPLICA IDENTITY FULL would bring the rest. */`,
          `interface ${type}Deleted {`,
          ...old,
          '}',
        ]),
    '/** The values before of columns that an update changed. */',
    `type ${type}Changes = Partial<${type}Record>;`,
    `type ${type}Arguments =`,
    `  | [action: 'insert', record: ${type}Record, changes: null, metadata: ${metadata}]`,
    `  | [action: 'update', record: ${type}Record, changes: ${type}Changes, metadata: ${metadata}]`,
    `  | [action: 'delete', record: ${deleted}, changes: null, metadata: ${metadata}]`,
    `  | [action: 'read', record: ${type}Record, changes: null, metadata: ${metadata}];`,
    `type ${type}Filter = FilterFunction<${type}Arguments>;`,
    `type ${type}Transform = TransformFunction<${type}Arguments>;`,
    `type ${type}Route<Route = Record<string, unknown>> = RouteFunction<${type}Arguments, Route>;`,
    '',
  ].join('\n');
}

/** The name of the type of what a routing function returns, by `sink_type`; undefined: nothing is known of it. */
export function routeTypeName(sinkType: string): string | undefined {
  const known = sinkType === 's2' || (sinkKind(sinkType)?.routing ?? null) !== null;
  return known ? `${pascal(sinkType)}SinkRoute` : undefined;
}

function routeTypes(): string[] {
  return [
    '/** S2 streams. */',
    `interface ${routeTypeName('s2')} {\n  basin?: string;\n  stream?: string;\n}\n`,
    ...routeSchemas().map(
      ({ type, title, schema }) => `/** ${title}. */\ntype ${routeTypeName(type)} = ${schemaType(schema)};\n`,
    ),
  ];
}

function schemaType(schema: JsonSchema): string {
  if (typeof schema === 'boolean') return 'unknown';
  if (schema.const !== undefined) return literal(schema.const);
  if (schema.enum !== undefined) return schema.enum.map(literal).join(' | ');
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices !== undefined) return choices.map(schemaType).join(' | ');
  switch (schema.type) {
    case 'string':
    case 'boolean':
    case 'null':
      return schema.type;
    case 'number':
    case 'integer':
      return 'number';
    case 'array':
      return `(${Array.isArray(schema.items) || schema.items === undefined ? 'unknown' : schemaType(schema.items)})[]`;
    case 'object': {
      const properties = Object.entries(schema.properties ?? {});
      if (properties.length === 0) {
        const { additionalProperties: rest } = schema;
        return `Record<string, ${rest === undefined ? 'unknown' : schemaType(rest)}>`;
      }
      return `{ ${properties.map(([name, one]) => `${propertyName(name)}?: ${schemaType(one)}`).join('; ')} }`;
    }
    default:
      return 'unknown';
  }
}

function literal(value: unknown): string {
  return typeof value === 'string' ? quoted(value) : JSON.stringify(value);
}
