import { readFileSync } from 'node:fs';
import { type OwnPostgres, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import { chosenMajor } from '@millrace/testkit/postgres-majors';
import { type Standby, startStandby } from '@millrace/testkit/replica';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { eventually, type Millrace, startMillrace } from './millrace.ts';
import { startWatched } from './several-databases.ts';

// Servers start here, beside other tests.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 120_000 });

const SETTINGS = { fsync: 'off', full_page_writes: 'off', autovacuum: 'off' };
/** A standby can be captured from since 16. */
const MAJOR = Math.max(16, chosenMajor());

let own: OwnPostgres;
let db: TestDatabase;
let standby: Standby;
const running: Millrace[] = [];

beforeAll(async () => {
  own = await startOwnPostgres({ ...SETTINGS, log_statement: 'all' }, MAJOR);
  db = await own.createDatabase();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text)`);
  await db.sql(`INSERT INTO t SELECT i, 'before' FROM generate_series(1, 300) i`);
  standby = await startStandby(own, { settings: SETTINGS, major: MAJOR });
  await standby.caughtUp();
});
afterAll(async () => {
  for (const each of running) await each.remove();
  await standby.remove();
  await own.remove();
});

const primary = () => {
  const { host: hostname, port, user: username, password } = db.config;
  return { hostname, port, username, password };
};

test('a standby is captured and backfilled, with publication and slot made by help of its primary', async () => {
  const millrace = await startMillrace(standby.database(db), {
    database: { primary: primary() },
    sinks: [{ initial_backfill: true }],
  });
  running.push(millrace);
  // A quiet primary writes what the new slot waits for seldom, so it was asked to.
  expect(readFileSync(own.server.logFile, 'utf8')).toContain('pg_log_standby_snapshot');
  expect(await db.sql(`SELECT pubname FROM pg_publication`)).toEqual([{ pubname: 'millrace' }]);
  expect(await db.sql(`SELECT FROM pg_replication_slots WHERE slot_type = 'logical'`)).toEqual([]);
  await db.sql(`UPDATE t SET v = 'after' WHERE id <= 10`);
  await db.sql(`INSERT INTO t VALUES (1000, 'new')`);
  await millrace.atLeast(301);
  const latest = new Map<unknown, unknown>();
  await eventually('every row is there as it is now', async () => {
    latest.clear();
    for (const { record } of await millrace.messages()) latest.set(record['id'], record['v']);
    return latest.size === 301 && [...latest.values()].filter((v) => v === 'after').length === 10;
  });
  expect(latest.get(1000)).toBe('new');

  // After a restart of both it goes on where it was, and waits for a standby that has not caught up yet.
  const { dataDir } = millrace;
  await millrace.stop();
  await db.sql(`INSERT INTO t VALUES (1001, 'while it was down')`);
  await standby.server.restart();
  const again = await startMillrace(standby.database(db), {
    dataDir,
    database: { primary: primary() },
    sinks: [{ initial_backfill: true }],
  });
  running.push(again);
  await db.sql(`INSERT INTO t VALUES (1002, 'last')`);
  await eventually('the last row arrives', async () =>
    (await again.messages()).some(({ record }) => record['id'] === 1002),
  );
  const inserted = (await again.messages())
    .filter(({ action }) => action === 'insert')
    .map(({ record }) => record['id']);
  expect(inserted).toEqual([1000, 1001, 1002]);
});

test('a standby that is promoted while it is read is no other server, also after the next restart', async () => {
  const heir = await startStandby(own, { settings: SETTINGS, major: MAJOR, physicalSlot: 'heir' });
  try {
    await heir.caughtUp();
    const promoted = heir.database(db);
    const options = { database: { primary: primary() }, slot: { name: 'heir' } };
    const before = await startMillrace(promoted, options);
    running.push(before);
    await db.sql(`INSERT INTO t VALUES (2000, 'of the primary')`);
    await before.atLeast(1);
    const streams = before.lines.filter((line) => line.includes('streaming from slot')).length;
    await heir.promote();
    await promoted.sql(`INSERT INTO t VALUES (2001, 'of the heir')`);
    await before.atLeast(2);
    // The connection went on, so nobody was told.
    expect(before.lines.filter((line) => line.includes('streaming from slot')).length).toBe(streams);
    await eventually('it is noticed', () => before.lines.some((line) => line.includes('went over to timeline 2')));
    await before.stop();
    const after = await startMillrace(promoted, { ...options, dataDir: before.dataDir });
    running.push(after);
    await promoted.sql(`INSERT INTO t VALUES (2002, 'after the restart')`);
    expect((await after.atLeast(3)).map(({ record }) => record['id'])).toEqual([2000, 2001, 2002]);
  } finally {
    for (const each of running.splice(0)) await each.remove();
    await heir.remove();
  }
});

test('without its primary a standby says what is to be done there', async () => {
  await expect(
    startMillrace(standby.database(db), { publication: { name: 'another' }, slot: { name: 'another' } }),
  ).rejects.toMatchObject({
    code: 'pg_publication_missing',
    detail: expect.stringContaining('A standby cannot make it'),
    hint: expect.stringContaining('CREATE PUBLICATION "another"'),
  });
});

test('a standby that gets nothing, or replays nothing, is red: of what is written on the primary nothing comes', async () => {
  const its = standby.database(db);
  const database = { primary: primary() };
  const watched = await startWatched([{ name: 'shop', url: its.url, slot: 'watched', database }]);
  const findings = async () => {
    const { health } = await watched.api('/postgres_databases/shop');
    return health.checks.find(({ slug }: { slug: string }) => slug === 'replication_messages').findings;
  };
  try {
    await watched.untilGreen();
    await own.server.stop();
    await watched.untilRed(({ check }) => check === 'replication_messages');
    expect(await findings()).toMatchObject([
      { slug: 'standby_not_fed', fix: expect.stringContaining('pg_stat_wal_receiver') },
    ]);
    await own.server.restart();
    await watched.untilGreen();
    await its.sql(`SELECT pg_wal_replay_pause()`);
    await db.sql(`INSERT INTO t VALUES (3000, 'not replayed')`);
    await watched.untilRed(({ check }) => check === 'replication_messages');
    expect(await findings()).toMatchObject([
      { slug: 'standby_not_replaying', fix: expect.stringContaining('pg_wal_replay_resume') },
    ]);
    await its.sql(`SELECT pg_wal_replay_resume()`);
    await watched.untilGreen();
    await eventually('the row arrives', async () => (await watched.count('shop')) === 1);
  } finally {
    await watched.remove();
  }
});

test('a standby older than 16 is refused as what it is, and so is a failover slot before 17', async () => {
  const old = await startOwnPostgres(SETTINGS, 15);
  try {
    const its = await old.createDatabase();
    await expect(startMillrace(its, { slot: { failover: true } })).rejects.toMatchObject({
      code: 'pg_version_unsupported',
      detail: expect.stringContaining('slot.failover needs Postgres 17'),
    });
    const replica = await startStandby(old, { settings: SETTINGS, major: 15 });
    try {
      await expect(startMillrace(replica.database(its))).rejects.toMatchObject({
        code: 'pg_version_unsupported',
        hint: expect.stringContaining('Postgres 16'),
      });
    } finally {
      await replica.remove();
    }
  } finally {
    await old.remove();
  }
});
