import { ReaderPool } from '@millrace/engine/backfill/reader-pool';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

let db: TestDatabase;
let locker: pg.Client;
let pool: ReaderPool;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int)');
  locker = new pg.Client(db.config);
  locker.on('error', () => {});
  await locker.connect();
  await locker.query('BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE');
  pool = new ReaderPool({ ...db.config, ssl: 'disable' }, 1);
});
afterEach(async () => {
  await locker.end();
  await pool.close();
  await db.drop();
});

test('who is stopped waits neither for a lock nor for a session, and the others get theirs', async () => {
  const stopping = [new AbortController(), new AbortController()] as const;
  const read = (signal: AbortSignal, sql: string) => pool.use(signal, (connection) => connection.query(sql));
  const locked = read(stopping[0].signal, 'SELECT FROM t');
  await vi.waitFor(async () =>
    expect(await db.sql(`SELECT count(*)::int AS n FROM pg_locks WHERE NOT granted`)).toEqual([{ n: 1 }]),
  );
  const waiting = read(stopping[1].signal, 'SELECT 1');
  const other = read(new AbortController().signal, 'SELECT 2');
  stopping[1].abort();
  await expect(waiting).rejects.toBeDefined();
  stopping[0].abort();
  await expect(locked).rejects.toBeDefined();
  expect((await other).rows).toEqual([['2']]);
  // Sooner than a lock is given up.
}, 20_000);
