import type { BackfillView } from './backfill-view.ts';

/** One line for the log, when a backfill has come to be or is in another state. */
export function describeBackfill({ table, state, kind, rowsProcessed, rowsIngested, error }: BackfillView): string {
  const what = `backfill of ${table.schema}.${table.name}${kind === 'partial' ? ' (a part)' : ''}`;
  switch (state) {
    case 'active':
      return `${what} begins`;
    case 'completed':
      return `${what} is complete: ${rowsProcessed} rows read, ${rowsIngested} delivered`;
    case 'failed':
      return `${what} failed: ${error?.message ?? ''}${error === null ? '' : ` (${error.code})`}`;
    case 'paused':
    case 'cancelled':
      return `${what} is ${state}, at ${rowsProcessed} rows`;
  }
}
