/** How many rows a backfill is to read: counted where that is quick, else the planner's guess. */
import type { PgConnection } from '@millrace/postgres/connection';
import { PgServerError } from '@millrace/postgres/server-error';
import type { ChunkQuery } from './chunk-query.ts';
import type { TablePlan } from './table-plan.ts';

export interface RowEstimate {
  readonly rows: number;
  readonly exact: boolean;
}

/** A guess below this is replaced by a count, unless that takes longer than the timeout. */
const COUNT_ROWS_MAX = 200_000;
const COUNT_TIMEOUT_MS = 1_000;

export async function estimateRows(
  connection: PgConnection,
  plan: TablePlan,
  queries: readonly ChunkQuery[],
): Promise<RowEstimate> {
  let rows = 0;
  for (const query of queries) rows += await inReadOnly(connection, plan, 0, () => guess(connection, query));
  if (rows > COUNT_ROWS_MAX) return { rows, exact: false };
  try {
    const sum = queries.map((query) => `(SELECT pg_catalog.count(*) FROM (${query.all()}) AS t)`).join(' + ');
    const counted = await inReadOnly(connection, plan, COUNT_TIMEOUT_MS, () =>
      connection.query(`SELECT ${sum || '0'}`),
    );
    return { rows: Number(counted.rows[0]?.[0] ?? 0), exact: true };
  } catch (error) {
    // 57014: the timeout.
    if (error instanceof PgServerError && error.sqlState === '57014') return { rows, exact: false };
    throw error;
  }
}

/** Also refuses a condition that is no SQL. */
async function guess(connection: PgConnection, query: ChunkQuery): Promise<number> {
  const { rows } = await connection.query(`EXPLAIN (FORMAT JSON) ${query.all()}`);
  const [explained] = JSON.parse(rows.map(([line]) => line).join('\n')) as [{ Plan: { 'Plan Rows': number } }];
  return explained.Plan['Plan Rows'];
}

async function inReadOnly<T>(
  connection: PgConnection,
  plan: TablePlan,
  timeoutMs: number,
  work: () => Promise<T>,
): Promise<T> {
  await connection.query(
    `BEGIN TRANSACTION READ ONLY; SET LOCAL search_path = ${plan.searchPath}; SET LOCAL statement_timeout = ${timeoutMs};
     SET LOCAL enable_seqscan = on`,
  );
  try {
    return await work();
  } finally {
    await connection.query('ROLLBACK');
  }
}
