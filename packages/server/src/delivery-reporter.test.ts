import { MillraceError, madeName } from '@millrace/core/error';
import { POSITION_ZERO, type Position } from '@millrace/core/position';
import { NoticeBoard } from '@millrace/engine/health/notice-board';
import { expect, test } from 'vitest';
import { deliveryReporter } from './delivery-reporter.ts';

test('what a routing function made of a row is in no line, and in no finding of health', () => {
  const lines: string[] = [];
  const notices = new NoticeBoard();
  const report = deliveryReporter((line) => lines.push(line), notices);
  const error = new MillraceError('sink_refused', {
    detail: `No queue takes routing key "${madeName('orders.Ada')}" of exchange "changes".`,
  });
  report('orders', { kind: 'dead_lettered', error, position: { lsn: 1n, ordinal: 0 }, table: 'public.orders' });
  expect(lines).toEqual([expect.stringContaining('of exchange "changes". (sink_refused)')]);
  const [finding] = notices.of({ sink: 'orders' });
  expect(finding?.text).toContain('"…" of exchange');
  expect(`${lines.join()} ${finding?.text}`).not.toContain('Ada');
});

test('a message is named by its position, and a row of a backfill, which has none, as that', () => {
  const lineOf = (position: Position) => {
    const lines: string[] = [];
    const error = new MillraceError('sink_refused');
    const report = deliveryReporter((line) => lines.push(line), new NoticeBoard());
    report('hook', { kind: 'dead_lettered', error, position, table: 'public.t' });
    return lines.join('\n');
  };
  expect(lineOf({ lsn: 0x16b3748n, ordinal: 2 })).toContain('of public.t at 0/16B3748#2 was given up');
  expect(lineOf(POSITION_ZERO)).toContain('of public.t of a backfill was given up');
});
