/** What the auditor finds, as log lines and as findings of health: counts and names, never a key (I11). */
import type { DatabaseConfig } from '@millrace/api/config';
import type { NoticeBoard } from '@millrace/engine/health/notice-board';
import type { AuditConfig } from '@millrace/engine/pipeline-options';
import type { TableReport } from '@millrace/engine/rows/table-check';

export function auditOf(
  { name, audit }: DatabaseConfig,
  board: NoticeBoard,
  log: (line: string) => void,
): AuditConfig | null {
  if (audit === null) return null;
  const drifted = new Set<string>();
  return {
    ...audit,
    onTable(report) {
      const table = `${report.schema}.${report.name}`;
      const text = driftText(report);
      if (text === null) {
        if (report.skipped === null) board.takeDown('database', 'drift', table);
        if (report.skipped === null && drifted.delete(table))
          log(`${name}: audit: ${table} agrees with the source again`);
        return;
      }
      drifted.add(table);
      board.pin(
        'database',
        { slug: 'drift', severity: 'error', text, fix: `millrace verify ${table} --show-keys` },
        table,
      );
      log(`${name}: audit: ${text}`);
    },
    onFailure(error) {
      log(`${name}: audit: ${error.message} It goes on later. (${error.code})`);
    },
  };
}

/** null: none was found. */
export function driftText({ schema, name, missing, extra, different }: TableReport): string | null {
  if (missing + extra + different === 0) return null;
  const parts = [
    [missing, 'are missing from what was captured'],
    [different, 'were captured with other values'],
    [extra, 'were captured and are not in the table any more'],
  ] as const;
  const found = parts.filter(([count]) => count > 0).map(([count, what]) => `${count} ${what}`);
  return `${schema}.${name} has drifted: of its rows ${found.join(', ')}.`;
}
