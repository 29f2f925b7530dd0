/**
 * Transactions sent while they are in progress, from a real Postgres: what reaches the log is what was committed, whole,
 * in commit order, and nothing else.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { StreamedTransactions } from '@millrace/engine/capture/streamed-transactions';
import { TransactionSpool } from '@millrace/engine/capture/transaction-spool';
import { mountSmallDisk } from '@millrace/testkit/full-disk';
import { type OwnPostgres, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Captured, type CapturedTransaction, startCapturing } from './captured-log.ts';

// A transaction that is open keeps slots from being made anywhere in its server.
let own: OwnPostgres;
let db: TestDatabase;
let captured: Captured | undefined;
const sessions: pg.Client[] = [];

beforeAll(async () => {
  own = await startOwnPostgres({ fsync: 'off', max_prepared_transactions: '5' });
});
afterAll(() => own.remove());
beforeEach(async () => {
  db = await own.createDatabase();
  // Everything above this is sent while it is in progress.
  await db.sql(`ALTER DATABASE ${db.name} SET logical_decoding_work_mem = '64kB'`);
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)`);
});
afterEach(async () => {
  for (const session of sessions.splice(0)) await session.end();
  await captured?.remove();
  captured = undefined;
  vi.restoreAllMocks();
  await db.drop();
});

async function session(): Promise<(sql: string) => Promise<unknown>> {
  const client = new pg.Client({ ...db.config });
  client.on('error', () => {});
  await client.connect();
  sessions.push(client);
  return (sql) => client.query(sql);
}

/** Rows from..to of a table, large enough together that they are sent before the commit. */
const rows = (from: number, to: number, table = 't', v = 'x') =>
  `INSERT INTO ${table} (id, v) SELECT i, '${v}' FROM generate_series(${from}, ${to}) i`;
const many = 2000;

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 40_000;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error('it never held');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Waits until Postgres has sent this much of what is in progress. */
const spooled = (transactions: number, bytes = 1) =>
  until(() => {
    captured!.capture.poke();
    const now = captured!.capture.inProgress;
    return now.transactions >= transactions && now.bytes >= bytes;
  });

/** How many of each change, in order of first appearance. */
function summary({ changes }: CapturedTransaction): string {
  const counts = new Map<string, number>();
  for (const change of changes) {
    const kind = change.startsWith('message') ? change : change.replace(/"id":"\d+"/, '"id"').slice(0, 40);
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return [...counts].map(([kind, count]) => `${count} ${kind}`).join('; ');
}

const spoolFiles = () => (existsSync(captured!.spoolDir) ? readdirSync(captured!.spoolDir) : []);

test('interleaved ones arrive whole, in the order of their commits', async () => {
  captured = await startCapturing(db);
  const [a, b, c] = [await session(), await session(), await session()];
  for (const each of [a, b, c]) await each('BEGIN');
  for (let round = 0; round < 4; round++) {
    await a(rows(round * many, round * many + many - 1, 't', 'a'));
    await b(rows(100_000 + round * many, 100_000 + round * many + many - 1, 't', 'b'));
    await c(rows(round * many, round * many + many - 1, 'u', 'c'));
    await db.sql(`INSERT INTO u VALUES (${500_000 + round}, 'small')`);
  }
  await spooled(3);
  await c('COMMIT');
  await a('COMMIT');
  await b('COMMIT');
  const all = await captured.caughtUp();
  expect(all.map(summary)).toEqual([
    ...Array(4).fill('1 insert u {"id","v":"small"}'),
    `${4 * many} insert u {"id","v":"c"}`,
    `${4 * many} insert t {"id","v":"a"}`,
    `${4 * many} insert t {"id","v":"b"}`,
  ]);
  for (const { ordinals } of all) expect(ordinals).toEqual([...ordinals.keys()]);
  expect(captured.capture.inProgress).toEqual({ transactions: 0, bytes: 0 });
  await until(() => spoolFiles().length === 0);
});

describe('what was rolled back does not arrive', () => {
  test('when it is all of the transaction', async () => {
    captured = await startCapturing(db);
    const a = await session();
    await a('BEGIN');
    await a(rows(1, 10 * many));
    await spooled(1, 300_000);
    await until(() => spoolFiles().length === 1);
    await a('ROLLBACK');
    await db.sql(`INSERT INTO t VALUES (0, 'after')`);
    expect((await captured.caughtUp()).map(summary)).toEqual(['1 insert t {"id","v":"after"}']);
    await until(() => spoolFiles().length === 0);
  });

  test('when it is nested savepoints, released ones in a parent that is rolled back, and the last', async () => {
    captured = await startCapturing(db);
    const a = await session();
    await a('BEGIN');
    await a(rows(0, many, 't', 'kept'));
    await a('SAVEPOINT one');
    await a(rows(10_000, 10_000 + many, 't', 'lost'));
    await a('SAVEPOINT two');
    await a(rows(20_000, 20_000 + many, 't', 'lost'));
    await a('RELEASE two');
    await a(rows(30_000, 30_000 + many, 'u', 'lost'));
    await a('ROLLBACK TO one');
    await a(rows(10_000, 10_000 + many, 't', 'again'));
    await a('SAVEPOINT three');
    await a(rows(40_000, 40_000 + many, 't', 'deep'));
    await a('SAVEPOINT four');
    await a(rows(50_000, 50_000 + many, 't', 'lost'));
    await a('ROLLBACK TO four');
    await a('RELEASE three');
    await a('SAVEPOINT five');
    await a(rows(60_000, 60_000 + many, 't', 'lost'));
    await spooled(1, 400_000);
    await a('ROLLBACK TO five');
    await a('COMMIT');
    const [only, ...rest] = await captured.caughtUp();
    expect(rest).toEqual([]);
    expect(summary(only!)).toBe(
      `${many + 1} insert t {"id","v":"kept"}; ${many + 1} insert t {"id","v":"again"}; ${many + 1} insert t {"id","v":"deep"}`,
    );
    expect(only!.ordinals).toEqual([...only!.ordinals.keys()]);
  });

  test('when there are thousands of savepoints', async () => {
    captured = await startCapturing(db);
    await db.sql(`DO $$ BEGIN
      FOR i IN 1..3000 LOOP
        BEGIN
          INSERT INTO t VALUES (i, repeat('y', 100));
          IF i % 2 = 0 THEN RAISE EXCEPTION 'no'; END IF;
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
      END LOOP; END $$`);
    const [only] = await captured.caughtUp();
    const ids = only!.changes.map((change) => Number(/"id":"(\d+)"/.exec(change)![1]));
    expect(ids).toEqual(Array.from({ length: 1500 }, (_, i) => 2 * i + 1));
  });
});

describe('tables that change shape', () => {
  test('within the transaction are read as they were at each row', async () => {
    captured = await startCapturing(db);
    const a = await session();
    await a('BEGIN');
    await a(rows(1, many, 't', 'old'));
    await a('ALTER TABLE t ADD COLUMN more int DEFAULT 7');
    await a(`INSERT INTO t SELECT i, 'new', i FROM generate_series(10001, ${10_000 + many}) i`);
    await a('ALTER TABLE t DROP COLUMN v; ALTER TABLE t RENAME COLUMN more TO less');
    await a(`INSERT INTO t SELECT i, 1 FROM generate_series(20001, ${20_000 + many}) i`);
    await spooled(1, 200_000);
    await a('COMMIT');
    await db.sql('INSERT INTO t VALUES (0, 0)');
    const all = await captured.caughtUp();
    expect(all.map(({ changes }) => [changes[0], changes.at(-1)])).toEqual([
      ['insert t {"id":"1","v":"old"}', `insert t {"id":"${20_000 + many}","less":"1"}`],
      ['insert t {"id":"0","less":"0"}', 'insert t {"id":"0","less":"0"}'],
    ]);
    expect(all[0]!.changes[many]).toBe('insert t {"id":"10001","v":"new","more":"10001"}');
  });

  test('within a savepoint that is rolled back are read as they are without it', async () => {
    captured = await startCapturing(db);
    const a = await session();
    await a('BEGIN');
    await a('SAVEPOINT one');
    await a('ALTER TABLE t ADD COLUMN more int; ALTER TABLE u DROP COLUMN v');
    await a(`INSERT INTO t SELECT i, 'lost', i FROM generate_series(1, ${many}) i`);
    await a(`INSERT INTO u SELECT i FROM generate_series(1, ${many}) i`);
    await spooled(1, 100_000);
    await a('ROLLBACK TO one');
    await a(rows(1, many, 't', 'kept'));
    await a('COMMIT');
    await db.sql(`INSERT INTO u VALUES (1, 'next'); INSERT INTO t VALUES (0, 'next')`);
    const all = await captured.caughtUp();
    expect(all.map(summary)).toEqual([
      `${many} insert t {"id","v":"kept"}`,
      '1 insert u {"id","v":"next"}; 1 insert t {"id","v":"next"}',
    ]);
  });

  test('are known after a transaction in which only a rolled back savepoint had used them', async () => {
    captured = await startCapturing(db);
    const a = await session();
    await a('BEGIN');
    await a('SAVEPOINT one');
    await a(rows(1, many, 't', 'lost'));
    await a(rows(1, many, 'u', 'lost'));
    await spooled(1, 100_000);
    await a('ROLLBACK TO one');
    await a(rows(1, 3, 'u', 'kept'));
    await a('COMMIT');
    await db.sql(`INSERT INTO t VALUES (0, 'next')`);
    await db.sql(`INSERT INTO u VALUES (0, 'next')`);
    expect((await captured.caughtUp()).map(summary)).toEqual([
      '3 insert u {"id","v":"kept"}',
      '1 insert t {"id","v":"next"}',
      '1 insert u {"id","v":"next"}',
    ]);
  });

  test('are read as published when that changes in the middle', async () => {
    const [{ version }] = await db.sql(`SELECT current_setting('server_version_num')::int AS version`);
    // Column lists came with Postgres 15.
    if (version < 150_000) return;
    captured = await startCapturing(db, { publicationSql: 'CREATE PUBLICATION "all" FOR TABLE t, u' });
    const a = await session();
    await a('BEGIN');
    await a(rows(1, many, 't', 'early'));
    await spooled(1, 20_000);
    const { bytes } = captured.capture.inProgress;
    // Pushes what is left of t out before anything changes.
    await a(rows(1, 4 * many, 'u', 'later'));
    await spooled(1, bytes + 3 * 20_000);
    await db.sql('ALTER PUBLICATION "all" SET TABLE t (id), u');
    await db.sql(`INSERT INTO t VALUES (-1, 'between')`);
    await a('COMMIT');
    // Postgres holds t for announced by the one in between, not by the one that committed last.
    await db.sql(`INSERT INTO t VALUES (-2, 'after')`);
    const all = await captured.caughtUp();
    expect(all.map(summary)).toEqual([
      '1 insert t {"id":"-1"}',
      `${many} insert t {"id","v":"early"}; ${4 * many} insert u {"id","v":"later"}`,
      '1 insert t {"id":"-2"}',
    ]);
  });
});

test('a logical message behind a savepoint that is rolled back does not arrive', async () => {
  const states: string[] = [];
  captured = await startCapturing(db, { onCapture: (state) => void states.push(state.kind) });
  const a = await session();
  await a('BEGIN');
  await a(rows(1, many));
  await a(`SELECT pg_logical_emit_message(true, 'outbox', 'kept')`);
  await a('SAVEPOINT one');
  await a(`SELECT pg_logical_emit_message(true, 'outbox', 'lost')`);
  await a(rows(1, many, 'u'));
  await spooled(1, 100_000);
  await a('ROLLBACK TO one');
  await a('COMMIT');
  const [only, ...rest] = await captured.caughtUp();
  expect(rest).toEqual([]);
  expect(summary(only!)).toBe(`${many} insert t {"id","v":"x"}; 1 message outbox kept`);
  // Such a one is sent once more as a whole; the next connection streams again.
  expect(states).toEqual(['connecting', 'streaming', 'connecting', 'connecting', 'streaming']);
});

test('truncates, messages, annotations and changed keys keep their places', async () => {
  await db.sql('CREATE TABLE w (id int PRIMARY KEY, t int REFERENCES t)');
  captured = await startCapturing(db);
  const a = await session();
  await a('BEGIN');
  await a(`SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.set', '{"who":"me"}')`);
  await a(rows(1, many));
  await a('UPDATE t SET id = id + 100000');
  await a('TRUNCATE t, u, w');
  await a(`SELECT pg_logical_emit_message(true, 'outbox', 'hello')`);
  await a(`SELECT pg_logical_emit_message(false, 'loose', 'words')`);
  await a('SAVEPOINT one');
  await a(`SELECT pg_logical_emit_message(true, 'outbox', 'lost')`);
  await a('TRUNCATE u');
  await a(rows(1, many, 'u'));
  await spooled(1, 100_000);
  await a('ROLLBACK TO one');
  await a(rows(1, 2, 'u', 'kept'));
  await a('COMMIT');
  const [loose, whole, ...rest] = await captured.caughtUp();
  expect(rest).toEqual([]);
  expect(loose!.changes).toEqual(['message loose words']);
  const { changes, ordinals } = whole!;
  expect(changes[0]).toBe('message sequin:transaction_annotations.set {"who":"me"}');
  expect(changes[many + 1]).toBe('update t {"id":"100001","v":"x"} was {"id":"1","v":null}');
  const names = changes.slice(2 * many + 1, 2 * many + 4).map((change) => change.split(' '));
  expect(names.map(([kind]) => kind)).toEqual(['truncate', 'truncate', 'truncate']);
  expect(names.map(([, name]) => name).sort()).toEqual(['t', 'u', 'w']);
  expect(changes.slice(2 * many + 4)).toEqual([
    'message outbox hello',
    'insert u {"id":"1","v":"kept"}',
    'insert u {"id":"2","v":"kept"}',
  ]);
  expect(ordinals).toEqual([...ordinals.keys()]);
});

/** Before version 15, transactions without a published change are sent, too: those of the server's own work. */
const withChanges = (transactions: readonly CapturedTransaction[]) =>
  transactions.filter(({ changes }) => changes.length > 0);

test('each change is what it is without streaming', async () => {
  await db.sql(`CREATE TYPE mood AS ENUM ('fine'); ALTER TABLE u ADD COLUMN mood mood`);
  captured = await startCapturing(db);
  const a = await session();
  await db.sql(`SELECT pg_create_logical_replication_slot('${db.name}_plain', 'pgoutput')`);
  await a('BEGIN');
  await a(rows(1, many));
  await a(`INSERT INTO u SELECT i, repeat('z', i), 'fine' FROM generate_series(1, ${many / 4}) i`);
  await a('SAVEPOINT one; DELETE FROM t');
  await a('ROLLBACK TO one');
  await a('UPDATE u SET id = -id WHERE id % 3 = 0; DELETE FROM t WHERE id % 2 = 0');
  await spooled(1, 100_000);
  await a('COMMIT');
  const streamed = await captured.caughtUp();
  const plain = await startCapturing(db, { streaming: false, slot: `${db.name}_plain` });
  try {
    expect(withChanges(await plain.caughtUp())).toEqual(withChanges(streamed));
  } finally {
    await plain.remove();
  }
  expect(streamed[0]!.changes.length).toBeGreaterThan(many);
});

test('one of which nothing is published leaves nothing in the log, and moves it on', async () => {
  captured = await startCapturing(db, { publicationSql: 'CREATE PUBLICATION "all" FOR TABLE u' });
  await db.sql(rows(1, 3 * many));
  const { log } = captured;
  expect(await captured.caughtUp()).toEqual([]);
  expect(log.durableSeq).toBe(0);
  expect(captured.capture.inProgress.transactions).toBe(0);
});

test('one that was rolled back but for its commit leaves nothing that a slot would have to send again', async () => {
  captured = await startCapturing(db);
  await db.sql(`INSERT INTO t VALUES (0, 'before')`);
  await captured.caughtUp();
  // The slot as a crash of the server leaves it: behind what the log holds.
  await db.sql(`SELECT pg_copy_logical_replication_slot('${db.name}', '${db.name}_older')`);
  const a = await session();
  await a('BEGIN; SAVEPOINT one');
  await a(rows(1, 2 * many));
  await spooled(1, 20_000);
  await a('ROLLBACK TO one');
  await a('COMMIT');
  await captured.caughtUp();
  const { dir } = captured;
  await captured.stop();
  captured = await startCapturing(db, { dir, slot: `${db.name}_older` });
  await db.sql(`INSERT INTO t VALUES (9999999, 'after')`);
  expect(withChanges(await captured.caughtUp()).map(summary)).toEqual([
    '1 insert t {"id","v":"before"}',
    '1 insert t {"id","v":"after"}',
  ]);
});

test('one of which nothing is published is not waited for when the connection is lost at its commit', async () => {
  // A held connection is seen to be lost when it is written to, and that is the more often.
  await db.sql(`ALTER DATABASE ${db.name} SET wal_sender_timeout = '3s'`);
  captured = await startCapturing(db, { publicationSql: 'CREATE PUBLICATION "all" FOR TABLE u' });
  const disk = Promise.withResolvers<void>();
  const read = vi.spyOn(TransactionSpool.prototype, 'read').mockImplementationOnce(() => disk.promise);
  const finished = vi.spyOn(StreamedTransactions.prototype, 'finished');
  await db.sql(rows(1, 3 * many));
  await until(() => read.mock.calls.length > 0);
  await db.sql(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
  await until(() => finished.mock.calls.length > 0);
  disk.resolve();
  await db.sql(rows(1, 1, 'u'));
  expect((await captured.caughtUp()).map(({ changes }) => changes)).toEqual([['insert u {"id":"1","v":"x"}']]);
});

test('a slot that would show one when it is prepared, and say later that it was committed, is refused', async () => {
  await db.sql(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput', false, true)`);
  await expect(startCapturing(db)).rejects.toMatchObject({
    code: 'pg_slot_changed',
    detail: expect.stringContaining('two_phase'),
  });
});

test('one that was prepared arrives when it is committed', async () => {
  captured = await startCapturing(db);
  await db.sql(`BEGIN; ${rows(1, many)}; PREPARE TRANSACTION 'one'`);
  await db.sql(`BEGIN; ${rows(10_001, 10_000 + many)}; PREPARE TRANSACTION 'two'`);
  await spooled(2);
  await db.sql(`INSERT INTO t VALUES (0, 'between')`);
  await db.sql(`COMMIT PREPARED 'two'`);
  await db.sql(`ROLLBACK PREPARED 'one'`);
  expect((await captured.caughtUp()).map(summary)).toEqual([
    '1 insert t {"id","v":"between"}',
    `${many} insert t {"id","v":"x"}`,
  ]);
});

const disk = await mountSmallDisk(4 << 20);
const unavailable = 'unavailable' in disk ? disk.unavailable : null;

test.skipIf(unavailable !== null && process.env['CI'] === undefined)(
  'no room for what is in progress ends capture with a code, and with room nothing is missing',
  async () => {
    if ('unavailable' in disk) throw new Error(disk.unavailable);
    try {
      captured = await startCapturing(db, { spoolDir: join(disk.dir, 'spool') });
      await db.sql(`INSERT INTO t VALUES (0, 'before')`);
      await captured.caughtUp();
      const a = await session();
      await a('BEGIN');
      for (let i = 0; i < 8; i++) await a(rows(1 + i * 10_000, (i + 1) * 10_000, 't', 'x'.repeat(200)));
      await expect(captured.capture.done).rejects.toMatchObject({ code: 'storage_full' });
      await a('COMMIT');
      const { dir } = captured;
      await captured.stop();
      captured = await startCapturing(db, { dir });
      const all = await captured.caughtUp();
      expect(all.map(({ changes }) => changes.length)).toEqual([1, 80_000]);
    } finally {
      await captured?.stop();
      disk.remove();
    }
  },
);
