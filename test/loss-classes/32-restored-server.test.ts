// A server that was restored, to an earlier point or from a copy of its disk, has other changes at the positions that
// were captured, or none. It has to be told by more than the LSN: system identifier, timeline and where that was left,
// end of the WAL, and the last transaction itself.
import { cpSync } from 'node:fs';
import { type OwnPostgres, openDatabase, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import { backUp, startStandby } from '@millrace/testkit/replica';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { eventually, type Millrace, startMillrace } from '../end-to-end/millrace.ts';

// Processes and servers start here, beside other tests.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 120_000 });

const SETTINGS = { fsync: 'off', full_page_writes: 'off', autovacuum: 'off' };
let own: OwnPostgres;
let db: TestDatabase;
let millrace: Millrace;
const closing: (() => Promise<void>)[] = [];
let copies = 0;

beforeAll(async () => {
  own = await startOwnPostgres(SETTINGS);
  db = await own.createDatabase();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
  millrace = await startMillrace(db);
  await db.sql(`INSERT INTO t VALUES (1)`);
  await millrace.atLeast(1);
});
afterAll(async () => {
  await millrace.remove();
  for (const close of closing) await close();
  await own.remove();
});

/** On a copy of the data directory, so that one refusal does not prepare the next. */
async function against(server: TestDatabase): Promise<Millrace> {
  const dataDir = `${millrace.dataDir}-${++copies}`;
  cpSync(millrace.dataDir, dataDir, { recursive: true });
  const started = await startMillrace({ ...server, name: db.name }, { dataDir });
  closing.push(() => started.remove());
  return started;
}

test('a copy of the disk, a point in time and a forked timeline are refused, with what they lack', async () => {
  const backup = await backUp(own);
  const fork = await startStandby(own, { settings: SETTINGS });
  closing.push(() => fork.remove());
  await fork.promote();
  // Captured, and in neither of the copies.
  await db.sql(`INSERT INTO t VALUES (2)`);
  await millrace.atLeast(2);
  await db.sql(`INSERT INTO t VALUES (3)`);
  await millrace.atLeast(3);
  await millrace.stop();

  await expect(against(fork.database(db))).rejects.toMatchObject({
    code: 'pg_system_changed',
    detail: expect.stringMatching(
      /on timeline 2, which left timeline 1 at .*\d+ bytes of WAL that this server never had/,
    ),
  });

  const restored = await backup.restore({ settings: SETTINGS });
  closing.push(() => restored.remove());
  const copy = openDatabase(restored.server, db.name);
  closing.push(() => copy.drop());
  await expect(against(copy)).rejects.toMatchObject({
    code: 'pg_system_changed',
    detail: expect.stringMatching(/Its WAL ends at .*restored to an earlier state/),
  });

  // Written to until its WAL is longer than what was captured: only the transactions differ now.
  await copy.sql(`INSERT INTO t SELECT generate_series(100, 20000)`);
  await expect(against(copy)).rejects.toMatchObject({
    code: 'pg_system_changed',
    detail: expect.stringContaining('does not have the last transaction that was captured'),
  });

  // The server it was captured from is as good as ever.
  const same = await against(db);
  await db.sql(`INSERT INTO t VALUES (4)`);
  expect((await same.atLeast(4)).map(({ record }) => record['id'])).toEqual([1, 2, 3, 4]);
  await same.stop();
});

test('a server that crashed and sends its last transactions again is not taken for another, however few walsenders it has', async () => {
  const small = await startOwnPostgres({ ...SETTINGS, max_wal_senders: '1' });
  closing.push(() => small.remove());
  const its = await small.createDatabase();
  await its.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
  const before = await startMillrace(its);
  await its.sql(`SELECT pg_copy_logical_replication_slot('${its.name}', '${its.name}_older')`);
  await its.sql(`INSERT INTO t VALUES (1)`);
  await before.atLeast(1);
  await before.stop();
  // The slot as it was before that: what a crash of the server leaves of one it had not written down.
  const slot = { name: `${its.name}_older`, on_loss: 'repair' };
  const again = await startMillrace(its, { dataDir: before.dataDir, slot });
  await its.sql(`INSERT INTO t VALUES (2)`);
  await again.atLeast(2);
  await again.stop();
  expect(again.lines.join(' ')).not.toContain('repair of slot');
  // A repair finds room for its connection as well.
  await its.sql(`SELECT pg_drop_replication_slot('${slot.name}')`);
  const repaired = await startMillrace(its, { dataDir: before.dataDir, slot });
  closing.push(() => repaired.remove());
  expect(repaired.lines.join(' ')).toContain('repaired up to');
  await its.sql(`INSERT INTO t VALUES (3)`);
  await eventually('the next change arrives', async () =>
    (await repaired.messages()).some(({ record }) => record['id'] === 3),
  );
});

test('nothing is made on a server that is not the one', async () => {
  const other = await startOwnPostgres(SETTINGS);
  closing.push(() => other.remove());
  const stranger = await other.createDatabase();
  await expect(against(stranger)).rejects.toMatchObject({ code: 'pg_system_changed' });
  expect(await stranger.sql(`SELECT pubname FROM pg_publication`)).toEqual([]);
  expect(await stranger.sql(`SELECT slot_name FROM pg_replication_slots`)).toEqual([]);
});
