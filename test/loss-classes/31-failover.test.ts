// A standby is promoted. If its copy of the slot is persistent and it has all that was captured, capture goes on there,
// each change once. If the copy is temporary, or there is none, a slot made anew would skip what happened between: it
// is refused, and "safe to fail over" said no before.
import { cpSync, rmSync } from 'node:fs';
import { failoverReadiness } from '@millrace/engine/failover-readiness';
import { type OwnPostgres, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import { startProxy } from '@millrace/testkit/proxy';
import { type Standby, startStandby } from '@millrace/testkit/replica';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { managerOf, settled } from '../end-to-end/backfills.ts';
import { eventually, type Millrace, startMillrace } from '../end-to-end/millrace.ts';
import { acknowledged } from './engine-process.ts';

// Servers start here, beside other tests.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 120_000 });

const MAJOR = 17; // The first with failover slots.
const SETTINGS = { fsync: 'off', full_page_writes: 'off', autovacuum: 'off' };
const SLOT = { failover: true };
const REPAIR = { failover: true, on_loss: 'repair' };

let own: OwnPostgres;
let db: TestDatabase;
let millrace: Millrace;
const closing: (() => Promise<void>)[] = [];

beforeAll(async () => {
  own = await startOwnPostgres(SETTINGS, MAJOR);
  db = await own.createDatabase();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
  const plain = await startMillrace(db);
  await plain.stop();
  // A slot that was made without it is marked when the configuration asks for it.
  millrace = await startMillrace(db, { dataDir: plain.dataDir, slot: REPAIR });
  expect(millrace.lines.join(' ')).toContain('is copied to standbys from now on');
  await db.sql(`INSERT INTO t SELECT generate_series(1, 10)`);
  await millrace.atLeast(10);
  const index = millrace.server.pipelines[0]!.rowIndex!;
  await eventually('the row index is filled', () => index.filled, 60_000);
  await acknowledged(db);
  await millrace.stop();
});
afterAll(async () => {
  await millrace.remove();
  for (const close of closing) await close();
  await own.remove();
});

async function standby(physicalSlot: string, settings: Readonly<Record<string, string>>): Promise<Standby> {
  const made = await startStandby(own, { settings: { ...SETTINGS, ...settings }, major: MAJOR, physicalSlot });
  closing.push(() => made.remove());
  return made;
}
const config = (of: TestDatabase) => ({ ...of.config, ssl: 'disable' as const });
const ready = async (at: Standby) => {
  const [row] = await db.sql(
    `SELECT confirmed_flush_lsn - '0/0' AS held FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
  );
  return failoverReadiness({
    connection: config(db),
    slot: db.name,
    standbys: [config(at.database(db))],
    captured: BigInt(row.held),
  });
};
const problems = async (at: Standby) => {
  const found = await ready(at);
  return [...found.problems, ...found.standbys[0]!.problems].map(({ code }) => code);
};
/** On a copy of what was captured, so that one refusal does not prepare the next. */
async function failOverTo(at: Standby, slot: object = SLOT): Promise<Millrace> {
  const dataDir = `${millrace.dataDir}-${at.physicalSlot}-${closing.length}`;
  cpSync(millrace.dataDir, dataDir, { recursive: true });
  closing.push(async () => rmSync(dataDir, { recursive: true, force: true }));
  const started = await startMillrace(at.database(db), { dataDir, slot });
  closing.push(() => started.remove());
  return started;
}
/** Of the copy on the standby. */
const copy = async (at: Standby) => {
  const [row] = await at
    .database(db)
    .sql(`SELECT temporary, synced FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
  return row as { temporary: boolean; synced: boolean } | undefined;
};

test('without a copy of the slot the promoted server is refused, or repaired where that is configured', async () => {
  const absent = await standby('absent', { sync_replication_slots: 'off' });
  expect(await problems(absent)).toEqual(['standby_slots_unset', 'sync_off', 'copy_missing']);
  await absent.promote();
  await absent.database(db).sql(`INSERT INTO t VALUES (11)`);
  await expect(failOverTo(absent)).rejects.toMatchObject({
    code: 'pg_slot_missing',
    hint: expect.stringContaining('failover slot'),
  });
  await absent.database(db).sql(`DELETE FROM t WHERE id = 1`);
  const repaired = await failOverTo(absent, REPAIR);
  const found = (await repaired.atLeast(12)).slice(10).map(({ action, record }) => `${action} ${record['id']}`);
  expect(found.sort()).toEqual(['delete 1', 'insert 11']);
  await absent.database(db).sql(`INSERT INTO t VALUES (12)`);
  expect((await repaired.atLeast(13))[12]).toMatchObject({ action: 'insert', record: { id: 12 } });
});

test('with a copy that was not persistent yet the promoted server is refused', async () => {
  // The slot stays where it is while the server goes on: a copy made now cannot become persistent.
  await db.sql(`INSERT INTO t SELECT generate_series(11, 20)`);
  await db.sql(`SELECT pg_switch_wal(); CHECKPOINT`);
  const temporary = await standby('temporary', { sync_replication_slots: 'on' });
  await eventually('there is a copy', async () => (await copy(temporary))?.synced === true, 60_000);
  expect(await copy(temporary)).toEqual({ temporary: true, synced: true });
  expect(await problems(temporary)).toContain('copy_temporary');
  expect((await ready(temporary)).safe).toBe(false);
  await temporary.promote();
  await expect(failOverTo(temporary)).rejects.toMatchObject({ code: 'pg_slot_missing' });
});

test('with a persistent copy it is safe, and every change of both lives is there once', async () => {
  const synced = await standby('synced', { sync_replication_slots: 'on' });
  // Another standby is waited for: nothing is held back for this one.
  await db.sql(`ALTER SYSTEM SET synchronized_standby_slots = 'absent'`);
  await db.sql(`SELECT pg_reload_conf()`);
  const mend = async () =>
    (await ready(synced)).standbys[0]!.problems.find(({ code }) => code === 'standby_not_waited_for');
  await eventually('it is told that the other one is', async () => (await mend()) !== undefined);
  expect((await mend())!.fix).toContain(`synchronized_standby_slots = 'absent, synced';`);
  expect((await ready(synced)).safe).toBe(false);
  await db.sql(`ALTER SYSTEM SET synchronized_standby_slots = 'synced'`);
  await db.sql(`SELECT pg_reload_conf()`);
  await eventually('this one is', async () => (await mend()) === undefined);
  const before = await startMillrace(db, { dataDir: millrace.dataDir, slot: SLOT });
  let next = 21;
  await eventually(
    'the copy is persistent',
    async () => {
      // What makes a slot move on: a record of the running transactions, and a change beyond it.
      await db.sql(`SELECT pg_log_standby_snapshot()`);
      await db.sql(`INSERT INTO t VALUES (${next++})`);
      await acknowledged(db);
      return (await copy(synced))?.temporary === false;
    },
    60_000,
  );
  await db.sql(`INSERT INTO t VALUES (${next++})`);
  await before.atLeast(next - 1);
  await acknowledged(db);
  expect(await problems(synced)).toEqual([]);
  const answer = await ready(synced);
  expect(answer).toMatchObject({ safe: true, standbys: [{ safe: true, copy: { temporary: false } }] });
  // One that stops answering half way is not safe for what it said before.
  const there = synced.database(db);
  const proxy = await startProxy({ port: there.config.port });
  await proxy.delay(500);
  const asked = failoverReadiness({
    connection: config(db),
    slot: db.name,
    standbys: [{ ...config(there), port: proxy.port, applicationName: 'asked' }],
    captured: 0n,
  });
  const asking = `SELECT FROM pg_stat_activity WHERE application_name = 'asked' AND query LIKE '%hot_standby_feedback%'`;
  await eventually('it has the question', async () => (await there.sql(asking)).length > 0);
  proxy.swallow();
  expect(await asked).toMatchObject({ safe: false, standbys: [{ problems: [{ code: 'standby_unreachable' }] }] });
  await proxy.close();
  // The primary dies with a transaction that was captured and never heard of by the copy of the slot.
  await db.sql(`INSERT INTO t VALUES (${next++})`);
  await before.atLeast(next - 1);
  await own.server.kill();
  await before.stop();
  await synced.promote();
  const promoted = synced.database(db);
  await promoted.sql(`INSERT INTO t VALUES (${next++})`);
  const after = await failOverTo(synced);
  expect(after.lines.join('\n')).toContain('went over to timeline 2');
  await promoted.sql(`INSERT INTO t VALUES (${next++})`);
  const ids = (await after.atLeast(next - 1)).map(({ record }) => record['id']);
  expect(ids).toEqual(Array.from({ length: next - 1 }, (_, i) => i + 1));
  await own.server.restart();
});

test('what a backfill has read of the former primary and the new one never had is not delivered', async () => {
  await db.sql(`ALTER SYSTEM RESET synchronized_standby_slots`);
  await db.sql(`SELECT pg_reload_conf()`);
  await db.sql(`TRUNCATE t; INSERT INTO t VALUES (1)`);
  const behind = await standby('behind', { sync_replication_slots: 'on' });
  await db.sql(`ALTER SYSTEM SET synchronized_standby_slots = 'behind'`);
  await db.sql(`SELECT pg_reload_conf()`);
  const proxy = await startProxy({ port: db.config.port });
  closing.push(() => proxy.close());
  const through = { ...db, url: db.url.replace(`:${db.config.port}/`, `:${proxy.port}/`) };
  const running = await startMillrace(through, { dataDir: millrace.dataDir, slot: SLOT });
  closing.push(() => running.remove());
  await eventually(
    'the copy is persistent',
    async () => {
      await db.sql(`SELECT pg_log_standby_snapshot()`);
      await db.sql(`UPDATE t SET id = 1`);
      await acknowledged(db);
      return (await copy(behind))?.temporary === false;
    },
    60_000,
  );
  // Until it has what commits, that is sent to nobody.
  await behind.server.stop();
  await db.sql(`INSERT INTO t VALUES (2)`);
  const before = (await running.messages()).length;
  await managerOf(running).create([{ table: { schema: 'public', name: 't' } }]);
  await eventually('the rows are read', async () => {
    const read = await db.sql(`SELECT FROM pg_stat_activity WHERE application_name LIKE '% backfill' AND state = 'idle'
      AND (query LIKE '%LOCK TABLE%' OR query LIKE '%flush_lsn() <%' OR query LIKE '%millrace.flush%')`);
    return read.length > 0;
  });
  await own.server.kill();
  await behind.server.restart();
  await behind.promote();
  const there = behind.database(db);
  proxy.retarget({ port: there.config.port });
  await there.sql(`INSERT INTO t VALUES (3)`);
  await settled(running);
  const read = (await running.messages()).slice(before).filter(({ action }) => action === 'read');
  expect(read.map(({ record }) => record['id']).sort()).toEqual([1, 3]);
  await own.server.restart();
});
