/**
 * What Postgres says in an ErrorResponse, and which code of ours it is. The one place where SQLSTATEs are read.
 * Source: "PostgreSQL Error Codes" and "Error and Notice Message Fields" in the manual.
 */
import { type ErrorCode, type ErrorOptions, MillraceError } from '@millrace/core/error';

/** An error that the server reported. Callers branch on `code` or `sqlState`, never on the text. */
export class PgServerError extends MillraceError {
  readonly sqlState: string;
  /** ERROR leaves the session usable; FATAL and PANIC end it. */
  readonly fatal: boolean;

  constructor(code: ErrorCode, response: ErrorResponse, options: ErrorOptions = {}) {
    super(code, { ...options, detail: options.detail ?? describe(response) });
    this.sqlState = response.sqlState;
    this.fatal = response.severity !== 'ERROR';
  }
}

export interface ErrorResponse {
  /** Never translated: field V, which every supported server sends. */
  readonly severity: string;
  readonly sqlState: string;
  readonly message: string;
  /** Of the server's source code, without its folder: tells apart what shares an SQLSTATE. '': not said. */
  readonly file: string;
}

/** Reads the fields of an ErrorResponse or NoticeResponse. Detail, hint and context may quote row values: left out (I11). */
export function parseErrorResponse(buffer: Buffer, start: number, end: number): ErrorResponse {
  let severity = 'ERROR';
  let sqlState = 'XX000';
  let message = '';
  let file = '';
  let at = start;
  while (at < end && buffer[at] !== 0) {
    const field = buffer[at]!;
    const zero = buffer.indexOf(0, at + 1);
    const stop = zero < 0 || zero >= end ? end : zero;
    const text = buffer.toString('utf8', at + 1, stop);
    if (field === 0x56) severity = text;
    else if (field === 0x43) sqlState = text;
    else if (field === 0x4d) message = text;
    else if (field === 0x46) file = text;
    at = stop + 1;
  }
  return { severity, sqlState, message, file };
}

/** Where the server looks at the limits of a role and of a database; that of WAL senders is elsewhere. */
const LIMITS_OF_ONE: ReadonlySet<string> = new Set(['miscinit.c', 'postinit.c']);

/** An error during startup: before the session could run its first query. */
export function startupError(
  response: ErrorResponse,
  session: { user: string; database: string; address: string; replication: boolean; tls: boolean },
): PgServerError {
  const { user, database, address, replication } = session;
  switch (response.sqlState) {
    case '28P01':
      return new PgServerError('pg_auth_failed', response, {
        detail: `User "${user}" at ${address}.`,
        hint: `Check the password in the configuration, or set a new one as a superuser:\n  ALTER ROLE ${ident(user)} PASSWORD '...';`,
      });
    case '28000':
      return new PgServerError('pg_auth_failed', response, {
        hint:
          `The server has no rule that lets this user in from here. Check that the role exists and may log in:\n` +
          `  ALTER ROLE ${ident(user)} LOGIN;\n` +
          `and that pg_hba.conf has a line such as\n  ${session.tls ? 'hostssl' : 'host'} ${database} ${user} <this machine's address>/32 scram-sha-256\n` +
          `(reload with SELECT pg_reload_conf();). Some servers only have rules for TLS connections: see the ssl setting.`,
      });
    case '3D000':
      return new PgServerError('pg_database_missing', response, {
        detail: `"${database}" at ${address}.`,
        hint: `Check the database name, or create it:\n  CREATE DATABASE ${ident(database)};`,
      });
    case '53300':
      return replication && !LIMITS_OF_ONE.has(response.file)
        ? new PgServerError('pg_no_free_senders', response, {
            hint: 'Raise max_wal_senders and restart Postgres:\n  ALTER SYSTEM SET max_wal_senders = 20;\nWho uses them: SELECT pid, application_name FROM pg_stat_replication;',
          })
        : new PgServerError('pg_too_many_connections', response, {
            hint:
              'Close idle connections, or raise max_connections (needs a restart). Where it is a limit of the role or the database:\n' +
              `  ALTER ROLE ${ident(user)} CONNECTION LIMIT -1;\n  ALTER DATABASE ${ident(database)} CONNECTION LIMIT -1;\n` +
              'Who uses them: SELECT usename, application_name, count(*) FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 DESC;',
          });
    case '55000':
      return new PgServerError('pg_connection_lost', response, {
        hint: `Let it be connected to, in another database:\n  ALTER DATABASE ${ident(database)} ALLOW_CONNECTIONS true;`,
      });
    case '0A000':
      // MULE_INTERNAL, to which no conversion leads.
      return notUtf8(response, `The encoding of database "${database}" cannot be converted to UTF-8.`);
    case '22023':
      return new PgServerError('pg_setting_refused', response, {
        detail: `${response.message} (SQLSTATE 22023).`,
        hint:
          'The setting is as the first session with this source found it. If it is lc_monetary, install that locale on ' +
          'the server, as it was on the one before.',
      });
    case '42501':
      if (replication) return replicationDenied(response, user, database);
      return new PgServerError('pg_privilege', response, {
        hint: `Let the user connect:\n  GRANT CONNECT ON DATABASE ${ident(database)} TO ${ident(user)};`,
      });
    default:
      return queryError(response);
  }
}

/** One SQLSTATE for both rights a replication connection needs. */
function replicationDenied(response: ErrorResponse, user: string, database: string): PgServerError {
  return new PgServerError('pg_replication_denied', response, {
    hint:
      `As a superuser, or as the admin role of the provider:\n  ALTER ROLE ${ident(user)} REPLICATION;\n` +
      `(Amazon RDS and Aurora: GRANT rds_replication TO ${ident(user)};)\n` +
      `It also has to be let into the database:\n  GRANT CONNECT ON DATABASE ${ident(database)} TO ${ident(user)};`,
  });
}

/** An error in an established session. */
export function queryError(response: ErrorResponse): PgServerError {
  switch (response.sqlState) {
    case '57P03':
      return new PgServerError('pg_starting_up', response);
    case '57P01':
    case '57P02':
    case '57P04':
    case '57P05':
      return new PgServerError('pg_connection_lost', response);
    case '42501':
      return new PgServerError('pg_privilege', response);
    case '42P01':
      return new PgServerError('pg_table_missing', response);
    case '22021':
    case '22P05':
      return notUtf8(response, undefined);
    case '53300':
      return new PgServerError('pg_too_many_connections', response);
    default:
      if (response.sqlState.startsWith('08')) return new PgServerError('pg_connection_lost', response);
      return new PgServerError(response.severity === 'ERROR' ? 'pg_query_failed' : 'pg_connection_lost', response);
  }
}

/** Bytes that are no text in the database's encoding, or that UTF-8 has no character for. The server sends none of the row. */
function notUtf8(response: ErrorResponse, detail: string | undefined): PgServerError {
  return new PgServerError('pg_encoding', response, {
    detail,
    hint:
      'A database in SQL_ASCII takes any bytes, and some other encodings have bytes that stand for no character. Which ' +
      'rows have them:\n' +
      '  CREATE FUNCTION pg_temp.is_utf8(text) RETURNS boolean LANGUAGE plpgsql AS\n' +
      "  $$ BEGIN PERFORM convert_to($1, 'UTF8'); RETURN true; EXCEPTION WHEN OTHERS THEN RETURN false; END $$;\n" +
      '  SELECT ctid FROM <table> WHERE NOT pg_temp.is_utf8(<column>);\n' +
      'Correct them, or move the data to a database in UTF8. A change that holds such bytes stays in the WAL: to go on ' +
      'after it, drop the slot and start with an empty data directory and initial_backfill: true.',
  });
}

/** Classes 22 (data) and 23 (integrity) quote values in their texts (I11). */
function describe({ sqlState, message }: ErrorResponse): string {
  const quotesValues = sqlState.startsWith('22') || sqlState.startsWith('23');
  return quotesValues || message === '' ? `(SQLSTATE ${sqlState})` : `${message} (SQLSTATE ${sqlState})`;
}

function ident(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
