import { expect, test } from 'vitest';
import { parseTimelineHistory } from './timeline.ts';

test('a history says where each timeline was left', () => {
  const text = '1\t0/3000148\tno recovery target specified\n\n2\t16/B374D848\tbefore 2026-01-01 00:00:00+00\n';
  expect(parseTimelineHistory(text)).toEqual([
    { timeline: 1, lsn: 0x3000148n },
    { timeline: 2, lsn: 0x16b374d848n },
  ]);
});

test('comments, blank lines and lines of another shape say nothing', () => {
  expect(parseTimelineHistory('# a comment\n1\t0/10 # why\n\nx\t0/20\n3\tnowhere\n')).toEqual([
    { timeline: 1, lsn: 0x10n },
  ]);
  expect(parseTimelineHistory('')).toEqual([]);
});
