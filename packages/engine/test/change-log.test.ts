/**
 * The change log against a model: whatever the sizes, wherever connections break and processes end, a reader that starts
 * after any position is shown every later change once and in order, and nothing else.
 */
import { rmSync } from 'node:fs';
import { comparePositions, ORDINAL_END, type Position } from '@millrace/core/position';
import { ChangeLog } from '@millrace/engine/change-log/change-log';
import { FLAG_STARTS_OPEN, readChunkHeader } from '@millrace/engine/change-log/chunk';
import { LogReader } from '@millrace/engine/change-log/log-reader';
import { LogWriter } from '@millrace/engine/change-log/log-writer';
import { ChangeScanner, type ChangeVisitor } from '@millrace/engine/decode/change-scanner';
import { decodeMessage } from '@millrace/postgres/pgoutput';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { testDirectory } from '@millrace/testkit/postgres';
import fc from 'fast-check';
import { expect, test } from 'vitest';

interface Transaction {
  readonly lsn: bigint;
  readonly end: bigint;
  /** Size of each row's payload; -1 stands for a truncate, -2 and -3 for annotations, small and larger than a record. */
  readonly rows: readonly number[];
}

interface Shown {
  readonly position: Position;
  readonly size: number;
  /** By which announcement of its table it was read. */
  readonly shape: number | undefined;
  /** The ordinal of the annotation in force. */
  readonly annotation: number | undefined;
}

const TABLES = 5;
const TRUNCATE = -1;
const ANNOTATION = -2;
const LARGE_ANNOTATION = -3;

function begin(lsn: bigint): Buffer {
  const bytes = Buffer.alloc(21);
  bytes[0] = 0x42;
  bytes.writeBigUInt64BE(lsn, 1);
  bytes.writeUInt32BE(Number(lsn & 0xffffn), 17);
  return bytes;
}

function commit({ lsn, end }: Transaction): Buffer {
  const bytes = Buffer.alloc(26);
  bytes[0] = 0x43;
  bytes.writeBigUInt64BE(lsn, 2);
  bytes.writeBigUInt64BE(end, 10);
  return bytes;
}

const tableOf = (size: number) => 77 + (Math.max(0, size) % TABLES);
/** Tables are altered every few transactions. */
const shapeOf = (transaction: Transaction) => Math.floor(Number(transaction.lsn) / 4_000);

/** With names so long that the RELATIONs of all tables are as much as a third of a record. */
function relation(oid: number, shape: number): Buffer {
  const bytes = Buffer.from(
    `R\0\0\0\0public\0${shape} ${'t'.repeat(60_000)}\0d\0\x01\x01v\0\0\0\0\0\0\0\0\0`,
    'latin1',
  );
  bytes.writeUInt32BE(oid, 1);
  return bytes;
}

function shapeIn(bytes: Buffer, start: number, end: number): number {
  return Number.parseInt(bytes.toString('latin1', start + 12, Math.min(end, start + 20)), 10);
}

function annotation(ordinal: number, size: number): Buffer {
  const prefix = 'sequin:transaction_annotations.set\0';
  const bytes = Buffer.alloc(10 + prefix.length + 4 + size, 0x20);
  bytes.write(`M\x01\0\0\0\0\0\0\0\0${prefix}`, 0, 'latin1');
  bytes.writeUInt32BE(size, 10 + prefix.length);
  bytes.write(String(ordinal), 14 + prefix.length, 'latin1');
  return bytes;
}

function change(size: number, ordinal: number): Buffer {
  if (size === ANNOTATION) return annotation(ordinal, 8);
  if (size === LARGE_ANNOTATION) return annotation(ordinal, 1_100_000);
  const oid = tableOf(size);
  if (size === TRUNCATE) {
    const bytes = Buffer.from('T\0\0\0\x01\0\0\0\0\0', 'latin1');
    bytes.writeUInt32BE(oid, 6);
    return bytes;
  }
  const bytes = Buffer.alloc(12 + size, size & 0xff);
  bytes.write('I\0\0\0\0N\0\x01t', 0, 'latin1');
  bytes.writeUInt32BE(oid, 1);
  bytes.writeUInt32BE(size, 8);
  return bytes;
}

/** What the server sends from `start` on, over one connection. */
function* session(transactions: readonly Transaction[], start: bigint): Generator<Buffer> {
  const announced = new Map<number, number>();
  for (const transaction of transactions) {
    if (transaction.end <= start) continue;
    yield begin(transaction.lsn);
    for (const [ordinal, size] of transaction.rows.entries()) {
      const shape = shapeOf(transaction);
      if (size >= TRUNCATE && announced.get(tableOf(size)) !== shape) {
        announced.set(tableOf(size), shape);
        yield relation(tableOf(size), shape);
      }
      yield change(size, ordinal);
    }
    yield commit(transaction);
  }
}

/** What a reader is shown of them. */
function shownOf(transaction: Transaction): Shown[] {
  const { lsn, rows: sizes } = transaction;
  let annotation: number | undefined;
  return sizes.flatMap((size, ordinal): Shown[] => {
    if (size < TRUNCATE) annotation = ordinal;
    return size < TRUNCATE ? [] : [{ position: { lsn, ordinal }, size, shape: shapeOf(transaction), annotation }];
  });
}

async function scan(log: ChangeLog, after: Position): Promise<Shown[]> {
  const shown: Shown[] = [];
  let lsn = 0n;
  let annotated: number | undefined;
  const shapes = new Map<number, number>();
  const show = (size: number, oid: number, ordinal: number) => {
    shown.push({ position: { lsn, ordinal }, size, shape: shapes.get(oid), annotation: annotated });
  };
  const visitor: ChangeVisitor = {
    relation(bytes, start, end) {
      shapes.set(bytes.readUInt32BE(start + 1), shapeIn(bytes, start, end));
    },
    begin(at) {
      lsn = at;
      annotated = undefined;
    },
    row(bytes, start, end, ordinal) {
      expect(bytes[start]).toBe(0x49);
      show(end - start - 12, bytes.readUInt32BE(start + 1), ordinal);
      return true;
    },
    truncate(bytes, start, _end, ordinal) {
      show(TRUNCATE, bytes.readUInt32BE(start + 6), ordinal);
      return true;
    },
    message(bytes, start, end) {
      const { contentStart, contentEnd } = decodeMessage(bytes, start, end);
      annotated = Number(bytes.toString('latin1', contentStart, contentEnd));
      return true;
    },
    commit() {},
  };
  const scanner = new ChangeScanner(log, visitor, after);
  const reader = new LogReader(log, await log.seekAfter(after));
  for (let chunk = await reader.next(); chunk !== null; chunk = await reader.next()) {
    scanner.feed(chunk);
    expect(scanner.scan()).toBe('done');
  }
  return shown;
}

interface Keyframe {
  readonly seq: number;
  /** Of the last change before it. */
  readonly after: Position;
}

async function keyframesOf(log: ChangeLog): Promise<Keyframe[]> {
  const found: Keyframe[] = [];
  const reader = new LogReader(log, log.stream.firstSeqNum);
  for (let chunk = await reader.next(); chunk !== null; chunk = await reader.next()) {
    const { bytes, start, end, seq } = chunk;
    const header = readChunkHeader(bytes, start, end);
    if (header.keyframe !== 0) continue;
    const open = (header.flags & FLAG_STARTS_OPEN) !== 0;
    const after = open
      ? { lsn: bytes.readBigUInt64BE(header.preambleStart + 5), ordinal: header.ordinal - 1 }
      : { lsn: header.previousLsn, ordinal: ORDINAL_END };
    found.push({ seq, after });
  }
  return found;
}

const sizes = fc.oneof(
  { weight: 20, arbitrary: fc.nat(300) },
  { weight: 6, arbitrary: fc.nat(400_000) },
  { weight: 1, arbitrary: fc.integer({ min: 990_000, max: 2_600_000 }) },
  { weight: 3, arbitrary: fc.constantFrom(TRUNCATE, ANNOTATION, ANNOTATION, LARGE_ANNOTATION) },
);
const rows = fc.oneof({ weight: 5, arbitrary: fc.array(sizes, { maxLength: 6 }) }, fc.array(sizes, { maxLength: 25 }));

/** How a connection ends: after so many messages; whether the process ends with it. */
const breaks = fc.array(
  fc.record({ after: fc.nat(60), restart: fc.boolean(), burstEvery: fc.integer({ min: 1, max: 9 }) }),
  {
    maxLength: 6,
  },
);

test('a reader after any position is shown what follows, once, whatever broke on the way', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(rows, { minLength: 1, maxLength: 14 }), breaks, fc.gen(), async (list, cuts, pick) => {
      const transactions = list.map((sizes, i): Transaction => {
        const lsn = BigInt(i + 1) * 1000n;
        return { lsn, end: lsn + 60n, rows: sizes };
      });
      const dir = testDirectory('change-log');
      const early: bigint[] = [];
      let store = await openLocalStore({ dir });
      let log = await ChangeLog.open(await store.createLogStream('log'), store.state, 'log');
      try {
        for (const cut of [...cuts, { after: Number.POSITIVE_INFINITY, restart: true, burstEvery: 3 }]) {
          const writer = new LogWriter(log, {
            acknowledge(lsn) {
              if (lsn > log.endLsn) early.push(lsn);
            },
            pressure() {},
            failed(error) {
              throw error;
            },
          });
          let sent = 0;
          for (const message of session(transactions, log.endLsn)) {
            if (sent >= cut.after) break;
            writer.message(message, 0, message.length);
            if (++sent % cut.burstEvery === 0) {
              writer.burst();
              await null;
            }
          }
          if (cut.after === Number.POSITIVE_INFINITY) {
            writer.burst();
            while (log.durableLsn < transactions.at(-1)!.lsn) {
              await log.changed(AbortSignal.timeout(5_000));
              writer.burst();
            }
          }
          await writer.drained();
          await log.voidOpen();
          if (cut.restart) {
            await store.close();
            store = await openLocalStore({ dir });
            log = await ChangeLog.open(store.openLogStream('log')!, store.state, 'log');
          }
        }
        expect(early).toEqual([]);
        const all = transactions.flatMap(shownOf);
        const starts: Position[] = [{ lsn: 0n, ordinal: -1 }];
        for (let i = 0; i < 3; i++) {
          const { lsn, rows: sizes } = pick(fc.constantFrom, ...transactions);
          starts.push({ lsn, ordinal: pick(fc.constantFrom, -1, ORDINAL_END, ...sizes.keys()) });
        }
        const check = async (after: Position) => {
          const expected = all.filter(({ position }) => comparePositions(position, after) > 0);
          expect(await scan(log, after)).toEqual(expected);
        };
        for (const after of starts) await check(after);
        // Whoever has come to where the log begins goes on there, be it inside a transaction.
        const keyframes = await keyframesOf(log);
        for (const { seq, after } of pick(fc.subarray<Keyframe>, keyframes, {
          maxLength: Math.min(8, keyframes.length),
        })) {
          await log.stream.trim(seq);
          await check(after);
        }
      } finally {
        await store.close();
        rmSync(dir, { recursive: true, force: true });
      }
    }),
    { numRuns: 20 },
  );
}, 120_000);
