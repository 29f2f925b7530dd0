// Changes that nobody asked for, in tables that are not published or that no sink takes, are never acknowledged: the WAL
// of a busy database piles up because the tables somebody wanted are quiet.
import { createDatabase } from '@millrace/testkit/postgres';
import { expect, test } from 'vitest';
import { eventually, startMillrace } from '../end-to-end/millrace.ts';

test('writes to unpublished tables and to tables no sink takes move the slot', async () => {
  const db = await createDatabase();
  await db.sql(`CREATE TABLE wanted (id int PRIMARY KEY); CREATE TABLE unwanted (id int PRIMARY KEY, v text);
    CREATE TABLE unpublished (id serial, v text)`);
  const publication = { init_sql: 'CREATE PUBLICATION millrace FOR TABLE wanted, unwanted' };
  const sinks = [{ source: { include_tables: ['wanted'] } }];
  const millrace = await startMillrace(db, { publication, sinks });
  const acknowledged = async (what: string) => {
    const [{ lsn }] = await db.sql('SELECT pg_current_wal_flush_lsn() AS lsn');
    await eventually(`the slot passes ${what}`, async () => {
      const [row] = await db.sql(
        `SELECT confirmed_flush_lsn >= '${lsn}'::pg_lsn AS passed FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
      );
      return row.passed;
    });
  };
  try {
    for (let round = 0; round < 2; round++) {
      await db.sql(`INSERT INTO unpublished (v) SELECT repeat('x', 500) FROM generate_series(1, 5000)`);
      await acknowledged('what is not published');
      await db.sql(
        `INSERT INTO unwanted SELECT i + ${round * 10_000}, repeat('x', 500) FROM generate_series(1, 5000) i`,
      );
      await acknowledged('what no sink takes');
    }
    // Nor does the log keep what no sink will ever read.
    const { log, deliveries } = millrace.server.pipelines[0]!;
    await eventually('the sink has passed it too', () => deliveries[0]!.savedPosition.lsn >= log.durableLsn);
    await db.sql('INSERT INTO wanted VALUES (1)');
    expect((await millrace.atLeast(1)).map(({ record }) => record)).toEqual([{ id: 1 }]);
  } finally {
    await millrace.remove();
    await db.drop();
  }
});
