/** A database as the engine gets it, with every default filled in. */
import type { DatabaseFile, SSL_MODES } from './config-schema.ts';
import { readFailure } from './read-failure.ts';

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

export function resolveDatabase(
  database: DatabaseFile,
  readText: (path: string) => string,
  report: (key: string, text: string) => void,
): DatabaseConfig {
  const server = database.url == null ? separateKeys(database) : parseUrl(database.url, report);
  if (database.url != null && server.ssl !== undefined && database.ssl != null) {
    report('ssl', 'is said by sslmode in url already; give one or the other');
  }
  const sslRootCert = readRootCert(database.ssl_root_cert ?? undefined, readText, report);
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

/** The name of a file, or the text itself, which is what a configuration holds that has been applied. */
function readRootCert(
  given: string | undefined,
  readText: (path: string) => string,
  report: (key: string, text: string) => void,
): string | undefined {
  if (given === undefined || given.includes(CERTIFICATE)) return given;
  try {
    const text = readText(given);
    if (text.includes(CERTIFICATE)) return text;
    report('ssl_root_cert', 'is not a PEM file with a certificate');
  } catch (error) {
    report('ssl_root_cert', `cannot be read: ${readFailure(error)}`);
  }
  return undefined;
}

const CERTIFICATE = '-----BEGIN CERTIFICATE-----';

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
