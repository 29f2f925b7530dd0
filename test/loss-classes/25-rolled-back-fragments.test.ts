// With streaming a server sends rows that are rolled back later, by savepoint or altogether. What leaks out of them was
// never in the database. Here much is sent and taken back, and nothing of it may arrive, also when the engine is killed
// while it holds the pieces.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { type OwnPostgres, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { eventually, startMillrace } from '../end-to-end/millrace.ts';
import { engineProcess } from './engine-process.ts';

// A transaction that is open keeps slots from being made anywhere in its server.
let own: OwnPostgres;
let db: TestDatabase;
let writer: pg.Client;
beforeAll(async () => {
  own = await startOwnPostgres({ fsync: 'off' });
});
afterAll(() => own.remove());
beforeEach(async () => {
  db = await own.createDatabase();
  await db.sql(`ALTER DATABASE ${db.name} SET logical_decoding_work_mem = '64kB'`);
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
  writer = new pg.Client({ ...db.config });
  await writer.connect();
});
afterEach(async () => {
  await writer.end();
  await db.drop();
});

const rows = (from: number, count: number) =>
  writer.query(`INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series($1::int, $2::int) i`, [
    from,
    from + count - 1,
  ]);

test('savepoints that are rolled back and a transaction that is aborted after 20 MB leave nothing', async () => {
  const millrace = await startMillrace(db);
  const { capture } = millrace.server.pipelines[0]!;
  const received = (bytes: number) => eventually('it is received', () => capture.inProgress.bytes >= bytes);
  try {
    await writer.query('BEGIN');
    await rows(1_000_000, 100_000);
    await received(20 << 20);
    await writer.query('ROLLBACK');
    await writer.query('BEGIN');
    await rows(1, 5);
    await writer.query('SAVEPOINT a');
    await rows(10_000, 2_000);
    await writer.query('SAVEPOINT b');
    await rows(20_000, 2_000);
    await writer.query('RELEASE b');
    await received(600_000);
    await writer.query('ROLLBACK TO a');
    await rows(6, 5);
    await writer.query('COMMIT');
    await db.sql(`INSERT INTO t VALUES (11, '')`);
    expect((await millrace.atLeast(11)).map(({ record }) => record['id'])).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    await eventually('nothing is kept', () => capture.inProgress.transactions === 0);
  } finally {
    await millrace.remove();
  }
});

test('killed while it holds fragments, and while it writes them to the log, it has each transaction once and whole', async () => {
  const engine = await engineProcess(db);
  const spool = () => {
    try {
      return (readdirSync(join(engine.dataDir, 'spool'), { recursive: true }) as string[]).filter((name) =>
        name.endsWith('.spool'),
      ).length;
    } catch {
      return 0;
    }
  };
  try {
    engine.start();
    await engine.streaming();
    // In the middle of what is received.
    await writer.query('BEGIN');
    await rows(1, 4_000);
    await writer.query('SAVEPOINT a');
    await rows(100_000, 4_000);
    await eventually('fragments are held', () => spool() > 0);
    await engine.process.restart('SIGKILL');
    await engine.streaming();
    await eventually('fragments are sent again', () => spool() > 0);
    await writer.query('ROLLBACK TO a');
    await rows(4_001, 4_000);
    // Around the commit: while it is replayed, acknowledged, delivered.
    for (const delayMs of [0, 30]) {
      if (delayMs === 0) await writer.query('COMMIT');
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      await engine.process.restart('SIGKILL');
      await engine.streaming();
    }
    await engine.delivered();
    await engine.process.kill('SIGTERM');
    const ids = (await engine.messages()).map(({ record }) => record['id']);
    expect(ids).toEqual(Array.from({ length: 8_000 }, (_, i) => i + 1));
    expect(spool()).toBe(0);
  } finally {
    await engine.remove();
  }
}, 120_000);
