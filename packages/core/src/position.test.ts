import { POSITION_ZERO, whereOf } from '@millrace/core/position';
import { expect, test } from 'vitest';

test('a position is told to people, and none where a row of a backfill has none', () => {
  expect(whereOf({ lsn: 0x16b3748n, ordinal: 0 })).toBe('at 0/16B3748#0');
  expect(whereOf(POSITION_ZERO)).toBe('of a backfill');
});
