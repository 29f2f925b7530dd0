/** Holding the stream in the middle of what was read: nothing is handed on, nothing is lost, and the server hears of us. */
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { PgConnection } from '../src/connection.ts';
import { COMMIT } from '../src/pgoutput.ts';
import { type ReplicationStream, startReplication } from '../src/replication.ts';

const TIMEOUT_MS = 1_000;
const TRANSACTIONS = 30;

let db: TestDatabase;
let stream: ReplicationStream | undefined;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t`);
  await db.sql(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
});
afterEach(async () => {
  await stream?.stop();
  await db.drop();
});

/** Calls `onCommit` at each COMMIT. */
async function read(onCommit: (commits: number) => void): Promise<{ closes: unknown[] }> {
  const { host, port, user, password, database } = db.config;
  const connection = await PgConnection.connect({
    host,
    port,
    user,
    password,
    database,
    ssl: 'disable',
    replication: true,
  });
  const closes: unknown[] = [];
  let commits = 0;
  stream = await startReplication(
    connection,
    { slot: db.name, publications: ['p'], startLsn: 0n },
    {
      message: (buffer, start) => {
        if (buffer[start] === COMMIT) onCommit(++commits);
      },
      keepalive() {},
      burst() {},
      closed: (error) => void closes.push(error),
    },
  );
  return { closes };
}

async function until(holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 40_000;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error('it never held');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test('at every commit, released later, all of them come, each by itself and without the server saying more', async () => {
  // It will not speak unasked, and is not asked: what was read already has to come out of the buffer.
  await db.sql(`ALTER DATABASE ${db.name} SET wal_sender_timeout = 0`);
  for (let i = 0; i < TRANSACTIONS; i++) await db.sql(`INSERT INTO t VALUES (${i})`);
  let seen = 0;
  let held = false;
  await read((commits) => {
    expect(held).toBe(false);
    seen = commits;
    held = true;
    stream!.hold();
    setTimeout(() => {
      held = false;
      stream!.release();
    }, 1);
  });
  // Postgres 14 sends transactions that changed nothing published as well.
  await until(() => seen >= TRANSACTIONS);
});

test('held for several timeouts of the server it stays connected, and stop() needs no release', async () => {
  await db.sql(`ALTER DATABASE ${db.name} SET wal_sender_timeout = '${TIMEOUT_MS}ms'`);
  for (let i = 0; i < TRANSACTIONS; i++) await db.sql(`INSERT INTO t VALUES (${i})`);
  let seen = 0;
  const { closes } = await read((commits) => {
    seen = commits;
    if (commits === 3 || commits === 10) stream!.hold();
  });
  await until(() => seen === 3);
  const { statusUpdates } = stream!.stats;
  const later = performance.now() + 3 * TIMEOUT_MS;
  await until(() => performance.now() > later);
  expect(seen).toBe(3);
  expect(closes).toEqual([]);
  expect(stream!.stats.statusUpdates).toBeGreaterThan(statusUpdates + 3);
  stream!.release();
  await until(() => seen === 10);
  await stream!.stop();
  expect(closes).toEqual([null]);
  expect(seen).toBe(10);
});
