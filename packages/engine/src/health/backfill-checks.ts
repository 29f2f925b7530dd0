/** What health says of a sink's backfills. Pure. */
import { type Check, check, type Finding } from './finding.ts';

export interface BackfillLook {
  readonly table: { readonly schema: string; readonly name: string };
  readonly state: 'active' | 'paused' | 'cancelled' | 'completed' | 'failed';
  readonly error: { readonly code: string; readonly message: string; readonly hint?: string } | null;
  /** Why it does not get on, in words. */
  readonly waiting: string | null;
  readonly rowsProcessed: number;
  readonly rowsIngested: number;
}

/** No check where there never was a backfill. */
export function backfillChecks(sink: string, backfills: readonly BackfillLook[]): Check[] {
  if (backfills.length === 0) return [];
  const findings = backfills.flatMap((backfill): Finding[] => {
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
    if (backfill.state === 'active' && backfill.waiting !== null) {
      const text = `The backfill of ${table} waits: ${backfill.waiting}`;
      return [
        { slug: 'backfill_waiting', severity: 'warning', text, fix: 'It goes on by itself once the reason is gone.' },
      ];
    }
    return [];
  });
  return [check('backfill_fetch_batch', 'Backfills', findings)];
}
