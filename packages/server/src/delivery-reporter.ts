/** What deliveries must not do unnoticed: a line in the log, now and then one for many, and a notice that health shows. */
import { formatPosition, whereOf } from '@millrace/core/position';
import type { DeliveryNotice } from '@millrace/engine/deliver/push-options';
import type { NoticeBoard } from '@millrace/engine/health/notice-board';

/** Of one sink and one kind. */
const LINE_EVERY_MS = 10_000;

export function deliveryReporter(
  log: (line: string) => void,
  notices: NoticeBoard,
  now: () => number = () => performance.now(),
): (sink: string, notice: DeliveryNotice) => void {
  const said = new Map<string, { atMs: number; more: number }>();
  const totals = new Map<string, number>();

  return (sink, notice) => {
    pin(sink, notice);
    const key = `${notice.kind} ${sink}`;
    const before = said.get(key);
    if (before !== undefined && now() - before.atMs < LINE_EVERY_MS) {
      before.more++;
      return;
    }
    const more = before === undefined || before.more === 0 ? '' : ` And ${before.more} more since the last time.`;
    said.set(key, { atMs: now(), more: 0 });
    log(`${sink}: ${lineOf(notice)}${more}`);
  };

  function pin(sink: string, notice: DeliveryNotice): void {
    if (notice.kind === 'skipped') return;
    const messages = notice.kind === 'discarded' ? notice.messages : 1;
    const total = (totals.get(`${notice.kind} ${sink}`) ?? 0) + messages;
    totals.set(`${notice.kind} ${sink}`, total);
    const place = { sink };
    switch (notice.kind) {
      case 'discarded': {
        const text = `${total} messages were discarded, the last up to ${formatPosition(notice.through)}: the window was full.`;
        const fix = 'Backfill what the destination lacks, or set load_shedding_policy: pause_on_full.';
        notices.pin(place, { slug: 'load_shedding_policy_discarded', severity: 'warning', text, fix });
        break;
      }
      case 'dead_lettered': {
        const { code, logText } = notice.error;
        const text = `${total} messages were given up since the start, the last for this: ${logText}`;
        const fix = `millrace dead-letters list "${sink}"`;
        notices.pin(place, { slug: 'dead_letters', severity: 'warning', text, fix, code });
        break;
      }
      case 'truncated': {
        const text = `${total} messages were too large and left columns out, the last one of ${notice.table}: ${notice.columns.join(', ')}.`;
        notices.pin(place, { slug: 'messages_truncated', severity: 'notice', text });
        break;
      }
    }
  }
}

function lineOf(notice: DeliveryNotice): string {
  switch (notice.kind) {
    case 'discarded':
      return `${notice.messages} messages from ${formatPosition(notice.from)} to ${formatPosition(notice.through)} discarded: the window is full and nothing moves (discard_on_full).`;
    case 'dead_lettered':
      return `a message${of(notice.table)} ${whereOf(notice.position)} was given up: ${notice.error.logText} (${notice.error.code})`;
    case 'truncated':
      return `a message${of(notice.table)} ${whereOf(notice.position)} was too large and went without: ${notice.columns.join(', ')}`;
    case 'skipped':
      return `a message${of(notice.table)} ${whereOf(notice.position)} was skipped by an operator.`;
  }
}

function of(table: string): string {
  return table === '' ? '' : ` of ${table}`;
}
