/** What health says of a sink's backfills. Pure. */
import { type Check, check, type Finding } from './finding.ts';
import { listed } from './table-findings.ts';

export interface BackfillLook {
  readonly table: { readonly schema: string; readonly name: string };
  readonly state: 'active' | 'paused' | 'cancelled' | 'completed' | 'failed';
  readonly error: { readonly code: string; readonly message: string; readonly hint?: string } | null;
  /** Why it does not get on, in words. */
  readonly waiting: string | null;
  readonly rowsProcessed: number;
  readonly rowsIngested: number;
}

/** Of the database: tables whose first fill of the row index failed. No check where there is none. */
export function rowIndexChecks(failed: readonly BackfillLook[]): Check[] {
  if (failed.length === 0) return [];
  const findings = failed.map(({ table, error }): Finding => {
    const text = `The row index does not hold ${table.schema}.${table.name}: ${error?.message ?? 'it could not be read.'} Its values are not filled in, and it is not verified.`;
    const fix = `${error?.hint ?? '-- mend the cause'}\n-- then restart: the fill is tried again`;
    return { slug: 'row_index_not_filled', severity: 'error', text, fix, code: error?.code };
  });
  return [check('row_index', 'Row index', findings)];
}

/** No check where there never was a backfill. */
export function backfillChecks(sink: string, backfills: readonly BackfillLook[]): Check[] {
  if (backfills.length === 0) return [];
  const findings = backfills.flatMap((backfill): Finding[] => {
    if (backfill.state === 'completed' || backfill.state === 'cancelled') return [];
    const table = `${backfill.table.schema}.${backfill.table.name}`;
    if (backfill.state === 'failed') {
      const { code, message, hint } = backfill.error ?? { code: undefined, message: 'It failed.', hint: undefined };
      const fix = hint ?? `-- mend the cause, then see: millrace backfill --help`;
      return [
        { slug: 'backfill_failed', severity: 'error', text: `The backfill of ${table} failed: ${message}`, fix, code },
      ];
    }
    if (backfill.state === 'paused') {
      const text = `The backfill of ${table} is paused, after ${backfill.rowsProcessed} rows.`;
      return [
        { slug: 'backfill_paused', severity: 'notice', text, fix: `millrace backfill --help # resume one of ${sink}` },
      ];
    }
    return [];
  });
  return [check('backfill_fetch_batch', 'Backfills', [...findings, ...waitingFindings(backfills)])];
}

/** One for all that wait for the same: an initial backfill can be of ten thousand tables. */
function waitingFindings(backfills: readonly BackfillLook[]): Finding[] {
  const reasons = new Map<string, BackfillLook['table'][]>();
  for (const { state, waiting, table } of backfills) {
    if (state !== 'active' || waiting === null) continue;
    const tables = reasons.get(waiting);
    if (tables === undefined) reasons.set(waiting, [table]);
    else tables.push(table);
  }
  return [...reasons].map(([reason, tables]): Finding => {
    const names = listed(tables.map(({ schema, name }) => [schema, name] as const));
    const text = `The ${tables.length === 1 ? `backfill of ${names} waits` : `backfills of ${names} wait`}: ${reason}`;
    return {
      slug: 'backfill_waiting',
      severity: 'warning',
      text,
      fix: 'It goes on by itself once the reason is gone.',
    };
  });
}
