/** Logical messages outside of transactions, and truncates of several tables: each has a position of its own in the log. */
import { ORDINAL_END } from '@millrace/core/position';
import { PgConnection } from '@millrace/postgres/connection';
import { BEGIN, decodeBegin, decodeMessage, MESSAGE } from '@millrace/postgres/pgoutput';
import { startReplication } from '@millrace/postgres/replication';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Captured, startCapturing } from './captured-log.ts';

let db: TestDatabase;
let captured: Captured | undefined;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)');
});
afterEach(async () => {
  await captured?.remove();
  captured = undefined;
  await db.drop();
});

const emit = (prefix: string, content = '') => `SELECT pg_logical_emit_message(false, '${prefix}', '${content}')`;

test('a message right before a commit record takes nothing away from the transaction', async () => {
  captured = await startCapturing(db);
  for (let round = 0; round < 3; round++) {
    // The commit record begins where the record of the message ends.
    await db.sql(`BEGIN; INSERT INTO t VALUES (${round}); ${emit('loose', String(round))}; COMMIT`);
    const { dir } = captured;
    await captured.caughtUp();
    await captured.stop();
    captured = await startCapturing(db, { dir });
  }
  const all = await captured.caughtUp();
  expect(all.flatMap(({ changes }) => changes)).toEqual([
    'message loose 0',
    'insert t {"id":"0"}',
    'message loose 1',
    'insert t {"id":"1"}',
    'message loose 2',
    'insert t {"id":"2"}',
  ]);
  expect(all.filter(({ xid }) => xid === 0).length).toBe(3);
  for (const { lsn, xid } of all) {
    const next = all.find((other) => other.lsn > lsn);
    if (xid === 0) expect(next!.lsn).toBe(lsn + 1n);
  }
  const now = Date.now() * 1000;
  for (const { commitTimeMicros } of all) expect(Math.abs(Number(commitTimeMicros) - now)).toBeLessThan(60_000_000);
});

test('our own messages stay out, but for those about schema changes', async () => {
  captured = await startCapturing(db);
  const prefixes = [
    'millrace.heartbeat',
    'millrace.anything',
    'millrace.ddl',
    'millrace.ddlx',
    'millracex',
    'millrace',
  ];
  for (const prefix of prefixes) await db.sql(emit(prefix, 'x'));
  await db.sql(
    `BEGIN; SELECT pg_logical_emit_message(true, 'millrace.heartbeat', 'y'); INSERT INTO t VALUES (1); COMMIT`,
  );
  const all = await captured.caughtUp();
  expect(all.flatMap(({ changes }) => changes)).toEqual([
    'message millrace.ddl x',
    'message millracex x',
    'message millrace x',
    'insert t {"id":"1"}',
  ]);
  expect(all.at(-1)!.ordinals).toEqual([0]);
});

test('a truncate has a position for each of its tables', async () => {
  captured = await startCapturing(db);
  await db.sql('BEGIN; INSERT INTO t VALUES (1); TRUNCATE t, u; INSERT INTO u VALUES (1); COMMIT');
  const [only] = await captured.caughtUp();
  expect(only!.changes).toEqual(['insert t {"id":"1"}', 'truncate t', 'truncate u', 'insert u {"id":"1"}']);
  expect(only!.ordinals).toEqual([0, 1, 2, 3]);
  expect(only!.ordinals.at(-1)).toBeLessThan(ORDINAL_END);
});

test('Postgres sends a message again until the end of its record is confirmed, and the commit behind it always', async () => {
  await db.sql(`CREATE PUBLICATION "all" FOR ALL TABLES`);
  await db.sql(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
  const { host, port, user, password, database } = db.config;

  /** The end LSN of the message and the LSN of the transaction, of those that come, from `startLsn` on. */
  async function sent(startLsn: bigint): Promise<{ message: bigint | null; commit: bigint | null }> {
    const connection = await PgConnection.connect({
      host,
      port,
      user,
      password,
      database,
      ssl: 'disable',
      replication: true,
    });
    const [{ lsn }] = await db.sql(`SELECT (pg_current_wal_flush_lsn() - '0/0')::text AS lsn`);
    const found: { message: bigint | null; commit: bigint | null } = { message: null, commit: null };
    const past = Promise.withResolvers<void>();
    const stream = await startReplication(
      connection,
      { slot: db.name, publications: ['all'], startLsn },
      {
        message(buffer, start, end) {
          if (buffer[start] === MESSAGE) found.message = decodeMessage(buffer, start, end).lsn;
          if (buffer[start] === BEGIN) found.commit = decodeBegin(buffer, start, end).finalLsn;
        },
        keepalive: (walEnd) => (walEnd >= BigInt(lsn) ? past.resolve() : undefined),
        burst() {},
        closed: (error) => (error === null ? past.resolve() : past.reject(error)),
      },
    );
    stream.requestKeepalive();
    await past.promise;
    await stream.stop();
    return found;
  }

  await db.sql(`BEGIN; INSERT INTO t VALUES (1); ${emit('loose')}; COMMIT`);
  const first = await sent(0n);
  const end = first.message!;
  expect(first.commit).toBe(end);
  // What was received and not confirmed comes again; from inside the record on only what follows it does.
  expect(await sent(0n)).toEqual(first);
  expect(await sent(end - 1n)).toEqual({ message: null, commit: end });
  expect(await sent(end)).toEqual({ message: null, commit: end });
  // One byte further, the transaction would be lost: that is why the log acknowledges exactly the end of the record.
  expect(await sent(end + 1n)).toEqual({ message: null, commit: null });
});
