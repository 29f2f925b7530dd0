import { NoticeBoard } from '@millrace/engine/health/notice-board';
import { expect, test } from 'vitest';
import { pinSourceNotice, unpinFailedRepair } from './pipeline-notices.ts';

test('a failed repair stands until changes stream again; one that has finished stays to be read', () => {
  const board = new NoticeBoard();
  pinSourceNotice(board, { kind: 'repair_started', text: 'it begins' });
  pinSourceNotice(board, { kind: 'repair_failed', text: 'no room' });
  expect(board.of('database')).toMatchObject([{ slug: 'repair', severity: 'error', text: 'no room' }]);
  unpinFailedRepair(board);
  expect(board.of('database')).toEqual([]);
  pinSourceNotice(board, { kind: 'repair_finished', text: 'three rows' });
  unpinFailedRepair(board);
  expect(board.of('database')).toMatchObject([{ slug: 'repair', severity: 'notice', text: 'three rows' }]);
});
