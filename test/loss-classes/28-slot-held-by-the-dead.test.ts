// After a crash the slot is "active for PID" of a walsender whose reader is gone. The next start takes it over at once if
// that walsender is its own, and loses or doubles nothing; a walsender of somebody else is waited for, never ended.
import { PgConnection } from '@millrace/postgres/connection';
import { startReplication } from '@millrace/postgres/replication';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { startProxy } from '@millrace/testkit/proxy';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { startCapturing } from '../../packages/engine/test/captured-log.ts';
import { eventually } from '../end-to-end/millrace.ts';
import { type EngineProcess, engineProcess } from './engine-process.ts';

// Processes and servers start here, beside other tests.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 120_000 });

let db: TestDatabase;
let engine: EngineProcess;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
  engine = await engineProcess(db);
});
afterEach(async () => {
  await engine.remove();
  await db.drop();
});

const ids = async () => (await engine.messages()).map(({ record }) => record['id']);
const slot = async () => {
  const [row] = await db.sql(`SELECT active_pid FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
  return row as { active_pid: number | null };
};
/** Stops the engine once it has captured and delivered everything there is. */
async function settle(): Promise<void> {
  await engine.delivered();
  await engine.process.kill('SIGTERM');
}

test('killed and started again at once, it goes on by itself, and each change is there once', async () => {
  for (let life = 0; life < 2; life++) {
    engine.start();
    await engine.streaming();
    await db.sql(`INSERT INTO t SELECT generate_series(${life * 10}, ${life * 10 + 9})`);
    await engine.process.kill('SIGKILL');
  }
  engine.start();
  await engine.streaming();
  await settle();
  expect(await ids()).toEqual([...Array(20).keys()]);
});

test('a walsender that never hears of the crash is recognised as ours and ended', async () => {
  const proxy = await startProxy({ port: db.config.port });
  try {
    engine.start(proxy.port);
    await engine.streaming();
    await db.sql(`INSERT INTO t VALUES (1)`);
    const before = (await slot()).active_pid;
    await proxy.blackHole();
    await engine.process.kill('SIGKILL');
    await db.sql(`INSERT INTO t VALUES (2)`);
    expect((await slot()).active_pid).toBe(before);
    engine.start();
    const line = await engine.process.waitForLine(/still held by an earlier connection of ours/);
    expect(line).toContain(`PID ${before}`);
    await engine.streaming();
    await settle();
    expect(await ids()).toEqual([1, 2]);
  } finally {
    await proxy.close();
  }
});

test('a reader that is not ours is named and left alone, and capture begins when it ends', async () => {
  engine.start();
  await engine.streaming();
  await db.sql(`INSERT INTO t VALUES (1)`);
  await settle();
  const { host, port, user, password, database } = db.config;
  const other = await PgConnection.connect({
    ...{ host, port, user, password, database, ssl: 'disable', replication: true },
    applicationName: 'somebody else',
  });
  const pid = other.processId;
  const nothing = { message() {}, keepalive() {}, burst() {}, closed() {} };
  const stream = await startReplication(other, { slot: db.name, publications: ['millrace'], startLsn: 0n }, nothing);
  await db.sql(`INSERT INTO t VALUES (2)`);
  engine.start();
  const line = await engine.process.waitForLine(/is read by/);
  expect(line).toContain(`PID ${pid}`);
  expect(line).toContain('"somebody else"');
  expect((await slot()).active_pid).toBe(pid);
  await stream.stop();
  await engine.streaming();
  await settle();
  expect(await ids()).toEqual([1, 2]);
});

test('a walsender of ours that another role began is waited for where it cannot be ended', async () => {
  // Before there is a slot: Postgres 14 sends transactions of which nothing is published, too.
  const role = `${db.name}_rotated`;
  await db.sql(`CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'x'`);
  const first = await startCapturing(db);
  const [{ name }] = await db.sql(`SELECT application_name AS name FROM pg_stat_replication
    WHERE pid = (SELECT active_pid FROM pg_replication_slots WHERE slot_name = '${db.name}')`);
  await first.stop();
  const { host, port, user, password, database } = db.config;
  const left = await PgConnection.connect({
    ...{ host, port, user, password, database, ssl: 'disable', replication: true },
    applicationName: name,
  });
  const nothing = { message() {}, keepalive() {}, burst() {}, closed() {} };
  const stream = await startReplication(left, { slot: db.name, publications: ['all'], startLsn: 0n }, nothing);
  const met: string[] = [];
  const again = startCapturing(db, {
    dir: first.dir,
    connection: { user: role, password: 'x' },
    onCapture: (state) => void (state.kind === 'connecting' && state.error !== null && met.push(state.error.code)),
  });
  again.catch(() => {});
  try {
    await eventually('it has looked', () => met.length > 0);
    expect(met[0]).toBe('pg_slot_in_use');
    await stream.stop();
    await db.sql(`INSERT INTO t VALUES (1)`);
    expect((await (await again).caughtUp()).length).toBe(1);
  } finally {
    await stream.stop();
    await again.then((captured) => captured.remove()).catch(() => {});
    await db.sql(`DROP OWNED BY ${role}`);
    await db.sql(`DROP ROLE ${role}`);
  }
});
