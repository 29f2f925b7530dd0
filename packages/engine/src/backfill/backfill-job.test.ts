import { expect, test } from 'vitest';
import { type BackfillEvent, type BackfillState, nextState } from './backfill-job.ts';
import { formatMark, isDone, parseMark } from './backfill-mark.ts';
import { withoutOldest } from './backfill-store.ts';
import { RateMeter } from './backfill-view.ts';
import { ChunkSize, RateLimit } from './read-pacing.ts';
import { RowChunk } from './row-chunk.ts';

test('a backfill that has ended stays ended, but one that has failed can be tried again', () => {
  const after = (state: BackfillState, event: BackfillEvent) => nextState(state, event);
  expect(after('active', 'pause')).toBe('paused');
  expect(after('paused', 'resume')).toBe('active');
  expect(after('paused', 'cancel')).toBe('cancelled');
  expect(after('failed', 'resume')).toBe('active');
  expect(after('failed', 'pause')).toBe(null);
  for (const event of ['pause', 'resume', 'fail'] as const) {
    expect([after('completed', event), after('cancelled', event)]).toEqual([null, null]);
  }
});

test('a mark comes back as it was written, and a key of an earlier version is none', () => {
  const mark = { processed: 12, ingested: 11, oid: 4_000_000_000, scope: '16384', position: ['', 'a/b', '=7'] };
  expect(parseMark(formatMark(mark))).toEqual(mark);
  expect([parseMark(undefined), parseMark([]), parseMark(['17']), parseMark(['2', 'x'])]).toEqual([
    null,
    null,
    null,
    null,
  ]);
  expect([isDone([]), isDone(['1']), isDone(undefined)]).toEqual([true, false, false]);
});

test('of ended backfills the oldest are forgotten; initial ones never', () => {
  const job = (i: number, kind: 'initial' | 'ad_hoc', state: BackfillState) =>
    ({ id: String(i), kind, state, updatedAt: i }) as unknown as Parameters<typeof withoutOldest>[0][number];
  const jobs = [
    ...Array.from({ length: 300 }, (_, i) => job(i, 'ad_hoc', 'completed')),
    job(1000, 'initial', 'completed'),
    job(-1, 'ad_hoc', 'active'),
  ];
  const kept = withoutOldest(jobs).map(({ id }) => Number(id));
  expect(kept).toHaveLength(202);
  expect([kept[0], kept.includes(1000), kept.includes(-1)]).toEqual([100, true, true]);
});

test('a chunk grows while it is quick, up to the memory it may take, and shrinks when it is slow', () => {
  const chunk = new RowChunk();
  const row = Buffer.alloc(1000);
  for (let i = 0; i < 1000; i++) chunk.add(row, 0, row.length);
  const size = new ChunkSize(null);
  const first = size.pages;
  size.read(chunk, 10, 100);
  expect(size.pages).toBe(first * 2);
  for (let i = 0; i < 20; i++) size.read(chunk, 10, 100);
  expect(size.pages).toBeLessThan(500); // 4 MiB, at 10 KB a page.
  for (let i = 0; i < 20; i++) size.read(chunk, 1000, 100);
  expect(size.pages).toBe(1);
  const limited = new ChunkSize(50);
  for (let i = 0; i < 20; i++) limited.read(chunk, 1, null);
  expect(limited.rows).toBe(50);
});

test('a rate limit spreads what was taken over time', () => {
  const limit = new RateLimit(1000);
  expect(limit.waitMs(0)).toBe(0);
  limit.taken(500, 0);
  limit.taken(500, 100);
  expect(limit.waitMs(100)).toBe(900);
  expect(limit.waitMs(2000)).toBe(0);
  expect(new RateLimit(null).waitMs(0)).toBe(0);
});

test('the rate is that of the last seconds, not of all time', () => {
  const meter = new RateMeter();
  for (let ms = 0; ms <= 60_000; ms += 500) meter.add(ms, ms < 30_000 ? ms : 30_000 + (ms - 30_000) * 10);
  expect(meter.perSecond(60_000, 330_000)).toBe(10_000);
  expect(new RateMeter().perSecond(0, 0)).toBe(null);
});
