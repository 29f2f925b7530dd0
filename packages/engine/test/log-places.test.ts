import { ORDINAL_END } from '@millrace/core/position';
import { FLAG_STARTS_OPEN, readChunkHeader } from '@millrace/engine/change-log/chunk';
import { type LogPlace, positionOf } from '@millrace/engine/change-log/log-places';
import { LogReader } from '@millrace/engine/change-log/log-reader';
import { RecordCursor } from '@millrace/stream-store/record-cursor';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Captured, type CapturedTransaction, startCapturing } from './captured-log.ts';

let db: TestDatabase;
let captured: Captured;
let all: readonly CapturedTransaction[];

beforeAll(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
  captured = await startCapturing(db);
  await captured.capture.started;
  for (let i = 0; i < 12; i++) {
    await db.sql(`INSERT INTO t VALUES (${i}, 'v')`);
    // A transaction over several records of the log, in which no other begins.
    if (i === 5) await db.sql(`INSERT INTO t SELECT 100 + i, repeat('x', 1000) FROM generate_series(1, 3000) i`);
    await captured.arrived();
  }
  all = await captured.caughtUp();
}, 60_000);

afterAll(async () => {
  await captured.remove();
  await db.drop();
});

/** A microsecond is less than what a double tells apart exactly. */
const JUST = 0.0008;
const timeOf = ({ commitTimeMicros }: CapturedTransaction) => Number(commitTimeMicros) / 1000;

/** The first transaction that somebody who begins there is shown. */
async function firstFrom(place: LogPlace): Promise<number> {
  const { lsn, ordinal } = await positionOf(captured.log, place);
  expect(ordinal).toBe(lsn === 0n ? -1 : ORDINAL_END);
  const at = all.findIndex((transaction) => transaction.lsn > lsn);
  return at < 0 ? all.length : at;
}

/** The first place to begin to read that is inside a transaction. */
async function keyframeInside(): Promise<number> {
  const reader = new LogReader(captured.log, captured.log.stream.firstSeqNum);
  for (let chunk = await reader.next(); chunk !== null; chunk = await reader.next()) {
    const { keyframe, flags } = readChunkHeader(chunk.bytes, chunk.start, chunk.end);
    if (keyframe === 0 && (flags & FLAG_STARTS_OPEN) !== 0) return chunk.seq;
  }
  throw new Error('no transaction goes over a keyframe');
}

test('a time is the first transaction that committed then or later', async () => {
  expect(captured.log.durableSeq).toBeGreaterThan(10);
  for (const [i, transaction] of all.entries()) {
    expect(await firstFrom({ timeMs: timeOf(transaction) - JUST })).toBe(i);
    expect(await firstFrom({ timeMs: timeOf(transaction) + JUST })).toBe(i + 1);
  }
  expect(await firstFrom({ timeMs: timeOf(all[0]!) - 60_000 })).toBe(0);
  expect(await firstFrom({ timeMs: Date.now() + 3_600_000 })).toBe(all.length);
});

test('an LSN is the first transaction that committed there or later, the beginning is the first, now is after the last', async () => {
  for (const [i, { lsn }] of all.entries()) {
    expect(await firstFrom({ lsn })).toBe(i);
    expect(await firstFrom({ lsn: lsn + 1n })).toBe(i + 1);
  }
  expect(await firstFrom('beginning')).toBe(0);
  expect(await firstFrom('now')).toBe(all.length);
});

test('of a transaction larger than the bound of the log nothing is forgotten before as much has come after it', async () => {
  const [before, large] = [all[5]!, all[6]!];
  const { log } = captured;
  // It makes up most of the log, and its end has come as well.
  while (await log.trimToBytes(500_000));
  expect(await firstFrom({ lsn: before.lsn + 1n })).toBe(6);
  expect((await captured.transactions()).find(({ lsn }) => lsn === large.lsn)).toEqual(large);
});

test('what the log has forgotten a part of is refused by name', async () => {
  await captured.log.stream.trim(await keyframeInside());
  expect(captured.log.stream.firstSeqNum).toBeGreaterThan(0);
  const beginning = await positionOf(captured.log, 'beginning');
  expect(beginning.lsn).toBeGreaterThan(all[0]!.lsn);
  await expect(positionOf(captured.log, { lsn: all[0]!.lsn })).rejects.toMatchObject({ code: 'log_overrun' });
  const timeMs = timeOf(all[0]!);
  await expect(positionOf(captured.log, { timeMs })).rejects.toMatchObject({ code: 'log_overrun' });
  expect(await firstFrom({ timeMs: timeOf(all.at(-1)!) - JUST })).toBe(all.length - 1);
});

test('a transaction of which the log has only the end is no place to begin', async () => {
  // The one over several records; the others are small.
  const large = all[6];
  expect(captured.log.bytes).toBeGreaterThan(500_000);
  await expect(positionOf(captured.log, { lsn: large!.lsn })).rejects.toMatchObject({ code: 'log_overrun' });
  const timeMs = timeOf(large!) - JUST;
  await expect(positionOf(captured.log, { timeMs })).rejects.toMatchObject({ code: 'log_overrun' });
  expect(await firstFrom('beginning')).toBe(7);
  expect(await firstFrom({ lsn: large!.lsn + 1n })).toBe(7);
});

test('a log that is bound to less than lies between two keyframes still begins at one', async () => {
  const { log } = captured;
  await log.trimToBytes(1);
  const { records } = (await log.stream.read(log.stream.firstSeqNum, { countMax: 1, meteredBytesMax: 1 << 20 }))!;
  const cursor = new RecordCursor(records);
  expect(cursor.next()).toBe(true);
  expect(readChunkHeader(Buffer.from(records), cursor.bodyStart, cursor.bodyEnd).keyframe).toBe(0);
});
