import { MillraceError } from '@millrace/core/error';
import { PgServerError } from '@millrace/postgres/server-error';
import { TableChanged } from './table-reader.ts';

/** What Postgres said when it would not let a table be read, with what a person can do about it. */
export function explainRefusal(error: unknown): unknown {
  if (!(error instanceof PgServerError) || error.sqlState !== '42501') return error;
  return new MillraceError('pg_privilege', {
    detail: error.detail,
    hint:
      'A backfill reads every row that is published, so the user needs SELECT on the table, and BYPASSRLS where a policy ' +
      'hides rows. As a superuser:\n  GRANT SELECT ON <table> TO <user>;\n  ALTER ROLE <user> BYPASSRLS;',
    cause: error,
  });
}

/** Waits for a lock, or for memory; a session that an operator ended; a query that was cancelled too late. */
const TEMPORARY_STATES = new Set(['55P03', '40P01', '40001', '57014', '53200', '25P02']);

/** Passes by itself: a lost connection, a lock, a table that was just changed. */
export function isTemporary(error: unknown): boolean {
  if (error instanceof TableChanged) return true;
  if (!(error instanceof MillraceError)) return false;
  if (error instanceof PgServerError) {
    // Renamed, or a column less: the next plan says.
    if (['42P01', '42703', '3F000'].includes(error.sqlState)) return true;
    if (TEMPORARY_STATES.has(error.sqlState)) return true;
  }
  return error.retry === 'reconnect' || error.retry === 'backoff';
}
