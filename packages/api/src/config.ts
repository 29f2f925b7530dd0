import { readFileSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { MillraceError } from '@millrace/core/error';
import type * as z from 'zod';
import { checkConfig, meant } from './config-checks.ts';
import { formatPath, type Path, type Problem, parseConfigDocument } from './config-document.ts';
import {
  type ACTIONS,
  type ConfigFile,
  configSchema,
  type DatabaseFile,
  type SinkFile,
  type SSL_MODES,
  type UNCHANGED_TOAST_MODES,
} from './config-schema.ts';
import { nearest } from './nearest.ts';

/** The configuration the engine works from, with every default filled in. Made only here, from the YAML file. */
export interface Config {
  readonly databases: readonly DatabaseConfig[];
  readonly sinks: readonly SinkConfig[];
}

export type SslMode = (typeof SSL_MODES)[number];

export interface DatabaseConfig {
  readonly name: string;
  /** Host name, address, or (starting with `/`) the directory of a Unix socket. */
  readonly hostname: string;
  readonly port: number;
  readonly database: string;
  readonly username: string;
  readonly password: string;
  /**
   * When the file says nothing: `verify-full`, except towards this machine (loopback or Unix socket), where it is
   * `disable`. Sequin's default is no TLS at all, and its TLS never verifies; a password should not cross a network
   * that way because somebody forgot a line.
   */
  readonly ssl: SslMode;
  /** PEM text, read from the file that `ssl_root_cert` names. Absent: the authorities Node trusts. */
  readonly sslRootCert?: string;
  readonly slot: {
    readonly name: string;
    readonly createIfNotExists: boolean;
    readonly onLoss: 'refuse' | 'repair';
    /** Absent: as the slot is. */
    readonly failover?: boolean;
  };
  readonly publication: { readonly name: string; readonly createIfNotExists: boolean; readonly initSql?: string };
  readonly poolSize: number;
  /** Large transactions are not taken before they commit. */
  readonly streaming?: false;
  /** WAL that is not captured yet; beyond it health says replication_lag_high. */
  readonly replicationLagHighBytes: number;
  /** Continuous comparison of the tables with what was captured. null: none. */
  readonly audit: { readonly rowsPerSecond: number; readonly pauseMs: number } | null;
  readonly backfill: {
    readonly connections: number;
    readonly rowsPerSecondMax: number | null;
    readonly activeSessionsMax: number | null;
    readonly replayLagMaxSeconds: number | null;
  };
  readonly annotations: Readonly<Record<string, unknown>>;
  /** How long to wait at start for a database that is not up yet. */
  readonly awaitDatabase: { readonly timeoutMs: number; readonly intervalMs: number };
  /** Of a standby: where what a standby cannot do is done. */
  readonly primary?: ServerConfig;
  /** Servers that may be promoted. */
  readonly standbys: readonly ServerConfig[];
}

/** Another server with the same database. */
export interface ServerConfig {
  readonly hostname: string;
  readonly port: number;
  readonly database: string;
  readonly username: string;
  readonly password: string;
  readonly ssl: SslMode;
}

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
  readonly batchSize?: number;
  readonly destination: S2DestinationConfig;
}

/** Neither accessToken nor endpoint: the store in this process. Only accessToken: s2.dev. */
export interface S2DestinationConfig {
  readonly type: 's2';
  readonly basin: string;
  readonly stream: string;
  readonly accessToken?: string;
  readonly endpoint?: string;
}

export interface LoadOptions {
  /** For messages, and what relative paths in the file are relative to. */
  readonly file: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** How to read a file the configuration names. Throws when it cannot be read. */
  readonly readText?: (path: string) => string;
}

export const CONFIG_BYTES_MAX = 4 * 1_048_576;

/** Throws config_unreadable, or what loadConfig throws. */
export async function readConfigFile(file: string, env: LoadOptions['env']): Promise<Config> {
  let text: string;
  try {
    const { size } = await stat(file);
    if (size > CONFIG_BYTES_MAX) {
      throw new MillraceError('config_unreadable', { detail: `${file} is larger than ${CONFIG_BYTES_MAX} bytes.` });
    }
    text = await readFile(file, 'utf8');
  } catch (cause) {
    if (cause instanceof MillraceError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    const reason = READ_FAILURES[code ?? ''] ?? `the system says ${code}`;
    throw new MillraceError('config_unreadable', { detail: `${file}: ${reason}.`, cause });
  }
  return loadConfig(text, { file, env });
}

const READ_FAILURES: Record<string, string> = {
  ENOENT: 'there is no such file',
  EACCES: 'this user may not read it',
  EISDIR: 'it is a directory',
};

/**
 * Parses a config file. Throws config_invalid whose detail lists every problem, one per line:
 * `file:line: path: what is wrong (did you mean "x"?)`. No value of the file is ever quoted there.
 */
export function loadConfig(text: string, options: LoadOptions): Config {
  const { file, env } = options;
  const document = parseConfigDocument(text, env);
  const problems: Problem[] = [...document.problems];
  const report = (path: Path, problem: string): void => {
    problems.push({ line: document.lineOf(path), path: formatPath(path), text: problem });
  };
  if (document.value === undefined) throw invalid(file, problems);
  if (document.value === null) report([], 'the file is empty');
  else {
    const parsed = configSchema.safeParse(document.value, { error: describe, reportInput: true });
    for (const issue of parsed.error?.issues ?? []) reportIssue(issue, report);
    checkConfig(document.value, document.lineOf, report);
    if (parsed.success && problems.length === 0) {
      const config = resolveConfig(parsed.data, options, report);
      if (problems.length === 0) return config;
    }
  }
  throw invalid(file, problems);
}

function invalid(file: string, problems: readonly Problem[]): MillraceError {
  const lines = [...problems]
    .sort((a, b) => a.line - b.line)
    .map(({ line, path, text }) => `${file}:${line}: ${path === '' ? '' : `${path}: `}${text}`);
  return new MillraceError('config_invalid', { detail: `\n${[...new Set(lines)].join('\n')}` });
}

/** For what the schema has no text of its own. */
function describe(issue: z.core.$ZodRawIssue): string | undefined {
  if (issue.input === undefined) return 'is required';
  if (issue.code !== 'invalid_type') return undefined;
  return issue.expected === 'object' ? 'must be a block of keys and values' : `must be of type ${issue.expected}`;
}

function reportIssue(issue: z.core.$ZodIssue, report: (path: Path, text: string) => void): void {
  const path = issue.path.map((part) => (typeof part === 'symbol' ? String(part) : part));
  if (issue.code !== 'unrecognized_keys') {
    report(path, issue.message);
    return;
  }
  // What stands in the block already is not what the mistyped key was meant to be.
  const present = Object.keys((issue.input ?? {}) as object);
  const free = validKeys(path).filter((key) => !present.includes(key));
  for (const key of issue.keys) {
    report([...path, key], `unknown key${meant(nearest(key, free))}`);
  }
}

/** The keys the schema has at a path of the value. */
function validKeys(path: Path): string[] {
  let schema: z.core.$ZodType = configSchema;
  for (const part of path) {
    const inner = unwrap(schema);
    if (inner._zod.def.type === 'array') schema = (inner as z.ZodArray).element;
    else if (inner._zod.def.type === 'object') schema = (inner as z.ZodObject).shape[part] ?? schema;
  }
  const block = unwrap(schema);
  return block._zod.def.type === 'object' ? Object.keys((block as z.ZodObject).shape) : [];
}

function unwrap(schema: z.core.$ZodType): z.core.$ZodType {
  let inner = schema;
  for (;;) {
    const { type } = inner._zod.def;
    if (type === 'optional' || type === 'nullable') inner = (inner as z.ZodOptional).unwrap();
    else if (type === 'union') inner = (inner as z.ZodUnion).options[0]!;
    else return inner;
  }
}

function resolveConfig(parsed: ConfigFile, options: LoadOptions, report: (path: Path, text: string) => void): Config {
  return {
    databases: (parsed.databases ?? []).map((database, index) =>
      resolveDatabase(database, options, (key, text) => report(['databases', index, key], text)),
    ),
    sinks: (parsed.sinks ?? []).map(resolveSink),
  };
}

function resolveDatabase(
  database: DatabaseFile,
  options: LoadOptions,
  report: (key: string, text: string) => void,
): DatabaseConfig {
  const server = database.url == null ? separateKeys(database) : parseUrl(database.url, report);
  if (database.url != null && server.ssl !== undefined && database.ssl != null) {
    report('ssl', 'is said by sslmode in url already; give one or the other');
  }
  const sslRootCert = readRootCert(database.ssl_root_cert ?? undefined, options, report);
  const { publication, await_database: awaited } = database;
  return {
    name: database.name,
    hostname: server.hostname,
    port: server.port,
    database: server.database,
    username: server.username,
    password: server.password,
    ssl: database.ssl ?? server.ssl ?? (isThisMachine(server.hostname) ? 'disable' : 'verify-full'),
    ...(sslRootCert === undefined ? {} : { sslRootCert }),
    slot: {
      name: database.slot?.name ?? database.slot_name ?? '',
      createIfNotExists: database.slot?.create_if_not_exists ?? false,
      onLoss: database.slot?.on_loss ?? 'refuse',
      ...(database.slot?.failover == null ? {} : { failover: database.slot.failover }),
    },
    publication: {
      name: publication?.name ?? database.publication_name ?? '',
      createIfNotExists: publication?.create_if_not_exists ?? false,
      ...(publication?.init_sql == null ? {} : { initSql: publication.init_sql }),
    },
    poolSize: database.pool_size ?? 10,
    ...(database.streaming === false && { streaming: false as const }),
    replicationLagHighBytes: (database.replication_lag_high_mb ?? 2_500) * 1_000_000,
    audit:
      database.audit?.enabled === true
        ? {
            rowsPerSecond: database.audit.rows_per_second ?? 1000,
            pauseMs: (database.audit.pause_minutes ?? 60) * 60_000,
          }
        : null,
    backfill: {
      connections: database.backfill?.connections ?? 2,
      rowsPerSecondMax: database.backfill?.rows_per_second ?? null,
      activeSessionsMax: database.backfill?.active_sessions_max ?? null,
      replayLagMaxSeconds: database.backfill?.replay_lag_max_seconds ?? null,
    },
    annotations: database.annotations ?? {},
    awaitDatabase: { timeoutMs: awaited?.timeout_ms ?? 30_000, intervalMs: awaited?.interval_ms ?? 3000 },
    ...(database.primary == null ? {} : { primary: otherServer(database.primary, server, database.ssl) }),
    standbys: (database.standbys ?? []).map((standby) => otherServer(standby, server, database.ssl)),
  };
}

/** `ssl` is what the database says; the default depends on the host, as it does there. */
function otherServer(
  other: NonNullable<DatabaseFile['primary']>,
  server: Server,
  ssl: SslMode | null | undefined,
): ServerConfig {
  return {
    hostname: other.hostname,
    port: other.port ?? 5432,
    database: other.database ?? server.database,
    username: other.username ?? server.username,
    password: other.password ?? server.password,
    ssl: other.ssl ?? ssl ?? server.ssl ?? (isThisMachine(other.hostname) ? 'disable' : 'verify-full'),
  };
}

function readRootCert(
  path: string | undefined,
  { file, readText = (name) => readFileSync(name, 'utf8') }: LoadOptions,
  report: (key: string, text: string) => void,
): string | undefined {
  if (path === undefined) return undefined;
  try {
    const text = readText(resolve(dirname(file), path));
    if (text.includes('-----BEGIN CERTIFICATE-----')) return text;
    report('ssl_root_cert', 'is not a PEM file with a certificate');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    report('ssl_root_cert', `cannot be read: ${READ_FAILURES[code ?? ''] ?? `the system says ${code}`}`);
  }
  return undefined;
}

interface Server {
  readonly hostname: string;
  readonly port: number;
  readonly database: string;
  readonly username: string;
  readonly password: string;
  readonly ssl?: SslMode | undefined;
}

function separateKeys(database: DatabaseFile): Server {
  return {
    hostname: database.hostname ?? '',
    port: database.port ?? 5432,
    database: database.database ?? '',
    username: database.username ?? 'postgres',
    password: database.password ?? 'postgres',
  };
}

const NO_SERVER: Server = { hostname: '', port: 0, database: '', username: '', password: '' };

function parseUrl(text: string, report: (key: string, text: string) => void): Server {
  const url = URL.parse(text);
  if (url === null || !/^postgres(ql)?:$/.test(url.protocol)) {
    report('url', 'must be postgres://user:password@host:port/database; %-encode special characters in the password');
    return NO_SERVER;
  }
  for (const key of url.searchParams.keys()) {
    if (key !== 'sslmode') report('url', 'the only parameter a url takes here is sslmode');
  }
  const mode = url.searchParams.get('sslmode');
  const ssl = configSslMode(mode);
  if (mode !== null && ssl === undefined) report('url', 'sslmode must be one of those that ssl takes');
  const [username, password, database] = [url.username, url.password, url.pathname.slice(1)].map(decoded);
  if (username === undefined || password === undefined || database === undefined) {
    report('url', 'a "%" in it is not followed by two hexadecimal digits; write %25 for a literal "%"');
    return NO_SERVER;
  }
  if (url.hostname === '') report('url', 'has no host name');
  if (database === '') report('url', 'has no database name');
  return {
    hostname: url.hostname.replace(/^\[(.*)\]$/, '$1'),
    port: url.port === '' ? 5432 : Number(url.port),
    database,
    username: username === '' ? 'postgres' : username,
    password: url.password === '' ? 'postgres' : password,
    ssl,
  };
}

function configSslMode(mode: string | null): SslMode | undefined {
  const modes: readonly SslMode[] = ['disable', 'prefer', 'require', 'verify-ca', 'verify-full'];
  return modes.find((known) => known === mode);
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

export function isThisMachine(hostname: string): boolean {
  return hostname.startsWith('/') || /^(?:localhost|127(?:\.\d{1,3}){3}|::1)$/i.test(hostname);
}

function resolveSink(sink: SinkFile): SinkConfig {
  const { destination } = sink;
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
    ...(sink.batch_size == null ? {} : { batchSize: sink.batch_size }),
    destination: {
      type: 's2',
      basin: destination.basin,
      stream: destination.stream,
      ...(destination.access_token == null ? {} : { accessToken: destination.access_token }),
      ...(destination.endpoint == null ? {} : { endpoint: destination.endpoint }),
    },
  };
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
