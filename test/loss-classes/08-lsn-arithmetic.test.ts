// LSNs compared as text (F/F comes after 10/0), as a float (2^53 and its neighbour are one) or with a sign (2^63 is
// negative): what is newer is taken for older, and skipped. Random ones around those borders, through every place that
// compares, stores or prints them.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { formatLsn, LSN_MAX, parseLsn } from '@millrace/core/lsn';
import { comparePositions, formatPosition, parsePosition } from '@millrace/core/position';
import { ChangeLog } from '@millrace/engine/change-log/change-log';
import { LogWriter } from '@millrace/engine/change-log/log-writer';
import { encodeBegin, encodeCommit } from '@millrace/postgres/streamed-messages';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { testDirectory } from '@millrace/testkit/postgres';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { readLog } from '../../packages/engine/test/captured-log.ts';

const BORDERS = [0xfn, 0x10n, 0xffff_ffffn, 0x1_0000_0000n, 1n << 31n, 1n << 53n, 1n << 63n, LSN_MAX - 200n];
const lsn = fc
  .tuple(fc.constantFrom(...BORDERS), fc.bigInt({ min: -40n, max: 40n }))
  .map(([border, off]) => (border + off < 1n ? 1n : border + off));
const given = process.env['MILLRACE_TEST_SEED'];
const seeded = given === undefined ? {} : { seed: Number(given) };

test('text and number are the same, and order is the order of numbers', () => {
  fc.assert(
    fc.property(lsn, lsn, fc.nat(9), fc.nat(9), (a, b, i, j) => {
      expect(parseLsn(formatLsn(a))).toBe(a);
      expect(parsePosition(formatPosition({ lsn: a, ordinal: i }))).toEqual({ lsn: a, ordinal: i });
      const expected = a === b ? Math.sign(i - j) : a < b ? -1 : 1;
      expect(Math.sign(comparePositions({ lsn: a, ordinal: i }, { lsn: b, ordinal: j }))).toBe(expected);
    }),
    { numRuns: 2000, ...seeded },
  );
});

test('a log of transactions at any positions holds each once, in order, also when all are sent again', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(lsn, { minLength: 1, maxLength: 8 }), async (list) => {
      const sorted = [...list].sort((a, b) => (a < b ? -1 : 1));
      const dir = testDirectory('lsn');
      try {
        for (let life = 0; life < 2; life++) {
          const store = await openLocalStore({ dir: join(dir, 'store') });
          const stream = store.openLogStream('log') ?? (await store.createLogStream('log'));
          const log = await ChangeLog.open(stream, store.state, 'log');
          const acknowledged: bigint[] = [];
          const writer = new LogWriter(log, {
            acknowledge: (at) => void acknowledged.push(at),
            pressure() {},
            failed(error) {
              throw error;
            },
          });
          // The first half, then everything from the beginning, as after a connection that broke.
          const half = sorted.slice(0, Math.ceil(sorted.length / 2));
          for (const at of life === 0 ? half : sorted) {
            for (const bytes of [encodeBegin(at, 0n, 7), MESSAGE, encodeCommit(at, at + 1n, 0n)]) {
              writer.message(bytes, 0, bytes.length);
            }
            writer.burst();
          }
          const last = (life === 0 ? half : sorted).at(-1)!;
          while (log.durableLsn < last) await log.changed(AbortSignal.timeout(5_000));
          await writer.drained();
          expect(acknowledged.at(-1) ?? last + 1n).toBe(last + 1n);
          expect(acknowledged).toEqual([...acknowledged].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0)));
          const found = await readLog(log);
          expect(found.map((transaction) => transaction.lsn)).toEqual(life === 0 ? half : sorted);
          log.close();
          await store.close();
        }
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    }),
    { numRuns: 6, ...seeded },
  );
});

/** A transactional logical message. */
const MESSAGE = Buffer.from('M\x01\0\0\0\0\0\0\0\0p\0\0\0\0\0', 'latin1');
