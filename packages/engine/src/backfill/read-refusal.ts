import { MillraceError } from '@millrace/core/error';
import { PgServerError } from '@millrace/postgres/server-error';
import type { BackfillRange } from './backfill-job.ts';
import { TableChanged } from './table-reader.ts';

/** Something is not there: a table, a column, a schema. */
const UNDEFINED_STATES = new Set(['42P01', '42703', '3F000']);
/** Times in a row that it is not there. */
const UNDEFINED_TRIES = 4;

/** What Postgres said when it would not let a table be read, with what a person can do about it. */
export function explainRefusal(error: unknown, { where }: BackfillRange): unknown {
  if (!(error instanceof PgServerError)) return error;
  if (UNDEFINED_STATES.has(error.sqlState)) {
    return new MillraceError('backfill_invalid', {
      detail: error.detail,
      hint:
        where === undefined
          ? 'The table was renamed, altered or dropped each time it was about to be read. When it is there and stays as it is, resume it.'
          : 'The condition of the backfill (where) names something that is gone, or is called otherwise now. Cancel it and start another one.',
      cause: error,
    });
  }
  if (error.sqlState !== '42501') return error;
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

/** Passes by itself: a lost connection, a lock, a table that was just changed. `attempt`: 0 for the first. */
export function isTemporary(error: unknown, attempt: number): boolean {
  if (error instanceof TableChanged) return true;
  if (!(error instanceof MillraceError)) return false;
  if (error instanceof PgServerError) {
    // Renamed, or a column less: the next plan says. It cannot where the condition of the backfill is what names it.
    if (UNDEFINED_STATES.has(error.sqlState)) return attempt < UNDEFINED_TRIES;
    if (TEMPORARY_STATES.has(error.sqlState)) return true;
  }
  return error.retry === 'reconnect' || error.retry === 'backoff';
}
