/** What is planned of a table that changes while it is looked at. */
import { ChunkQuery } from '@millrace/engine/backfill/chunk-query';
import { RowChunk } from '@millrace/engine/backfill/row-chunk';
import { planTable } from '@millrace/engine/backfill/table-plan';
import { readChunk, TableChanged } from '@millrace/engine/backfill/table-reader';
import { PgConnection } from '@millrace/postgres/connection';
import { createDatabase } from '@millrace/testkit/postgres';
import { expect, onTestFinished, test } from 'vitest';

/** More than a plan takes. */
const QUERIES_MAX = 40;

test('a column that comes or goes between any two of its questions is read with, or the plan is made anew', async () => {
  const db = await createDatabase();
  onTestFinished(() => db.drop());
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t VALUES (1, 'a');
    CREATE PUBLICATION p FOR TABLE t`);
  const [{ oid }] = (await db.sql(`SELECT 't'::regclass::oid::int AS oid`)) as [{ oid: number }];
  const connection = await PgConnection.connect({ ...db.config, ssl: 'disable' });
  onTestFinished(() => connection.close());
  const query = connection.query.bind(connection);
  let asked = 0;
  let changeAfter = 0;
  let change = '';
  connection.query = async (sql) => {
    const result = await query(sql);
    if (++asked === changeAfter) await db.sql(change);
    return result;
  };
  let changed = 0;
  for (let after = 1; after <= QUERIES_MAX; after++) {
    for (change of [`ALTER TABLE t ADD COLUMN x text DEFAULT 'x'`, 'ALTER TABLE t DROP COLUMN x']) {
      asked = 0;
      changeAfter = after;
      const plan = await planTable(connection, 'p', oid);
      changeAfter = 0;
      if (asked < after) {
        expect(changed).toBeGreaterThan(10);
        return;
      }
      changed++;
      const [unit] = plan.whole;
      const read = readChunk(connection, plan, new ChunkQuery(plan, unit!, 'key', {}), WHOLE, 10, new RowChunk());
      const names = unit!.schema.columns.map(({ name }) => name);
      const now = change.includes('ADD') ? ['id', 'note', 'x'] : ['id', 'note'];
      const outcome = await read.then(
        () => names,
        (error: unknown) => error,
      );
      if (!(outcome instanceof TableChanged || isGone(outcome))) expect(outcome, `after ${after}`).toEqual(now);
    }
  }
  expect.unreachable('the plan asks more than that');
});

const WHOLE = { after: null, through: null };

function isGone(outcome: unknown): boolean {
  return (outcome as { sqlState?: string }).sqlState === '42703';
}
