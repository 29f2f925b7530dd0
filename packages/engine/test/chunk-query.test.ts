/** The SQL of chunks, run on real tables. */
import { ChunkQuery } from '@millrace/engine/backfill/chunk-query';
import { planTable } from '@millrace/engine/backfill/table-plan';
import { PgConnection } from '@millrace/postgres/connection';
import { createDatabase } from '@millrace/testkit/postgres';
import { expect, onTestFinished, test } from 'vitest';

async function connect() {
  const db = await createDatabase();
  onTestFinished(() => db.drop());
  const connection = await PgConnection.connect({ ...db.config, ssl: 'disable' });
  onTestFinished(() => connection.close());
  return { db, connection };
}

test('a column of the key may have the name that Postgres gives to an expression', async () => {
  const { db, connection } = await connect();
  await db.sql(`CREATE TABLE t ("case" int, v int, doc text, PRIMARY KEY ("case", v)); INSERT INTO t VALUES (2, 1, 'd'), (1, 1, 'c');
    CREATE PUBLICATION played FOR TABLE t`);
  const [{ oid }] = (await db.sql(`SELECT 't'::regclass::oid::int AS oid`)) as [{ oid: number }];
  const plan = await planTable(connection, 'played', oid);
  const late = new ChunkQuery(plan, plan.whole[0]!, 'key', {}, null);
  const { rows } = await connection.query(late.chunk({ after: null, through: null }, 10));
  expect(rows.map(([key]) => key)).toEqual(['1', '2']);
});
