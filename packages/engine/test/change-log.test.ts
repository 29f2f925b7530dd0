/**
 * The change log against a model: whatever the sizes, wherever connections break and processes end, a reader that starts
 * after any position is shown every later change once and in order, and nothing else.
 */
import { rmSync } from 'node:fs';
import { comparePositions, ORDINAL_END, type Position } from '@millrace/core/position';
import { ChangeLog } from '@millrace/engine/change-log/change-log';
import { LogReader } from '@millrace/engine/change-log/log-reader';
import { LogWriter } from '@millrace/engine/change-log/log-writer';
import { ChangeScanner, type ChangeVisitor } from '@millrace/engine/decode/change-scanner';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { testDirectory } from '@millrace/testkit/postgres';
import fc from 'fast-check';
import { expect, test } from 'vitest';

interface Transaction {
  readonly lsn: bigint;
  readonly end: bigint;
  /** Size of each row's payload; -1 stands for a truncate, -2 for a logical message. */
  readonly rows: readonly number[];
}

interface Shown {
  readonly position: Position;
  readonly size: number;
}

const OID = 77;
const TRUNCATE = -1;
const MESSAGE = -2;

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

function relation(): Buffer {
  const bytes = Buffer.from('R\0\0\0\0public\0t\0d\0\x01\x01v\0\0\0\0\0\0\0\0\0', 'latin1');
  bytes.writeUInt32BE(OID, 1);
  return bytes;
}

function row(size: number): Buffer {
  if (size === TRUNCATE) return Buffer.from('T\0\0\0\x01\0\0\0\0\x4d', 'latin1');
  if (size === MESSAGE) return Buffer.from('M\x01\0\0\0\0\0\0\0\0p\0\0\0\0\0', 'latin1');
  const bytes = Buffer.alloc(12 + size, size & 0xff);
  bytes.write('I\0\0\0\0N\0\x01t', 0, 'latin1');
  bytes.writeUInt32BE(OID, 1);
  bytes.writeUInt32BE(size, 8);
  return bytes;
}

/** What the server sends from `start` on, over one connection. */
function* session(transactions: readonly Transaction[], start: bigint): Generator<Buffer> {
  let announced = false;
  for (const transaction of transactions) {
    if (transaction.end <= start) continue;
    yield begin(transaction.lsn);
    for (const size of transaction.rows) {
      if (!announced && size >= 0) yield relation();
      announced ||= size >= 0;
      yield row(size);
    }
    yield commit(transaction);
  }
}

async function scan(log: ChangeLog, after: Position): Promise<Shown[]> {
  const shown: Shown[] = [];
  let lsn = 0n;
  const show = (size: number, ordinal: number) => void shown.push({ position: { lsn, ordinal }, size });
  const visitor: ChangeVisitor = {
    relation() {},
    begin(at) {
      lsn = at;
    },
    row(bytes, start, end, ordinal) {
      expect(bytes[start]).toBe(0x49);
      show(end - start - 12, ordinal);
      return true;
    },
    truncate(_bytes, _start, _end, ordinal) {
      show(TRUNCATE, ordinal);
      return true;
    },
    // Shown again where an annotation could matter, so not counted.
    message: () => true,
    commit() {},
  };
  const scanner = new ChangeScanner(log, visitor, after);
  const reader = new LogReader(log, await log.seek(after.lsn));
  for (let chunk = await reader.next(); chunk !== null; chunk = await reader.next()) {
    scanner.feed(chunk);
    expect(scanner.scan()).toBe('done');
  }
  return shown;
}

const sizes = fc.oneof(
  { weight: 20, arbitrary: fc.nat(300) },
  { weight: 6, arbitrary: fc.nat(400_000) },
  { weight: 1, arbitrary: fc.integer({ min: 990_000, max: 2_600_000 }) },
  { weight: 2, arbitrary: fc.constantFrom(TRUNCATE, MESSAGE) },
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
        const all = transactions.flatMap(({ lsn, rows: sizes }) =>
          sizes
            .map((size, ordinal): Shown => ({ position: { lsn, ordinal }, size }))
            .filter(({ size }) => size !== MESSAGE),
        );
        const starts: Position[] = [{ lsn: 0n, ordinal: -1 }];
        for (let i = 0; i < 3; i++) {
          const { lsn, rows: sizes } = pick(fc.constantFrom, ...transactions);
          starts.push({ lsn, ordinal: pick(fc.constantFrom, -1, ORDINAL_END, ...sizes.keys()) });
        }
        for (const after of starts) {
          const expected = all.filter(({ position }) => comparePositions(position, after) > 0);
          expect(await scan(log, after)).toEqual(expected);
        }
      } finally {
        await store.close();
        rmSync(dir, { recursive: true, force: true });
      }
    }),
    { numRuns: 25 },
  );
}, 120_000);
