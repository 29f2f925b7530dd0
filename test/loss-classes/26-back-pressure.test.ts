// A sink or a disk that takes nothing stops the reader, the reader stops speaking to Postgres, and Postgres ends the
// connection for silence: from then on it is made and ended for ever. Here both are blocked for several timeouts.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startCapturing } from '../../packages/engine/test/captured-log.ts';
import { gatedDisk } from '../../packages/engine/test/gated-disk.ts';
import { startBlockableStore } from '../end-to-end/blocked-store.ts';
import { eventually, startMillrace } from '../end-to-end/millrace.ts';

const TIMEOUT_MS = 1_500;
const BLOCKED_MS = 3 * TIMEOUT_MS;

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`ALTER DATABASE ${db.name} SET wal_sender_timeout = '${TIMEOUT_MS}ms'`);
  await db.sql(`ALTER DATABASE ${db.name} SET logical_decoding_work_mem = '64kB'`);
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
});
afterEach(() => db.drop());

const walsender = async () => {
  const [row] = await db.sql(`SELECT active_pid AS pid FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
  return row.pid as number | null;
};

/** Looks all the time, for longer than Postgres would put up with silence. */
async function unchanged(pid: number | null): Promise<void> {
  expect(pid).not.toBeNull();
  const until = performance.now() + BLOCKED_MS;
  await eventually('the time is over', async () => {
    expect(await walsender()).toBe(pid);
    return performance.now() > until;
  });
}

test('a disk that hangs for three timeouts costs no connection', async () => {
  const disk = gatedDisk();
  const states: string[] = [];
  const captured = await startCapturing(db, {
    store: { fileSystem: disk.fileSystem },
    onCapture: (state) => void states.push(state.kind),
  });
  try {
    const pid = await walsender();
    disk.shut();
    // More than may be on its way to the disk, so that the socket is not read; first one that is held while it is replayed.
    await db.sql(`INSERT INTO t SELECT j, repeat('x', 600) FROM generate_series(1, 20000) j`);
    await eventually('the disk hangs', () => disk.waiting > 0);
    for (let i = 1; i <= 20; i++) {
      await db.sql(`INSERT INTO t SELECT ${i} * 100000 + j, repeat('x', 600) FROM generate_series(1, 50) j`);
    }
    await unchanged(pid);
    disk.open();
    expect((await captured.caughtUp()).map(({ changes }) => changes.length)).toEqual([20_000, ...Array(20).fill(50)]);
    expect(states).toEqual(['connecting', 'streaming']);
  } finally {
    disk.open();
    await captured.remove();
  }
});

test('a destination that takes nothing for three timeouts costs no connection', async () => {
  const remote = await startBlockableStore();
  const destination = { basin: remote.basin, stream: 's', endpoint: remote.url, access_token: remote.token };
  const millrace = await startMillrace(db, { sinks: [{ destination }] });
  try {
    await db.sql(`INSERT INTO t VALUES (0, 'first')`);
    await eventually('the first has arrived', async () => (await remote.count('s')) === 1);
    const pid = await walsender();
    await remote.block();
    await db.sql(`INSERT INTO t SELECT i, repeat('x', 600) FROM generate_series(1, 20000) i`);
    await unchanged(pid);
    await remote.unblock();
    await eventually('all has arrived', async () => (await remote.count('s')) === 20_001);
    expect(await walsender()).toBe(pid);
  } finally {
    await millrace.remove();
    await remote.remove();
  }
});
