import { expect, test } from 'vitest';
import { checkpointName, indexName, isPack, PACK_FILE_BASE, parseFileName, segmentName } from './file-names.ts';

test('every name says what it was made from', () => {
  for (const file of [1, 42, 9_999_999, PACK_FILE_BASE, PACK_FILE_BASE + 7, 0xffff_ffff]) {
    expect(parseFileName(segmentName(file))).toEqual({ kind: 'log', file });
    expect(parseFileName(indexName(file))).toEqual({ kind: 'index', file });
    expect(isPack(file)).toBe(segmentName(file).startsWith('p'));
  }
  const place = { segment: 42, offset: 1234 };
  expect(parseFileName(checkpointName(place))).toEqual({ kind: 'checkpoint', ...place });
  expect(parseFileName('checkpoint')).toEqual({ kind: 'legacy-checkpoint' });
  expect(parseFileName('p0000000007.log.tmp')).toEqual({ kind: 'temporary' });
});

test('names that are not ours stand for nothing', () => {
  for (const name of ['lock', 'p1.log', '0000000001.log.bak', 'p9999999999.log', '4294967296.log', 'checkpoint-1-2']) {
    expect(parseFileName(name)).toBeNull();
  }
});
