import { existsSync, mkdirSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mountSmallDisk } from '@millrace/testkit/full-disk';
import { testDirectory } from '@millrace/testkit/postgres';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type SpoolLimits, TransactionSpool } from './transaction-spool.ts';

let dir: string;
beforeEach(() => {
  dir = testDirectory('spool');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const quiet = {
  pressure() {},
  failed(error: unknown) {
    throw error;
  },
};

/** A message with an id behind its type byte, which the spool is to leave out. */
function message(size: number, fill: number): Buffer {
  const bytes = Buffer.alloc(5 + size, fill);
  bytes.write('I');
  return bytes;
}

interface Read {
  readonly xid: number;
  readonly place: number;
  readonly message: string;
}

async function readBack(spool: TransactionSpool, xid: number): Promise<Read[]> {
  const found: Read[] = [];
  const visit = (sub: number, place: number, bytes: Buffer, start: number, end: number) =>
    void found.push({ xid: sub, place, message: bytes.toString('latin1', start, end) });
  await spool.read(xid, visit, async () => true);
  return found;
}

const limits = fc.record({
  bufferBytes: fc.integer({ min: 16, max: 300 }),
  openFilesMax: fc.integer({ min: 1, max: 3 }),
  readBytes: fc.integer({ min: 13, max: 400 }),
  inflightBytesMax: fc.integer({ min: 1, max: 2000 }),
});
const steps = fc.array(
  fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({ kind: fc.constant('write'), xid: fc.integer({ min: 1, max: 5 }), size: fc.nat(700) }),
    },
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant('read'), xid: fc.integer({ min: 1, max: 5 }), size: fc.constant(0) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant('remove'), xid: fc.integer({ min: 1, max: 5 }), size: fc.constant(0) }),
    },
  ),
  { maxLength: 60 },
);

test('each transaction reads back as it was written, whatever the sizes of messages, buffers and reads', async () => {
  await fc.assert(
    fc.asyncProperty(limits, steps, async (chosen: SpoolLimits, list) => {
      const spool = await TransactionSpool.open(join(dir, 'spool'), quiet, chosen);
      const model = new Map<number, Read[]>();
      let place = 0;
      for (const { kind, xid, size } of list) {
        if (kind === 'write') {
          spool.turnTo(xid);
          const bytes = message(size, 97 + (place % 26));
          spool.write(xid + 100, ++place, bytes, 0, bytes.length, 4);
          const text = `I${bytes.toString('latin1', 5)}`;
          model.set(xid, [...(model.get(xid) ?? []), { xid: xid + 100, place, message: text }]);
        } else if (kind === 'read') expect(await readBack(spool, xid)).toEqual(model.get(xid) ?? []);
        else {
          spool.remove(xid);
          model.delete(xid);
        }
      }
      for (const xid of [1, 2, 3, 4, 5]) expect(await readBack(spool, xid)).toEqual(model.get(xid) ?? []);
      expect(spool.transactions).toBe(model.size);
      expect(readdirSync(join(dir, 'spool')).length).toBe(model.size);
      await spool.close();
      expect(existsSync(join(dir, 'spool'))).toBe(false);
    }),
    { numRuns: 60 },
  );
}, 60_000);

test('what an earlier process left is removed', async () => {
  mkdirSync(join(dir, 'spool'));
  writeFileSync(join(dir, 'spool', '7.spool'), 'left');
  const spool = await TransactionSpool.open(join(dir, 'spool'), quiet);
  spool.turnTo(7);
  const bytes = message(3, 98);
  spool.write(7, 0, bytes, 0, bytes.length, 4);
  expect(await readBack(spool, 7)).toEqual([{ xid: 7, place: 0, message: 'Ibbb' }]);
  await spool.close();
});

test.skipIf(process.platform !== 'linux')('a thousand transactions share a few open files', async () => {
  const spool = await TransactionSpool.open(join(dir, 'spool'), quiet, { openFilesMax: 4, bufferBytes: 256 });
  const bytes = message(100, 99);
  for (let round = 0; round < 3; round++) {
    for (let xid = 1; xid <= 1000; xid++) {
      spool.turnTo(xid);
      spool.write(xid, 0, bytes, 0, bytes.length, 4);
    }
  }
  expect((await readBack(spool, 1)).length).toBe(3);
  const open = readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).endsWith('.spool');
    } catch {
      return false;
    }
  });
  expect(open.length).toBeGreaterThan(0);
  expect(open.length).toBeLessThanOrEqual(4);
  expect((await readBack(spool, 1000)).length).toBe(3);
  await spool.close();
});

test('more than may be on its way presses until it is written', async () => {
  const pressure: boolean[] = [];
  const events = { ...quiet, pressure: (on: boolean) => void pressure.push(on) };
  const spool = await TransactionSpool.open(join(dir, 'spool'), events, {
    bufferBytes: 1000,
    inflightBytesMax: 10_000,
  });
  spool.turnTo(1);
  const bytes = message(100_000, 100);
  spool.write(1, 0, bytes, 0, bytes.length, 4);
  expect(pressure).toEqual([true]);
  await readBack(spool, 1);
  expect(pressure).toEqual([true, false]);
  await spool.close();
});

test('rolled back subtransactions are told apart, and there are not more than can be remembered', async () => {
  const spool = await TransactionSpool.open(join(dir, 'spool'), quiet, { abortedMax: 1000 });
  spool.turnTo(1);
  for (let i = 0; i < 1000; i++) expect(spool.abort(1, 5000 - 3 * i)).toBe(true);
  expect(spool.abort(1, 9)).toBe(false);
  const aborted = spool.abortedOf(1);
  for (let xid = 1990; xid <= 5001; xid++) {
    expect(aborted(xid)).toBe(xid > 2000 && xid <= 5000 && (5000 - xid) % 3 === 0);
  }
  expect(spool.abort(77, 9)).toBe(true);
  await spool.close();
});

const disk = await mountSmallDisk(2 << 20);
const unavailable = 'unavailable' in disk ? disk.unavailable : null;

test.skipIf(unavailable !== null && process.env['CI'] === undefined)(
  'a full disk is storage_full, said once',
  async () => {
    if ('unavailable' in disk) throw new Error(disk.unavailable);
    const failed: unknown[] = [];
    const events = { pressure() {}, failed: (error: unknown) => void failed.push(error) };
    const spool = await TransactionSpool.open(join(disk.dir, 'spool'), events);
    try {
      spool.turnTo(1);
      const bytes = message(50_000, 101);
      for (let i = 0; i < 100; i++) spool.write(1, 0, bytes, 0, bytes.length, 4);
      await expect(readBack(spool, 1)).rejects.toMatchObject({ code: 'storage_full' });
      expect(failed).toMatchObject([{ code: 'storage_full' }]);
    } finally {
      await spool.close();
      await disk.remove();
    }
  },
);

test('a file that was cut from outside is storage_corrupt', async () => {
  const spool = await TransactionSpool.open(join(dir, 'spool'), quiet);
  spool.turnTo(1);
  const bytes = message(1000, 102);
  spool.write(1, 0, bytes, 0, bytes.length, 4);
  await readBack(spool, 1);
  for (const content of ['', '\0\0\xff\xff', Buffer.alloc(1013, 0xff)]) {
    writeFileSync(join(dir, 'spool', '1.spool'), content);
    await expect(readBack(spool, 1)).rejects.toMatchObject({ code: 'storage_corrupt' });
  }
  await spool.close();
});
