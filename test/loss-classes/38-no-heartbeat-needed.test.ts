// Systems that keep their slot moving by writing a heartbeat into the source fail where they may not write: on a replica,
// as a read-only user, in a read-only database. Nothing of ours is written to the source, so there is nothing to fail.
import { createDatabase } from '@millrace/testkit/postgres';
import { expect, test } from 'vitest';
import { eventually, startMillrace } from '../end-to-end/millrace.ts';

test('a user that may only read captures, and keeps the slot moving while the database is idle', async () => {
  const db = await createDatabase();
  const busy = await createDatabase();
  const role = `${db.name}_reader`;
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION millrace FOR TABLE t`);
  await db.sql(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
  await db.sql(`CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'secret'; GRANT SELECT ON t TO ${role};
    REVOKE CREATE, TEMPORARY ON DATABASE ${db.name} FROM PUBLIC; REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    ALTER ROLE ${role} SET default_transaction_read_only = on`);
  const url = `postgres://${role}:secret@${db.config.host}:${db.config.port}/${db.name}`;
  const [{ before }] = await db.sql(`SELECT count(*)::int AS before FROM pg_class`);
  const millrace = await startMillrace({ ...db, url });
  try {
    await busy.sql('CREATE TABLE noise (v text)');
    for (let round = 0; round < 2; round++) {
      await busy.sql(`INSERT INTO noise SELECT repeat('x', 100) FROM generate_series(1, 1000)`);
      const [{ lsn }] = await db.sql('SELECT pg_current_wal_flush_lsn() AS lsn');
      await eventually('the slot moves', async () => {
        const [row] = await db.sql(
          `SELECT confirmed_flush_lsn >= '${lsn}'::pg_lsn AS passed FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
        );
        return row.passed;
      });
      await db.sql(`INSERT INTO t VALUES (${round})`);
      expect((await millrace.atLeast(round + 1)).map(({ record }) => record['id'])).toEqual([
        ...Array(round + 1).keys(),
      ]);
    }
    expect(millrace.lines.filter((line) => /Retrying/.test(line))).toEqual([]);
    const [{ after }] = await db.sql(`SELECT count(*)::int AS after FROM pg_class`);
    expect(after).toBe(before);
  } finally {
    await millrace.remove();
    await db.sql(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    await db.drop();
    await busy.drop();
  }
});
