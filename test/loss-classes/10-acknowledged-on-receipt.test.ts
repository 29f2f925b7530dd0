// The client library acknowledges by a timer what it has received, processed or not: a crash after that loses it. Ours is
// left alone with what it received for many status updates; Postgres must still have all of it.
import { PgConnection } from '@millrace/postgres/connection';
import { COMMIT } from '@millrace/postgres/pgoutput';
import { startReplication } from '@millrace/postgres/replication';
import { createDatabase } from '@millrace/testkit/postgres';
import { expect, test } from 'vitest';
import { eventually } from '../end-to-end/millrace.ts';

const STATUS_UPDATES = 40;

test.each([false, true])('nothing is acknowledged that was not confirmed (streaming: %s)', async (streaming) => {
  const db = await createDatabase();
  await db.sql(`ALTER DATABASE ${db.name} SET logical_decoding_work_mem = '64kB'`);
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION p FOR TABLE t`);
  await db.sql(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
  const confirmed = async () =>
    (await db.sql(`SELECT confirmed_flush_lsn AS lsn FROM pg_replication_slots WHERE slot_name = '${db.name}'`))[0].lsn;
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
  const before = await confirmed();
  let commits = 0;
  const stream = await startReplication(
    connection,
    { slot: db.name, publications: ['p'], startLsn: 0n, statusIntervalMs: 20, timeoutMs: 400, streaming },
    {
      message: (buffer, start) => void (buffer[start] === COMMIT || buffer[start] === 0x63 ? commits++ : 0),
      keepalive() {},
      burst() {},
      closed() {},
    },
  );
  try {
    await db.sql(`INSERT INTO t VALUES (0, 'small')`);
    await db.sql(`INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 3000) i`);
    await eventually('both have arrived', () => commits === 2);
    const { statusUpdates } = stream.stats;
    await eventually('time has passed', () => {
      stream.requestKeepalive();
      return stream.stats.statusUpdates >= statusUpdates + STATUS_UPDATES;
    });
    expect(await confirmed()).toBe(before);
  } finally {
    await stream.stop();
  }
  expect(await confirmed()).toBe(before);
  await eventually('the slot is free', async () => {
    const [slot] = await db.sql(`SELECT active FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
    return !slot.active;
  });
  const [{ count }] = await db.sql(
    `SELECT count(*)::int AS count FROM pg_logical_slot_peek_binary_changes('${db.name}', NULL, NULL, 'proto_version', '1', 'publication_names', 'p')
     WHERE get_byte(data, 0) = ascii('I')`,
  );
  expect(count).toBe(3001);
  await db.drop();
});
