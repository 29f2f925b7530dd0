import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually, type Millrace, startMillrace } from './millrace.ts';

let db: TestDatabase;
let millrace: Millrace | null = null;
let role: string;
beforeEach(async () => {
  db = await createDatabase();
  role = `reader_${db.name}`;
  await db.sql(`CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'secret'`);
});
afterEach(async () => {
  await millrace?.remove();
  millrace = null;
  await db.sql(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  await db.drop();
});

test('a table that may not be read is not compared, and keeps no other from it', async () => {
  await db.sql(`CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY);
    INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); INSERT INTO c VALUES (1);
    GRANT SELECT ON a, b, c TO ${role}; CREATE PUBLICATION millrace FOR TABLE a, b, c`);
  const url = new URL(db.url);
  url.username = role;
  url.password = 'secret';
  millrace = await startMillrace(
    { ...db, url: url.href },
    {
      publication: { create_if_not_exists: false },
      sinks: [{ initial_backfill: true }],
      database: { audit: { enabled: true, rows_per_second: 1_000_000, pause_minutes: 0 } },
    },
  );
  const { verifier, auditor, backfills } = millrace.server.pipelines[0]!;
  await eventually('all is read', () =>
    backfills
      .get('sink')!
      .list()
      .every(({ state }) => state === 'completed'),
  );
  await eventually('all is audited', () => auditor!.status.lastFullPassAt !== null);
  await db.sql(
    'ALTER PUBLICATION millrace DROP TABLE a; INSERT INTO a VALUES (2); ALTER PUBLICATION millrace ADD TABLE a',
  );
  await eventually('drift is found', () => auditor!.status.drift === 1);
  await db.sql(`ALTER TABLE a ENABLE ROW LEVEL SECURITY; REVOKE SELECT ON b FROM ${role}`);
  const { tables } = await verifier.sink('sink', { rowsPerSecond: 0, signal: AbortSignal.timeout(60_000) });
  expect(tables.map(({ name, skipped, rowsCompared }) => [name, skipped, rowsCompared])).toEqual([
    ['a', expect.stringMatching(/^it may not be read: .*row-level security/), 0],
    ['b', expect.stringMatching(/^it may not be read: permission denied/), 0],
    ['c', null, 1],
  ]);
  await eventually('the auditor goes on with the others', () => auditor!.status.skipped === 2);
  // That of the last comparison of each table.
  expect(auditor!.status.drift).toBe(1);
});
