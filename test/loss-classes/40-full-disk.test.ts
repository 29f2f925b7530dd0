// Class 40: the disk of the store is full in the middle of an append; what was not written is acknowledged, or half of it stays.
import { type File, type FileSystem, nodeFileSystem } from '@millrace/stream-store/journal/file-system';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually } from '../end-to-end/millrace.ts';
import { type Arrived, inDirectory, ownSink, startOwnPipeline } from './own-sink.ts';

const SEED = Number(process.env['MILLRACE_TEST_SEED'] ?? 20_261_122);
const ROUNDS = 3;

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, pad text)');
});
afterEach(() => db.drop());

/** A disk with room for so many more bytes: the write that goes beyond it is done in part, and every one after it fails. */
function diskWithRoom(bytes: number): FileSystem & { readonly full: boolean } {
  let left = bytes;
  let full = false;
  const refuse = () => Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
  return {
    ...nodeFileSystem,
    get full() {
      return full;
    },
    async open(path, mode): Promise<File> {
      const file = await nodeFileSystem.open(path, mode);
      return {
        read: (target, position) => file.read(target, position),
        size: () => file.size(),
        truncate: (size) => file.truncate(size),
        close: () => file.close(),
        datasync: () => file.datasync(),
        async write(parts, position) {
          const whole = Buffer.concat(parts.map((part) => Buffer.from(part)));
          if (!full && whole.length <= left) {
            left -= whole.length;
            return await file.write(parts, position);
          }
          if (!full) await file.write([whole.subarray(0, left)], position);
          full = true;
          throw refuse();
        },
      };
    },
  };
}

test(`a disk that fills up in the middle of an append ends the engine; with room again nothing is lost, torn or doubled (seed ${SEED})`, async () => {
  await inDirectory(async (dir) => {
    const random = seededRandom(SEED);
    const arrived: Arrived[] = [];
    const sinks = () => ({ own: ownSink(async (messages) => void arrived.push(...messages)) });
    let rows = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const disk = diskWithRoom(150_000 + random.integer(400_000));
      const own = await startOwnPipeline({ db, dir, sinks: sinks(), store: { fileSystem: disk } });
      const failed = Promise.race([own.store.failed, own.pipeline.done.catch((error: unknown) => error)]);
      while (!disk.full) {
        await db.sql(
          `INSERT INTO t SELECT i, repeat(md5(i::text), 20) FROM generate_series(${rows + 1}, ${rows + 100}) i`,
        );
        rows += 100;
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      expect(await failed).toMatchObject({ code: 'storage_full' });
      const durable = own.pipeline.log.endLsn;
      await own.stop().catch(() => {});
      const [slot] = await db.sql(
        `SELECT (confirmed_flush_lsn - '0/0'::pg_lsn)::text AS lsn FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
      );
      // I3: Postgres still holds what the disk did not take.
      expect(BigInt(slot.lsn) <= durable).toBe(true);
    }
    const own = await startOwnPipeline({ db, dir, sinks: sinks() });
    await db.sql(`INSERT INTO t VALUES (0, 'end')`);
    await eventually('the last row arrives', () => arrived.at(-1)?.record['id'] === 0);
    await own.stop();
    const keys = new Set<string>();
    const once = arrived.filter(({ key }) => !keys.has(key) && keys.add(key));
    expect(once.map(({ record }) => record['id'])).toEqual([...Array.from({ length: rows }, (_, i) => i + 1), 0]);
    expect(rows).toBeGreaterThan(ROUNDS * 100);
  });
}, 60_000);
