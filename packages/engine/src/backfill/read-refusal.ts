import { MillraceError } from '@millrace/core/error';
import { PgServerError } from '@millrace/postgres/server-error';

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
