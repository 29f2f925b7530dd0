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
import { eventually, type Millrace, startMillrace } from './millrace.ts';

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
const serverSaid = (what: string) =>
  eventually(`the server says ${what}`, () => readFileSync(own.server.logFile, 'utf8').includes(what));

/** Starts Millrace so that a transaction alters a table in the middle of the making of its slot. */
async function startDuring(alter: (by: pg.Client) => Promise<unknown>): Promise<Millrace> {
  const first = await session();
  const altering = await session();
  const bystander = await session();
  await first.query('BEGIN; SELECT pg_current_xact_id()');
  const starting = startMillrace(db);
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
  return await starting;
}

test('rows have the columns that their table has, also after the next start', async () => {
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, gone text); CREATE TABLE other (id int)');
  const millrace = await startDuring((by) => by.query(`ALTER TABLE t DROP COLUMN gone, ADD COLUMN come int DEFAULT 7`));
  try {
    await db.sql('INSERT INTO t VALUES (1, 2)');
    const [message] = await millrace.atLeast(1);
    expect(message!.record).toEqual({ id: 1, come: 2 });
  } finally {
    await millrace.stop();
  }
  const again = await startMillrace(db, { dataDir: millrace.dataDir });
  try {
    await db.sql('INSERT INTO t VALUES (2, 3)');
    expect((await again.atLeast(2)).map(({ record }) => record)).toEqual([
      { id: 1, come: 2 },
      { id: 2, come: 3 },
    ]);
  } finally {
    await again.remove();
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
