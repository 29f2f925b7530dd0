/** A sink as the engine gets it, with every default filled in. */
import { formatLsn, parseLsn } from '@millrace/core/lsn';
import { sinkKind } from '@millrace/sinks/sink-kinds';
import type { FunctionConfig, HttpEndpointConfig } from './config-functions.ts';
import { NO_FUNCTION } from './function-schema.ts';
import type {
  ACTIONS,
  COMPARISONS,
  LOAD_SHEDDING_POLICIES,
  OVERSIZE_POLICIES,
  S2DestinationFile,
  SinkFile,
  TIMESTAMP_FORMATS,
  UNCHANGED_TOAST_MODES,
} from './sink-schema.ts';

export interface TableName {
  readonly schema: string;
  readonly name: string;
}

/** Absent: no restriction. Of each pair at most one is there. */
export interface SourceConfig {
  readonly includeSchemas?: readonly string[];
  readonly excludeSchemas?: readonly string[];
  readonly includeTables?: readonly TableName[];
  readonly excludeTables?: readonly TableName[];
}

export type SinkAction = (typeof ACTIONS)[number];

/** What a sink's messages hold beyond changes of rows. */
export interface SinkContents {
  readonly logicalMessages: 'all' | readonly string[];
  readonly schemaChanges: boolean;
  readonly unchanged: (typeof UNCHANGED_TOAST_MODES)[number];
}

export const ROWS_ONLY: SinkContents = { logicalMessages: [], schemaChanges: false, unchanged: 'omit' };

/** One table of an `initial_backfill` that is a list. Without a sort column the whole of it. */
export interface InitialTableConfig {
  readonly table: TableName;
  readonly sortColumn?: string;
  readonly startPosition?: string;
}

export type Comparison = (typeof COMPARISONS)[number];
export type ComparedValue = string | number | boolean;

/** One of `where`. */
export type RowCondition =
  | {
      readonly column: string;
      readonly operator: Comparison;
      /** A list for `in` and `not in`; null for `is null` and `is not null`. */
      readonly value: ComparedValue | readonly ComparedValue[] | null;
    }
  /** Of updates only those that changed one of these columns; what is no update passes. */
  | { readonly changed: readonly string[] };

/** `columns`. Names are those of the table, before `rename`. */
export interface ColumnRules {
  /** null: all. */
  readonly include: readonly string[] | null;
  readonly exclude: readonly string[];
  readonly rename: Readonly<Record<string, string>>;
  readonly mask: readonly string[];
  readonly hash: readonly string[];
}

/** On top of those of the sink. */
export interface TableRules extends TableName {
  /** null: the primary key. */
  readonly groupColumns: readonly string[] | null;
  readonly where: readonly RowCondition[];
  readonly columns: ColumnRules;
}

/** What needs no code; the engine takes it as it is (engine/decode/row-rules-config.ts). */
export interface SinkRules {
  /** All must hold. */
  readonly where: readonly RowCondition[];
  readonly columns: ColumnRules;
  readonly timestampFormat: (typeof TIMESTAMP_FORMATS)[number];
  /** False: messages have no group. */
  readonly messageGrouping: boolean;
  readonly tables: readonly TableRules[];
  readonly pushDown: boolean;
  /** A secret, unless it is the name of the sink. */
  readonly hashKey: string;
}

/** null: none. */
export interface SinkFunctions {
  readonly filter: FunctionConfig | null;
  /** Of type transform or path. */
  readonly transform: FunctionConfig | null;
  readonly routing: FunctionConfig | null;
  readonly enrichment: FunctionConfig | null;
}

/** Of filter, transform and routing together. */
export interface FunctionLimits {
  /** Processor time of one message. */
  readonly callMs: number;
  /** One turn of the sink. */
  readonly batchMs: number;
  readonly memoryMb: number;
}

export interface SinkDelivery {
  /** Absent: the default of the kind. Never above what the kind takes. */
  readonly batchSize?: number;
  /** Absent: the default of the kind. */
  readonly batchTimeoutMs?: number;
  /** Request timeout; of a sink that is pulled from, the visibility timeout. */
  readonly ackWaitMs: number;
  readonly maxAckPending: number;
  /** null: for ever. */
  readonly maxRetryCount: number | null;
  readonly retry: { readonly minMs: number; readonly maxMs: number };
  /** A stream in the store of this process. */
  readonly deadLetter: { readonly basin: string; readonly stream: string };
  readonly oversize: { readonly policy: (typeof OVERSIZE_POLICIES)[number]; readonly columns: readonly string[] };
  readonly loadShedding: (typeof LOAD_SHEDDING_POLICIES)[number];
  /** Of a sink that is new. `lsn` as Postgres prints it, `time` in ISO 8601, UTC. */
  readonly start: 'now' | 'beginning' | { readonly lsn: string } | { readonly time: string };
}

export interface SinkConfig {
  readonly name: string;
  /** The name of one of the databases. */
  readonly database: string;
  readonly status: 'active' | 'paused' | 'disabled';
  readonly source: SourceConfig;
  readonly actions: readonly SinkAction[];
  readonly contents: SinkContents;
  readonly fillUnchanged: boolean;
  readonly initialBackfill: boolean | readonly InitialTableConfig[];
  readonly annotations: Readonly<Record<string, unknown>>;
  readonly functions: SinkFunctions;
  readonly functionLimits: FunctionLimits;
  readonly rules: SinkRules;
  readonly delivery: SinkDelivery;
  readonly destination: DestinationConfig;
  /** The entry of http_endpoints that the destination names; null: it names none. */
  readonly httpEndpoint: HttpEndpointConfig | null;
}

export type DestinationConfig = S2DestinationConfig | PushDestinationConfig;

/** Neither accessToken nor endpoint: the store in this process. Only accessToken: s2.dev. */
export interface S2DestinationConfig {
  readonly type: 's2';
  /** null: the routing function says it of each message. */
  readonly basin: string | null;
  readonly stream: string | null;
  readonly accessToken?: string;
  readonly endpoint?: string;
}

/** Of one of SINK_KINDS, parsed by its schema. */
export interface PushDestinationConfig {
  readonly type: string;
  readonly config: unknown;
}

export function isS2(destination: DestinationConfig): destination is S2DestinationConfig {
  return destination.type === 's2';
}

/** The reserved basin for messages that were given up. */
export const DEAD_LETTER_BASIN = 'dead-letters';

export function resolveSink(
  sink: SinkFile,
  functions: ReadonlyMap<string, FunctionConfig>,
  endpoints: readonly HttpEndpointConfig[],
): SinkConfig {
  const endpoint = (sink.destination as { readonly http_endpoint?: unknown }).http_endpoint;
  const named = (name: string | null | undefined) => (isFunctionName(name) ? (functions.get(name) ?? null) : null);
  return {
    name: sink.name,
    database: sink.database,
    status: sink.status ?? 'active',
    source: resolveSource(sink),
    actions: sink.actions == null ? ['insert', 'update', 'delete'] : [...new Set(sink.actions)],
    contents: {
      logicalMessages: prefixesOf(sink.logical_messages),
      schemaChanges: sink.schema_changes ?? false,
      unchanged: sink.unchanged_toast ?? 'omit',
    },
    fillUnchanged: sink.fill_unchanged ?? false,
    initialBackfill: resolveInitialBackfill(sink.initial_backfill ?? false),
    annotations: sink.annotations ?? {},
    functions: {
      filter: named(sink.filter),
      transform: named(sink.transform),
      routing: named(sink.routing),
      enrichment: named(sink.enrichment),
    },
    functionLimits: resolveFunctionLimits(sink.function_limits),
    rules: resolveRules(sink),
    delivery: resolveDelivery(sink),
    destination: resolveDestination(sink.destination),
    httpEndpoint: endpoints.find(({ name }) => name === endpoint) ?? null,
  };
}

/** Not `none` and what else says that there is no function. */
export function isFunctionName(name: unknown): name is string {
  return typeof name === 'string' && !NO_FUNCTION.includes(name);
}

function resolveDestination(destination: SinkFile['destination']): DestinationConfig {
  if (!isS2File(destination)) return { type: destination.type, config: destination };
  return {
    type: 's2',
    basin: destination.basin ?? null,
    stream: destination.stream ?? null,
    ...(destination.access_token == null ? {} : { accessToken: destination.access_token }),
    ...(destination.endpoint == null ? {} : { endpoint: destination.endpoint }),
  };
}

function isS2File(destination: SinkFile['destination']): destination is S2DestinationFile {
  return destination.type === 's2';
}

/** Those of a sink that says nothing are in force elsewhere, too: where a function is tried without one. */
export function resolveFunctionLimits(limits: SinkFile['function_limits']): FunctionLimits {
  return {
    callMs: limits?.call_ms ?? 1000,
    batchMs: limits?.batch_ms ?? 100,
    memoryMb: limits?.memory_mb ?? 64,
  };
}

function resolveRules(sink: SinkFile): SinkRules {
  return {
    where: [...resolveWhere(sink.where), ...resolveFilters(sink.filters)],
    columns: resolveColumns(sink.columns),
    timestampFormat: sink.timestamp_format ?? 'iso8601',
    messageGrouping: sink.message_grouping ?? true,
    tables: tablesOf(sink).map((table) => ({
      ...parseTableName(table.name),
      groupColumns: table.group_column_names ?? null,
      where: resolveWhere(table.where),
      columns: resolveColumns(table.columns),
    })),
    pushDown: sink.push_down ?? false,
    hashKey: sink.columns?.hash_key ?? sink.name,
  };
}

function resolveWhere(where: SinkFile['where']): RowCondition[] {
  return (where ?? []).map(({ column, operator, value, changed }) =>
    changed == null ? { column: column ?? '', operator: operator ?? '=', value: value ?? null } : { changed },
  );
}

/** An older file groups its one table at the sink. */
function tablesOf({ tables, table, source, group_column_names }: SinkFile): NonNullable<SinkFile['tables']> {
  const only = table ?? source?.include_tables?.[0];
  if (group_column_names == null || only == null) return tables ?? [];
  return [{ name: only, group_column_names }];
}

function resolveFilters(filters: SinkFile['filters']): RowCondition[] {
  return (filters ?? []).map(({ column_name, operator, comparison_value }) => ({
    column: column_name,
    operator,
    value: comparison_value ?? null,
  }));
}

function resolveColumns(columns: SinkFile['columns']): ColumnRules {
  return {
    include: columns?.include ?? null,
    exclude: columns?.exclude ?? [],
    rename: columns?.rename ?? {},
    mask: columns?.mask ?? [],
    hash: columns?.hash ?? [],
  };
}

function resolveDelivery(sink: SinkFile): SinkDelivery {
  const kind = sinkKind(sink.destination.type);
  // Sequin takes any number up to 1000 for every type, and sends what the destination takes.
  const batchSize = sink.batch_size == null ? null : Math.min(sink.batch_size, kind?.batchSize.max ?? 1000);
  const minMs = sink.retry?.min_ms ?? 1000;
  return {
    ...(batchSize === null ? {} : { batchSize }),
    ...(sink.batch_timeout_ms == null ? {} : { batchTimeoutMs: sink.batch_timeout_ms }),
    ackWaitMs: sink.ack_wait_ms ?? 30_000,
    maxAckPending: sink.max_ack_pending ?? 10_000,
    maxRetryCount: sink.max_retry_count ?? null,
    retry: { minMs, maxMs: sink.retry?.max_ms ?? Math.max(minMs, 600_000) },
    deadLetter: {
      basin: sink.dead_letter?.basin ?? DEAD_LETTER_BASIN,
      stream: sink.dead_letter?.stream ?? sink.name,
    },
    oversize: { policy: sink.oversize?.policy ?? 'fail', columns: sink.oversize?.columns ?? [] },
    loadShedding: sink.load_shedding_policy ?? 'pause_on_full',
    start: resolveStart(sink.start),
  };
}

function resolveStart(start: SinkFile['start']): SinkDelivery['start'] {
  if (start == null) return 'now';
  if (typeof start === 'string') return start;
  if ('lsn' in start) return { lsn: formatLsn(parseLsn(start.lsn) ?? 0n) };
  return { time: new Date(start.time).toISOString() };
}

function prefixesOf(given: SinkFile['logical_messages']): SinkContents['logicalMessages'] {
  if (given === true) return 'all';
  return given == null || given === false ? [] : [...new Set(given)];
}

function resolveInitialBackfill(initial: NonNullable<SinkFile['initial_backfill']>): SinkConfig['initialBackfill'] {
  if (typeof initial === 'boolean') return initial;
  return initial.map(({ table, sort_column, start_position }) => ({
    table: parseTableName(table),
    ...(sort_column == null ? {} : { sortColumn: sort_column }),
    ...(start_position == null ? {} : { startPosition: start_position }),
  }));
}

function resolveSource({ source, table, schema }: SinkFile): SourceConfig {
  const includeSchemas = source?.include_schemas ?? (schema == null ? undefined : [schema]);
  const includeTables = source?.include_tables ?? (table == null ? undefined : [table]);
  return {
    ...(includeSchemas === undefined ? {} : { includeSchemas }),
    ...(source?.exclude_schemas == null ? {} : { excludeSchemas: source.exclude_schemas }),
    ...(includeTables === undefined ? {} : { includeTables: includeTables.map(parseTableName) }),
    ...(source?.exclude_tables == null ? {} : { excludeTables: source.exclude_tables.map(parseTableName) }),
  };
}

/** `orders`, `sales.orders`, `"a.b"."c"`. A bare name is in the schema public. */
export function parseTableName(text: string): TableName {
  const parts = text.match(/"(?:[^"]|"")+"|[^".]+/g) ?? [];
  const [first = '', second] = parts.map((part) => part.replace(/^"(.*)"$/s, '$1').replaceAll('""', '"'));
  return second === undefined ? { schema: 'public', name: first } : { schema: first, name: second };
}
