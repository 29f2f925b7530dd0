import { expect, test } from 'vitest';
import { MemoryFileSystem } from '../../test/memory-file-system.ts';
import { DEFAULT_STREAM_CONFIG } from '../model.ts';
import type { StreamNames } from '../stream-table/stream-names.ts';
import { StreamTable } from '../stream-table/stream-table.ts';
import { JournalIndex } from './journal-index.ts';

// The rows of the segment being written hang together by stream in the table of rows and in the stream's row, not in
// objects: streams that go, and others that get their places, must not be mixed up when the segment is sealed.

const JOURNAL = '00112233445566778899aabbccddeeff';

function rig(hydratedMax = 0) {
  const table = new StreamTable(hydratedMax);
  const names = table.addBasin('basin');
  const internal = table.addBasin('internal');
  const main = new JournalIndex(new MemoryFileSystem(), '/main', table, false);
  const log = new JournalIndex(new MemoryFileSystem(), '/log', table, true);
  main.open(JOURNAL, 1);
  log.open(JOURNAL, 1);
  return { table, names, internal, main, log };
}

function create(table: StreamTable, names: StreamNames, id: number, log = false): void {
  const config = DEFAULT_STREAM_CONFIG;
  const basin = names.basinName;
  table.create(names, {
    id,
    basin,
    name: `s${id}`,
    config,
    cipher: null,
    createdAt: 0,
    deletedAt: null,
    requestKey: null,
    log,
  });
}

/** One record at the tail; the stream is put back at once. */
function append(table: StreamTable, index: JournalIndex, id: number): void {
  const state = table.get(id)!;
  const seqNum = state.tailSeqNum;
  index.add(state, seqNum, 1, BigInt(seqNum), seqNum, 10, 100 + seqNum, 20);
  state.advance(seqNum + 1, BigInt(seqNum), seqNum);
  state.settle();
  table.parkIdle();
}

function seqNums(run: { length: number; row(i: number): number; table: { firstSeq: Float64Array } } | null): number[] {
  return run === null ? [] : Array.from({ length: run.length }, (_, i) => run.table.firstSeq[run.row(i)]!);
}

test('the rows of interleaved streams are found in order, before and after the segment is sealed', async () => {
  const { table, names, main } = rig();
  for (const id of [7, 3, 5]) create(table, names, id);
  for (let i = 0; i < 30; i++) append(table, main, [7, 3, 5, 3][i % 4]!);
  const expected = new Map([7, 3, 5].map((id) => [id, Array.from({ length: table.get(id)!.tailSeqNum }, (_, i) => i)]));
  // As an object that stays: what was found is kept, and completed by what comes.
  const held = table.get(3)!;
  expect(seqNums(main.runAtSync(held, 0))).toEqual(expected.get(3));
  held.pins++;
  append(table, main, 3);
  expected.get(3)!.push(held.tailSeqNum - 1);
  expect(seqNums(main.runAtSync(held, 0))).toEqual(expected.get(3));
  held.pins--;
  table.parkIdle();
  for (const [id, all] of expected) expect(seqNums(main.runAtSync(table.get(id)!, 0))).toEqual(all);
  main.seal(1, 1000, false);
  for (const [id, all] of expected) {
    const state = table.get(id)!;
    expect(state.segments).toEqual([1, 0, all.length - 1]);
    expect(state.activeLast).toBe(-1);
    expect(seqNums(await main.runAt(state, 0))).toEqual(all);
  }
});

test('a stream that was purged has no rows in the sealed segment, whoever got its place since', () => {
  const { table, names, internal, main, log } = rig();
  create(table, names, 1);
  create(table, names, 2);
  append(table, main, 1);
  append(table, main, 2);
  table.purge(1);
  // Gets the place of stream 1 and, in the other journal, a row of the same number.
  create(table, internal, 3, true);
  expect(table.slotOfId(3)).toBe(0);
  append(table, log, 3);
  main.seal(1, 1000, false);
  expect(table.segmentsOf(2)).toEqual([1, 0, 0]);
  expect(table.segmentsOf(3)).toEqual([]);
  log.seal(1, 1000, false);
  expect(table.segmentsOf(3)).toEqual([1, 0, 0]);
});

test('a purged stream whose place is free is not looked for when the segment is sealed', () => {
  const { table, names, main } = rig();
  create(table, names, 1);
  create(table, names, 2);
  append(table, main, 1);
  append(table, main, 2);
  table.purge(1);
  main.seal(1, 1000, false);
  expect(table.segmentsOf(2)).toEqual([1, 0, 0]);
});
