/** What the stages notice, as findings on the notice board of the database. */
import type { SourceNotice } from '@millrace/engine/capture/source-notice';
import type { ContentNotice } from '@millrace/engine/decode/message-contents';
import type { Finding } from '@millrace/engine/health/finding';
import type { NoticeBoard } from '@millrace/engine/health/notice-board';

export function pinSourceNotice(board: NoticeBoard, { kind, text }: SourceNotice): void {
  const about = REPAIR[kind];
  // A repair is one thing: its end takes the place of its beginning.
  if (about !== undefined) board.pin('database', { slug: 'repair', text, ...about });
  else if (kind === 'slot_unsound')
    board.pin('database', { slug: kind, severity: 'warning', text, fix: COMPARE_UNSOUND });
  else board.pin('database', { slug: kind, severity: 'notice', text });
}

/** A slot that is back, after a failback for instance, needs no repair any more; what a finished one did stays to be read. */
export function unpinFailedRepair(board: NoticeBoard): void {
  const failed = board.of('database').some(({ slug, severity }) => slug === 'repair' && severity === 'error');
  if (failed) board.takeDown('database', 'repair');
}

const REPAIR: Readonly<Partial<Record<SourceNotice['kind'], Pick<Finding, 'severity' | 'fix'>>>> = {
  repair_started: { severity: 'warning', fix: 'It goes on by itself.' },
  repair_finished: { severity: 'notice' },
  repair_failed: { severity: 'error', fix: 'See slot.on_loss in docs/postgres.md.' },
};

/** Of a slot that may show rows in the shape that their table had before. */
export const COMPARE_UNSOUND = 'millrace verify <sink> # and where it finds drift, a backfill of the table';

export function pinContentNotice(board: NoticeBoard, sink: string, { kind, table, text, hint }: ContentNotice): void {
  board.pin({ sink }, { slug: kind, severity: 'notice', text, fix: hint }, table ?? '');
}

/** What keeps the publication from being as the sinks ask stands until it is so. */
export function pushDownReporter(
  database: string,
  board: NoticeBoard,
  log: (line: string) => void,
): (finding: Finding | null) => void {
  let last = '';
  return (finding) => {
    if (finding === null) board.takeDown('database', 'push_down');
    else board.pin('database', finding);
    if (finding !== null && finding.text !== last)
      log(`${database}: ${finding.text} (${finding.code ?? finding.slug})`);
    last = finding?.text ?? '';
  };
}
