import { copyFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { ORDINAL_END, type Position } from '@millrace/core/position';
import { MessageBatch } from '@millrace/sinks/message-batch';
import type { SinkCursor } from '@millrace/sinks/sink';
import { testDirectory } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { RowEncoder } from '../src/rows/row-encoder.ts';
import { type RowIndexSink, rowIndexSink } from '../src/rows/row-index-sink.ts';
import { RowLookup } from '../src/rows/row-lookup.ts';
import { insertMessage, relationMessage, tableSchema } from './row-messages.ts';

const TABLE = tableSchema([
  ['id', 23],
  ['a', 25],
]);
const START: Position = { lsn: 100n, ordinal: ORDINAL_END };
const END: Position = { lsn: 900n, ordinal: ORDINAL_END };
const { signal } = new AbortController();

let dir: string;
let file: string;
let sinks: RowIndexSink[];
beforeEach(() => {
  dir = testDirectory('row-index-sink');
  file = join(dir, 'rows.db');
  sinks = [];
});
afterEach(async () => {
  for (const sink of sinks) await sink.close();
  rmSync(dir, { recursive: true, force: true });
});

function open(holds: (position: Position) => boolean = () => true): RowIndexSink {
  const sink = rowIndexSink({ file, start: START, holds: async (position) => holds(position), end: () => END });
  sinks.push(sink);
  return sink;
}

/** Writes one row as the transaction `lsn`, and returns the cursor the deliverer then has. */
async function write(sink: RowIndexSink, id: string, lsn: bigint): Promise<SinkCursor> {
  const encoder = new RowEncoder({ schemas: { lookup: () => TABLE }, takes: () => true, keepsValues: () => false });
  const batch = new MessageBatch(sink.limits);
  encoder.batch = batch;
  const relation = relationMessage(TABLE);
  encoder.relation(relation, 0, relation.length);
  encoder.begin(lsn, 0n, 1);
  const message = insertMessage(TABLE.oid, [id, 'x']);
  expect(encoder.row(message, 0, message.length, 0)).toBe(true);
  batch.through = { lsn, ordinal: ORDINAL_END };
  const destination = await sink.write(batch, signal);
  return { position: batch.through, backfills: new Map([['b', []]]), destination };
}

function rows(): number | null {
  const lookup = new RowLookup(file);
  const count = lookup.table('public', 't')?.count() ?? null;
  lookup.close();
  return count;
}

test('after a restart it goes on where its file is, or where the deliverer passed without a write', async () => {
  const first = open();
  expect(await first.resume(null, signal)).toMatchObject({ position: START });
  const cursor = await write(first, '1', 200n);
  await write(first, '2', 300n);
  await first.close();
  // The cursor on record is a little behind the file.
  expect(await open().resume(cursor, signal)).toMatchObject({ position: { lsn: 300n }, backfills: cursor.backfills });
  const passed = { ...cursor, position: { lsn: 350n, ordinal: ORDINAL_END } };
  expect(await open().resume(passed, signal)).toMatchObject({ position: { lsn: 350n }, backfills: cursor.backfills });
  expect(rows()).toBe(2);
});

test.each([
  ['is gone', () => rmSync(file)],
  ['is no database', () => writeFileSync(file, 'x'.repeat(100_000))],
  [
    'is of another index',
    async () => {
      rmSync(file);
      await open().resume(null, signal);
    },
  ],
])('when its file %s it begins anew behind the cursor, with all tables to be read', async (_, spoil) => {
  const first = open();
  await first.resume(null, signal);
  const cursor = await write(first, '1', 200n);
  await first.close();
  await spoil();
  const again = open();
  const resumed = await again.resume(cursor, signal);
  expect(resumed).toMatchObject({ position: { lsn: 200n } });
  expect(resumed!.backfills.size).toBe(0);
  expect(rows()).toBeNull();
  await write(again, '5', 400n);
  expect(rows()).toBe(1);
});

test('a file put back from an older copy is found out', async () => {
  const first = open();
  await first.resume(null, signal);
  const before = await write(first, '1', 200n);
  await first.close();
  copyFileSync(file, `${file}.copy`);
  const second = open();
  expect(await second.resume(before, signal)).toMatchObject({ position: { lsn: 200n } });
  const cursor = await write(second, '2', 300n);
  await second.close();
  copyFileSync(`${file}.copy`, file);
  const resumed = await open().resume(cursor, signal);
  expect(resumed!.backfills.size).toBe(0);
  expect(rows()).toBeNull();
});

test('when the log no longer holds what comes next it begins anew at its end', async () => {
  const first = open();
  await first.resume(null, signal);
  const cursor = await write(first, '1', 200n);
  await first.close();
  const resumed = await open((position) => position.lsn >= 500n).resume(cursor, signal);
  expect(resumed).toMatchObject({ position: END });
  expect(resumed!.backfills.size).toBe(0);
  expect(rows()).toBeNull();
});

test('a batch that fails takes those sent behind it along', async () => {
  const sink = open();
  await sink.resume(null, signal);
  await write(sink, '1', 200n);
  const damaged = new MessageBatch(sink.limits);
  damaged.body.ascii('no operations');
  damaged.through = { lsn: 300n, ordinal: ORDINAL_END };
  const results = await Promise.allSettled([sink.write(damaged, signal), write(sink, '3', 400n)]);
  expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  expect(rows()).toBe(1);
});

test('a file that another process has locked is waited for: it is neither the end nor a reason to read anything again', async () => {
  const sink = open();
  await sink.resume(null, signal);
  const cursor = await write(sink, '1', 200n);
  const other = new DatabaseSync(file);
  other.exec('BEGIN IMMEDIATE');
  const began = performance.now();
  await expect(write(sink, '2', 300n)).rejects.toMatchObject({ code: 'row_index_locked', retry: 'backoff' });
  expect(performance.now() - began).toBeGreaterThan(4_000);
  other.exec('ROLLBACK');
  other.close();
  expect(await sink.resume(cursor, signal)).toMatchObject({ position: { lsn: 200n }, backfills: cursor.backfills });
  await write(sink, '2', 300n);
  expect(rows()).toBe(2);
}, 20_000);

test('whoever asks a file that another process keeps locked hears of the lock, not that nothing is known', async () => {
  const sink = open();
  await sink.resume(null, signal);
  await write(sink, '1', 200n);
  await sink.close();
  const other = new DatabaseSync(file);
  other.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE');
  const lookup = new RowLookup(file);
  const code = (question: () => unknown) => {
    try {
      return question();
    } catch (error) {
      return (error as { code?: string }).code;
    }
  };
  expect(code(() => lookup.table('public', 't'))).toBe('row_index_locked');
  expect(code(() => lookup.value(TABLE, '1', 'a', END))).toBe('row_index_locked');
  other.exec('ROLLBACK');
  other.close();
  expect(lookup.table('public', 't')?.count()).toBe(1);
  lookup.close();
}, 40_000);
