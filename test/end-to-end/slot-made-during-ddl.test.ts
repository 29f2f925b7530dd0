/**
 * A slot made while a table is being altered. The server that makes it may go on to show the table as it was before:
 * what it did before slot-settling.ts.
 */
import { readFileSync } from 'node:fs';
import { settleSlot } from '@millrace/engine/capture/slot-settling';
import { PgConnection } from '@millrace/postgres/connection';
import { createSlot, dropSlot } from '@millrace/postgres/slot';
import { type OwnPostgres, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { eventually, type Message, type Millrace, startMillrace } from './millrace.ts';

// Transactions that are open keep slots from being made anywhere in their server.
let own: OwnPostgres;
let db: TestDatabase;
let sessions: pg.Client[];
beforeAll(async () => {
  own = await startOwnPostgres({ fsync: 'off' });
});
afterAll(() => own.remove());
beforeEach(async () => {
  db = await own.createDatabase();
  sessions = [];
});
afterEach(async () => {
  for (const session of sessions) await session.end();
  await db.drop();
});

async function session(): Promise<pg.Client> {
  const client = new pg.Client(db.config);
  await client.connect();
  sessions.push(client);
  return client;
}
const replication = () => {
  const { host, port, user, password, database } = db.config;
  return PgConnection.connect({ host, port, user, password, database, ssl: 'disable', replication: true });
};
const { signal } = new AbortController();
/** A transaction alters a table in the middle of the making of the slot that `make` makes. */
async function during<T>(alter: (by: pg.Client) => Promise<unknown>, make: () => Promise<T>): Promise<T> {
  const first = await session();
  const altering = await session();
  const bystander = await session();
  const log = () => readFileSync(own.server.logFile, 'utf8');
  const from = log().length;
  const serverSaid = (what: string) => eventually(`the server says ${what}`, () => log().slice(from).includes(what));
  await first.query('BEGIN; SELECT pg_current_xact_id()');
  const made = make();
  made.catch(() => {});
  await serverSaid('initial starting point');
  await altering.query('BEGIN');
  await alter(altering);
  await first.query('COMMIT');
  await serverSaid('initial consistent point');
  // A change that is decoded before all is known: what is known then is kept.
  await bystander.query(`BEGIN; INSERT INTO other VALUES (1)`);
  await altering.query('COMMIT');
  await serverSaid('found consistent point');
  await bystander.query('COMMIT');
  return await made;
}
const TABLES = 'CREATE TABLE t (id int PRIMARY KEY, gone text); CREATE TABLE other (id int)';
const ALTER = 'ALTER TABLE t DROP COLUMN gone, ADD COLUMN come int DEFAULT 7';
const recordsOf = (messages: readonly Message[], table: string) =>
  messages.filter(({ metadata }) => metadata.table_name === table).map(({ record }) => record);

const lastRow = (millrace: Millrace, id: number) =>
  eventually('the last row', async () =>
    recordsOf(await millrace.messages(), 't').some((record) => record['id'] === id),
  );

test('rows have the columns that their table has, also after the next start', async () => {
  await db.sql(TABLES);
  const millrace = await during(
    (by) => by.query(ALTER),
    () => startMillrace(db),
  );
  try {
    await db.sql('INSERT INTO t VALUES (1, 2)');
    await lastRow(millrace, 1);
    expect(recordsOf(await millrace.messages(), 't')).toEqual([{ id: 1, come: 2 }]);
  } finally {
    await millrace.stop();
  }
  const again = await startMillrace(db, { dataDir: millrace.dataDir });
  try {
    await db.sql('INSERT INTO t VALUES (2, 3)');
    await lastRow(again, 2);
    expect(recordsOf(await again.messages(), 't')).toEqual([
      { id: 1, come: 2 },
      { id: 2, come: 3 },
    ]);
  } finally {
    await again.remove();
  }
});

test('rows that follow a repair have the columns that their table has, and so has what the repair says', async () => {
  await db.sql(TABLES);
  const options = { slot: { on_loss: 'repair' }, sinks: [{ initial_backfill: true }] };
  const before = await startMillrace(db, options);
  await db.sql(`INSERT INTO t VALUES (1, 'old')`);
  await before.atLeast(1);
  await eventually('the index has all rows', () => before.server.pipelines[0]!.rowIndex!.filled);
  await before.stop();
  await db.sql('SELECT pg_drop_replication_slot($1)', [db.name]);
  await db.sql('DELETE FROM t');
  const millrace = await during(
    (by) => by.query(`${ALTER}; INSERT INTO t VALUES (2, 2)`),
    () => startMillrace(db, { ...options, dataDir: before.dataDir }),
  );
  try {
    await db.sql('INSERT INTO t VALUES (3, 3)');
    await lastRow(millrace, 3);
    expect(recordsOf(await millrace.messages(), 't').slice(1)).toEqual(
      expect.arrayContaining([
        { id: 1, come: null },
        { id: 2, come: 2 },
        { id: 3, come: 3 },
      ]),
    );
  } finally {
    await millrace.remove();
  }
});

test('an event trigger that forbids the temporary table does not keep the first start from its slot', async () => {
  await db.sql(TABLES);
  for (const raise of [`RAISE 'DDL goes through the migration tool'`, `RAISE feature_not_supported`]) {
    await db.sql(`CREATE FUNCTION no_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN ${raise}; END $$;
      CREATE PUBLICATION millrace FOR TABLE t;
      CREATE EVENT TRIGGER no_ddl ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION no_ddl()`);
    const millrace = await startMillrace(db);
    try {
      expect(millrace.lines.filter((line) => line.includes('an event trigger forbids it'))).toHaveLength(1);
      await db.sql(`INSERT INTO t VALUES (1, 'a')`);
      await millrace.atLeast(1);
    } finally {
      await millrace.remove();
    }
    await db.sql(`DROP EVENT TRIGGER no_ddl; DROP FUNCTION no_ddl; DROP PUBLICATION millrace; DELETE FROM t;
      SELECT pg_drop_replication_slot('${db.name}')`);
  }
});

test('a repair without room for both of its slots says so, leaves none, and does not count as one', async () => {
  await db.sql(TABLES);
  const options = { slot: { on_loss: 'repair' }, sinks: [{ initial_backfill: true }] };
  const before = await startMillrace(db, options);
  await eventually('the index has all rows', () => before.server.pipelines[0]!.rowIndex!.filled);
  await before.stop();
  await db.sql('SELECT pg_drop_replication_slot($1)', [db.name]);
  const [{ free }] = await db.sql(
    `SELECT current_setting('max_replication_slots')::int - count(*)::int AS free FROM pg_replication_slots`,
  );
  const fill = (each: string) => db.sql(`SELECT ${each} FROM generate_series(1, ${free - 1}) i`);
  await fill(`pg_create_physical_replication_slot('fill_' || i)`);
  const again = () => startMillrace(db, { ...options, dataDir: before.dataDir });
  await expect(again()).rejects.toMatchObject({ code: 'pg_no_free_slots' });
  expect(await db.sql('SELECT FROM pg_replication_slots WHERE slot_name = $1', [db.name])).toEqual([]);
  await fill(`pg_drop_replication_slot('fill_' || i)`);
  const millrace = await again();
  try {
    expect(millrace.lines.join('\n')).toContain('attempt 1 of 5');
  } finally {
    await millrace.remove();
  }
});

test('a slot that somebody else made meanwhile is not moved; its doubtful tables are named, and what follows is right', async () => {
  await db.sql(`${TABLES}; CREATE PUBLICATION millrace FOR ALL TABLES`);
  await during(
    (by) => by.query(ALTER),
    () => db.sql(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`),
  );
  await db.sql(`INSERT INTO other VALUES (2)`);
  const millrace = await startMillrace(db);
  try {
    await db.sql('INSERT INTO t VALUES (1, 2)');
    await lastRow(millrace, 1);
    expect(recordsOf(await millrace.messages(), 't')).toEqual([{ id: 1, come: 2 }]);
    // What was waiting in it is there: of the transaction that ran while it was made, and of the one after.
    expect(recordsOf(await millrace.messages(), 'other')).toEqual([{ id: 1 }, { id: 2 }]);
    expect(millrace.lines.join('\n')).toMatch(/public\.t: made or altered since slot/);
  } finally {
    await millrace.remove();
  }
});

test('a slot that somebody else made in peace is in no doubt', async () => {
  await db.sql(`${TABLES}; CREATE PUBLICATION millrace FOR ALL TABLES`);
  await db.sql(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
  const millrace = await startMillrace(db);
  try {
    expect(millrace.lines.join('\n')).toContain('made by somebody else');
    expect(millrace.lines.join('\n')).not.toContain('made or altered since');
  } finally {
    await millrace.remove();
  }
});

test('a transaction that does not end is not waited for without end, and no slot is left behind', async () => {
  const connection = await replication();
  const idle = await session();
  try {
    await createSlot(connection, db.name);
    await idle.query('BEGIN; SELECT pg_current_xact_id()');
    const settled = settleSlot({ connection, slot: db.name, writable: connection.config, signal, timeoutMs: 200 });
    await expect(settled).rejects.toMatchObject({
      code: 'pg_slot_creation_timeout',
      hint: expect.stringContaining('pg_stat_activity'),
    });
  } finally {
    await dropSlot(connection, db.name);
    await connection.close();
  }
});

test('a role that may make no temporary table gets the slot as it is, and is told so', async () => {
  const role = `${db.name}_reader`;
  await db.sql(`REVOKE TEMPORARY ON DATABASE ${db.name} FROM PUBLIC; CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'x';
    CREATE TABLE t (id int PRIMARY KEY); GRANT SELECT ON t TO ${role}; CREATE PUBLICATION millrace FOR TABLE t`);
  const url = new URL(db.url);
  url.username = role;
  url.password = 'x';
  const millrace = await startMillrace({ ...db, url: url.href });
  try {
    expect(millrace.lines.join('\n')).toContain('may not make a temporary table');
    await db.sql('INSERT INTO t VALUES (1)');
    expect((await millrace.atLeast(1))[0]!.record).toEqual({ id: 1 });
  } finally {
    await millrace.remove();
    await db.sql(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  }
});

test('a transaction that runs while the slot is made, and commits after, is there whole or not at all', async () => {
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
  const early = await session();
  const starting = startMillrace(db);
  await eventually('the slot is there', async () => {
    const rows = await db.sql(`SELECT FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
    return rows.length > 0;
  });
  await early.query('BEGIN; INSERT INTO t VALUES (1)');
  await early.query('INSERT INTO t VALUES (2); COMMIT');
  const millrace = await starting;
  try {
    await db.sql('INSERT INTO t VALUES (3)');
    await eventually('the last one', async () => (await millrace.messages()).some(({ record }) => record['id'] === 3));
    const ids = (await millrace.messages()).map(({ record }) => record['id']);
    expect([[3], [1, 2, 3]]).toContainEqual(ids);
  } finally {
    await millrace.remove();
  }
});
