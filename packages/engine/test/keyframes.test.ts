/** What the log repeats, so that reading can start in the middle: whatever there is of it, it fits, and costs little. */
import { rmSync } from 'node:fs';
import { comparePositions, ORDINAL_END, type Position } from '@millrace/core/position';
import { ChangeLog } from '@millrace/engine/change-log/change-log';
import { CHUNK_FRONT_BYTES, ChunkWriter, FLAG_STARTS_OPEN, readChunkHeader } from '@millrace/engine/change-log/chunk';
import { positionOf } from '@millrace/engine/change-log/log-places';
import { LogReader } from '@millrace/engine/change-log/log-reader';
import { LogWriter } from '@millrace/engine/change-log/log-writer';
import { ChangeScanner } from '@millrace/engine/decode/change-scanner';
import { decodeMessage } from '@millrace/postgres/pgoutput';
import { type LocalStore, openLocalStore } from '@millrace/stream-store/local-store';
import { testDirectory } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';

let dir: string;
let store: LocalStore;
let log: ChangeLog;
let writer: LogWriter;

beforeEach(async () => {
  dir = testDirectory('keyframes');
  store = await openLocalStore({ dir });
  log = await ChangeLog.open(await store.createLogStream('log'), store.state, 'log');
  writer = newWriter();
});
afterEach(async () => {
  await store.close();
  rmSync(dir, { recursive: true, force: true });
});

function newWriter(): LogWriter {
  const failed = (error: unknown) => {
    throw error;
  };
  return new LogWriter(log, { acknowledge() {}, pressure() {}, failed });
}

const say = (message: Buffer) => writer.message(message, 0, message.length);

async function written(lsn: bigint): Promise<void> {
  writer.burst();
  while (log.durableLsn < lsn) await log.changed(AbortSignal.timeout(10_000));
}

async function reopen(): Promise<void> {
  await writer.drained();
  log.close();
  await store.close();
  store = await openLocalStore({ dir });
  log = await ChangeLog.open(store.openLogStream('log')!, store.state, 'log');
  writer = newWriter();
}

function begin(lsn: bigint): Buffer {
  const bytes = Buffer.alloc(21);
  bytes[0] = 0x42;
  bytes.writeBigUInt64BE(lsn, 1);
  bytes.writeUInt32BE(7, 17);
  return bytes;
}

function commit(lsn: bigint): Buffer {
  const bytes = Buffer.alloc(26);
  bytes[0] = 0x43;
  bytes.writeBigUInt64BE(lsn, 2);
  bytes.writeBigUInt64BE(lsn + 10n, 10);
  return bytes;
}

function relation(oid: number, columns: number): Buffer {
  const head = Buffer.from(`R\0\0\0\0public\0table_of_tenant_${oid}\0d\0\0`, 'latin1');
  head.writeUInt32BE(oid, 1);
  head.writeUInt16BE(columns, head.length - 2);
  const column = (i: number) => Buffer.from(`\0customer_attribute_${i}\0\0\0\0\x19\xff\xff\xff\xff`, 'latin1');
  return Buffer.concat([head, ...Array.from({ length: columns }, (_, i) => column(i))]);
}

function row(oid: number, size: number): Buffer {
  const bytes = Buffer.alloc(12 + size, 0x61);
  bytes.write('I\0\0\0\0N\0\x01t', 0, 'latin1');
  bytes.writeUInt32BE(oid, 1);
  bytes.writeUInt32BE(size, 8);
  return bytes;
}

function logical(prefix: string, content: Buffer): Buffer {
  const bytes = Buffer.alloc(10 + prefix.length + 1 + 4);
  bytes.write(`M\x01\0\0\0\0\0\0\0\0${prefix}`, 0, 'latin1');
  bytes.writeUInt32BE(content.length, 11 + prefix.length);
  return Buffer.concat([bytes, content]);
}

const annotation = (size: number) => logical('sequin:transaction_annotations.set', Buffer.alloc(size, 0x78));

interface Read {
  readonly rows: string[];
  /** Announcements the reader was shown. */
  readonly relations: number;
}

/** Each row as `lsn:ordinal table annotation bytes`. */
async function read(after: Position): Promise<Read> {
  const rows: string[] = [];
  const tables = new Map<number, string>();
  let relations = 0;
  let lsn = 0n;
  let annotated = 0;
  const scanner = new ChangeScanner(
    log,
    {
      relation(bytes, start) {
        relations++;
        tables.set(bytes.readUInt32BE(start + 1), bytes.toString('latin1', start + 12, bytes.indexOf(0, start + 12)));
      },
      begin(at) {
        lsn = at;
        annotated = 0;
      },
      row(bytes, start, _end, ordinal) {
        rows.push(`${lsn}:${ordinal} ${tables.get(bytes.readUInt32BE(start + 1))} ${annotated}`);
        return true;
      },
      truncate: () => true,
      message(bytes, start, end) {
        const { contentStart, contentEnd } = decodeMessage(bytes, start, end);
        annotated = contentEnd - contentStart;
        return true;
      },
      commit() {},
    },
    after,
  );
  const reader = new LogReader(log, await log.seekAfter(after));
  for (let chunk = await reader.next(); chunk !== null; chunk = await reader.next()) {
    scanner.feed(chunk);
    expect(scanner.scan()).toBe('done');
  }
  return { rows, relations };
}

const START: Position = { lsn: 0n, ordinal: -1 };

/** Positions to go on from at each keyframe: of the last change before it. */
async function keyframes(): Promise<{ seq: number; after: Position; open: boolean }[]> {
  const found = [];
  const reader = new LogReader(log, log.stream.firstSeqNum);
  for (let chunk = await reader.next(); chunk !== null; chunk = await reader.next()) {
    const { bytes, start, end, seq } = chunk;
    const { keyframe, flags, ordinal, preambleStart, previousLsn } = readChunkHeader(bytes, start, end);
    if (keyframe !== 0) continue;
    const open = (flags & FLAG_STARTS_OPEN) !== 0;
    const openLsn = open ? bytes.readBigUInt64BE(preambleStart + 5) : 0n;
    const after = open ? { lsn: openLsn, ordinal: ordinal - 1 } : { lsn: previousLsn, ordinal: ORDINAL_END };
    found.push({ seq, after, open });
  }
  return found;
}

/** Reads on from every keyframe, with everything before it forgotten. How many of them were inside a transaction. */
async function checkFromEveryKeyframe(all: readonly string[]): Promise<number> {
  const positions = all.map((text): Position => {
    const [lsn, ordinal] = text.split(' ')[0]!.split(':');
    return { lsn: BigInt(lsn!), ordinal: Number(ordinal) };
  });
  let inside = 0;
  for (const { seq, after, open } of await keyframes()) {
    await log.stream.trim(seq);
    expect((await read(after)).rows).toEqual(all.filter((_, i) => comparePositions(positions[i]!, after) > 0));
    if (open) inside++;
  }
  return inside;
}

const TABLES = 1600;
const COLUMNS = 20;

test('a schema per tenant: tables whose announcements are more than a record can hold, over many transactions', async () => {
  const expected: string[] = [];
  let lsn = 0n;
  const transaction = (oid: number, size: number, announce: boolean) => {
    lsn += 100n;
    say(begin(lsn));
    if (announce) say(relation(oid, COLUMNS));
    say(row(oid, size));
    say(commit(lsn));
    expected.push(`${lsn}:0 table_of_tenant_${oid} 0`);
  };
  for (let i = 0; i < TABLES; i++) transaction(i, 100, true);
  await written(lsn);
  const announced = log.bytes;
  expect(announced).toBeGreaterThan(1_300_000);
  for (let i = 0; i < 20_000; i++) {
    transaction((i * 7) % TABLES, 1000, false);
    if (i % 1000 === 0) await written(lsn);
  }
  await written(lsn);
  const all = log.bytes - announced;
  const own = 20_000 * (1012 + 21 + 26 + 3 * 4);
  expect(all - own).toBeLessThan(own / 6);
  await reopen();
  expect((await read(START)).rows).toEqual(expected);
  const middle = await read({ lsn: 1_000_000n, ordinal: ORDINAL_END });
  expect(middle.rows).toEqual(expected.slice(10_000));
  await checkFromEveryKeyframe(expected);
}, 60_000);

test('tables that are written to no more cost nothing', async () => {
  let lsn = 0n;
  for (let i = 0; i < TABLES; i++) {
    lsn += 100n;
    for (const message of [begin(lsn), relation(i, COLUMNS), row(i, 10), commit(lsn)]) say(message);
  }
  await written(lsn);
  const before = log.bytes;
  for (let i = 0; i < 10_000; i++) {
    lsn += 100n;
    for (const message of [begin(lsn), row(0, 1000), commit(lsn)]) say(message);
    if (i % 1000 === 0) await written(lsn);
  }
  await written(lsn);
  expect(log.bytes - before).toBeLessThan(10_000 * (1012 + 21 + 26 + 3 * 4) * 1.01);
  const { rows, relations } = await read({ lsn: lsn - 100n, ordinal: ORDINAL_END });
  expect(rows).toEqual([`${lsn}:0 table_of_tenant_0 0`]);
  expect(relations).toBe(1);
});

test('as many tables in one transaction, with rows for twenty records', async () => {
  const lsn = 100n;
  const expected: string[] = [];
  const add = (oid: number, size: number) => {
    say(row(oid, size));
    expected.push(`${lsn}:${expected.length} table_of_tenant_${oid} 0`);
  };
  say(begin(lsn));
  for (let i = 0; i < TABLES; i++) {
    say(relation(i, COLUMNS));
    add(i, 10);
  }
  for (let i = 0; i < 20_000; i++) add(i % 10 === 0 ? (i / 10) % TABLES : 0, 1000);
  say(commit(lsn));
  say(begin(lsn + 100n));
  say(row(3, 10));
  say(commit(lsn + 100n));
  await written(lsn + 100n);
  expected.push(`${lsn + 100n}:0 table_of_tenant_3 0`);
  await reopen();
  const { rows, relations } = await read(START);
  expect(rows).toEqual(expected);
  // To whoever has read them before nothing is shown again.
  expect(relations).toBe(TABLES);
  expect((await read({ lsn, ordinal: 10_000 })).rows).toEqual(expected.slice(10_001));
  expect(await checkFromEveryKeyframe(expected)).toBeGreaterThan(0);
}, 60_000);

test('an annotation larger than a record, and rows that carry it', async () => {
  const lsn = 100n;
  const size = 1_100_000;
  const expected: string[] = [];
  say(begin(lsn));
  say(relation(1, 2));
  say(annotation(size));
  for (let i = 1; i <= 25_000; i++) {
    say(row(1, 1000));
    expected.push(`${lsn}:${i} table_of_tenant_1 ${size}`);
  }
  say(logical('sequin:transaction_annotations.unknown', Buffer.from('-')));
  say(commit(lsn));
  await written(lsn);
  // Repeated in front of each of the few keyframes, not in each record.
  expect(log.bytes).toBeLessThan((size + 25_000 * 1016) * 1.15);
  await reopen();
  expect((await read(START)).rows).toEqual(expected);
  expect((await read({ lsn, ordinal: 12_000 })).rows).toEqual(expected.slice(12_000));
  expect(await checkFromEveryKeyframe(expected)).toBeGreaterThan(0);
}, 60_000);

test('a log of the version before, whose keyframes have it all in front, is read and gone on with', async () => {
  const chunk = new ChunkWriter();
  const append = async (flags: number, committedLsn: bigint, previousLsn: bigint, keyframe: number) => {
    const offset = log.bytes;
    const endLsn = committedLsn === 0n ? 0n : committedLsn + 10n;
    const bytes = chunk.seal({ flags, committedLsn, endLsn, previousLsn, offset, keyframe, openedAt: log.nextSeq });
    bytes[CHUNK_FRONT_BYTES] = 1;
    await log.append(bytes, 100n, committedLsn, endLsn);
  };
  const preamble = (message: Buffer) => chunk.preamble(message, 0, message.length);
  const body = (message: Buffer) => chunk.message(message, 0, message.length);
  for (const message of [begin(100n), relation(1, 2), annotation(3), row(1, 5)]) body(message);
  await append(2, 0n, 0n, 0);
  chunk.startAt(2);
  for (const message of [begin(100n), annotation(3), relation(1, 2)]) preamble(message);
  for (const message of [row(1, 6), commit(100n)]) body(message);
  await append(1, 100n, 0n, 0);
  await reopen();
  for (const message of [begin(200n), relation(1, 2), row(1, 7), commit(200n)]) say(message);
  await written(200n);
  const expected = ['100:1 table_of_tenant_1 3', '100:2 table_of_tenant_1 3', '200:0 table_of_tenant_1 0'];
  expect((await read(START)).rows).toEqual(expected);
  await log.stream.trim(1);
  expect((await read({ lsn: 100n, ordinal: 1 })).rows).toEqual(expected.slice(1));
});

test('a log that begins inside a transaction which came again begins before that transaction', async () => {
  const lsn = 200n;
  say(begin(lsn));
  say(relation(1, 2));
  for (let i = 0; i < 8_000; i++) say(row(1, 1000));
  while ((await keyframes()).every(({ open }) => !open)) await log.changed(AbortSignal.timeout(10_000));
  await reopen();
  for (const message of [begin(lsn), relation(1, 2), row(1, 5), row(1, 6), commit(lsn)]) say(message);
  await written(lsn);
  await log.stream.trim((await keyframes()).find(({ open }) => open)!.seq);
  const all = ['200:0 table_of_tenant_1 0', '200:1 table_of_tenant_1 0'];
  expect((await read(START)).rows).toEqual(all);
  expect((await read(await positionOf(log, 'beginning'))).rows).toEqual(all);
  expect((await read(await positionOf(log, { lsn }))).rows).toEqual(all);
  expect((await read({ lsn, ordinal: 0 })).rows).toEqual(all.slice(1));
});

test('a transaction that breaks off after one that committed later in a history that is no more is left out, too', async () => {
  // The second is from another timeline, where the first never was.
  for (const lsn of [500n, 400n]) {
    say(begin(lsn));
    say(relation(1, 2));
    for (let i = 0; i < 3_000; i++) say(row(1, 1000));
    await log.changed(AbortSignal.timeout(10_000));
    await reopen();
  }
  for (const message of [begin(400n), relation(1, 2), row(1, 5), commit(400n)]) say(message);
  await written(400n);
  expect((await read(START)).rows).toEqual(['400:0 table_of_tenant_1 0']);
});

test('who is to begin before a transaction of which the log has forgotten a part is told so, not shown the rest', async () => {
  say(begin(100n));
  say(relation(1, 2));
  say(row(1, 1000));
  say(commit(100n));
  say(begin(200n));
  for (let i = 0; i < 12_000; i++) say(row(1, 1000));
  await log.changed(AbortSignal.timeout(10_000));
  const inside = async () => (await keyframes()).filter(({ open }) => open);
  while ((await inside()).length < 2) await log.changed(AbortSignal.timeout(10_000));
  const [, second] = await inside();
  await log.stream.trim(second!.seq);
  const before = { lsn: 100n, ordinal: ORDINAL_END };
  // Neither while it is open nor when it has committed.
  await expect(read(before)).rejects.toMatchObject({ code: 'log_overrun' });
  say(commit(200n));
  await written(200n);
  await expect(read(before)).rejects.toMatchObject({ code: 'log_overrun' });
  const { ordinal } = second!.after;
  await expect(read({ lsn: 200n, ordinal: ordinal - 1 })).rejects.toMatchObject({ code: 'log_overrun' });
  expect((await read({ lsn: 200n, ordinal })).rows).toHaveLength(11_999 - ordinal);
  expect((await read({ lsn: 200n, ordinal: ORDINAL_END })).rows).toEqual([]);
});
