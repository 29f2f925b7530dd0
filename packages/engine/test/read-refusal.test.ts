import { explainRefusal } from '@millrace/engine/backfill/read-refusal';
import { PgConnection } from '@millrace/postgres/connection';
import { createDatabase } from '@millrace/testkit/postgres';
import { expect, onTestFinished, test } from 'vitest';

test('the condition of a backfill is named for what is gone, where it has one', async () => {
  const db = await createDatabase();
  onTestFinished(() => db.drop());
  const connection = await PgConnection.connect({ ...db.config, ssl: 'disable' });
  onTestFinished(() => connection.close());
  for (const sql of ['SELECT gone', 'SELECT FROM gone', `SELECT 'gone.t'::regclass`]) {
    const error = await connection.query(sql).then(
      () => expect.unreachable(),
      (refusal: unknown) => refusal,
    );
    const explain = (range: { where?: string }) => explainRefusal(error, range) as { code: string; hint: string };
    expect(explain({ where: 'v = 1' })).toMatchObject({ code: 'backfill_invalid' });
    expect(explain({ where: 'v = 1' }).hint).toMatch(/\(where\).*Cancel it/);
    expect(explain({})).toMatchObject({ code: 'backfill_invalid' });
    expect(explain({}).hint).not.toMatch(/where|condition/);
    expect(explain({}).hint).toMatch(/[Rr]esume it/);
  }
});
