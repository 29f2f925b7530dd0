/**
 * Databases for tests, in a real Postgres. All workers of a test run share one server per major, which starts when the
 * first test asks (global-setup.ts); each test takes a database of its own. A test that stops, kills or configures the
 * server starts its own.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { assert } from '@millrace/core/assert';
import { type EmbeddedPostgres, startPostgres } from '@millrace/embedded-postgres/launcher';
import pg from 'pg';
import { chosenMajor, majorFolder } from './postgres-majors.ts';

/** Where global-setup.ts answers with a ServerAddress; set in the environment of every worker. */
export const BROKER_VARIABLE = 'MILLRACE_TEST_POSTGRES_BROKER';

/** Enough for every test of a run at once. */
export const SHARED_SETTINGS: Readonly<Record<string, string>> = {
  max_connections: '200',
  max_wal_senders: '64',
  max_replication_slots: '64',
  // Nothing in the shared server has to survive a power cut. Commits stay synchronous all the same: a slot shows a
  // transaction only when its WAL is flushed, and the flush costs nothing without fsync.
  fsync: 'off',
  full_page_writes: 'off',
  autovacuum: 'off',
};

const POOL_MAX = 4;

export interface ServerAddress {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly socketDir: string;
}

export interface ConnectionConfig {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
}

export interface TestDatabase {
  readonly url: string;
  readonly name: string;
  readonly config: ConnectionConfig;
  /** Runs one statement (or several, without params) and returns the rows. Reconnects after a restart of the server. */
  // biome-ignore lint/suspicious/noExplicitAny: rows are of whatever shape the test's statement gives them.
  sql<Row extends object = any>(text: string, params?: readonly unknown[]): Promise<Row[]>;
  /** Ends sessions, drops the database's replication slots and the database. Idempotent. */
  drop(): Promise<void>;
}

export interface DatabaseOptions {
  /** `LATIN1`, `EUC_JP`, `SQL_ASCII`, ...; absent: UTF8. */
  readonly encoding?: string;
}

export interface OwnPostgres {
  readonly server: EmbeddedPostgres;
  createDatabase(options?: DatabaseOptions): Promise<TestDatabase>;
  /** Stops the server and removes what it wrote. */
  remove(): Promise<void>;
}

/** A fresh, empty database in the shared server. */
export async function createDatabase(options: DatabaseOptions = {}): Promise<TestDatabase> {
  return createDatabaseIn(await sharedServer(), options);
}

/**
 * A server for one test alone, of the run's major unless the test names one (postgres-majors.ts). Durable unless
 * `settings` say otherwise: a killed server has to recover what it promised.
 */
export async function startOwnPostgres(
  settings: Readonly<Record<string, string>> = {},
  major: number = chosenMajor(),
  environment: Readonly<Record<string, string>> = {},
): Promise<OwnPostgres> {
  const packageFolder = await majorFolder(major);
  const server = await startPostgres({ dir: testDirectory('postgres'), settings, packageFolder, environment });
  return {
    server,
    createDatabase: (options) => createDatabaseIn(server, options),
    remove: () => server.remove(),
  };
}

/** A new directory that global-setup.ts of a later run removes, should this process die before it does. */
export function testDirectory(purpose: string): string {
  return mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-${purpose}-`));
}

export async function createDatabaseIn(
  server: ServerAddress,
  { encoding = 'UTF8' }: DatabaseOptions = {},
): Promise<TestDatabase> {
  const name = `test_${randomBytes(6).toString('hex')}`;
  // The server was made with the C locale, which goes with every encoding.
  await asAdmin(server, (admin) => admin.query(`CREATE DATABASE ${name} TEMPLATE template0 ENCODING '${encoding}'`));
  return openDatabase(server, name, () => asAdmin(server, (admin) => dropDatabase(admin, name)));
}

/** A database that is there already: of a copy of its server, say. `drop` then only lets go of it. */
export function openDatabase(
  server: ServerAddress,
  name: string,
  onDrop: () => Promise<void> = async () => {},
): TestDatabase {
  const { host, port, user, password } = server;
  const config = { host, port, user, password, database: name };
  const pool = new pg.Pool({ ...config, max: POOL_MAX, allowExitOnIdle: true });
  // An idle connection ends when the server restarts; the next statement makes a new one.
  pool.on('error', () => {});
  let dropped = false;
  return {
    url: `postgres://${user}:${encodeURIComponent(password)}@${host}:${port}/${name}`,
    name,
    config,
    async sql(statement, params) {
      const result = await pool.query(statement, params === undefined ? undefined : [...params]);
      return result.rows;
    },
    async drop() {
      if (dropped) return;
      dropped = true;
      await pool.end();
      await onDrop();
    },
  };
}

async function dropDatabase(admin: pg.Client, name: string): Promise<void> {
  // A slot pins its database. Its walsender may need a moment to let go of it.
  const slots = await admin.query<{ slot_name: string }>(
    `SELECT slot_name, pg_terminate_backend(active_pid, 5000)
     FROM pg_replication_slots WHERE database = $1 AND NOT temporary`,
    [name],
  );
  for (const { slot_name } of slots.rows) await admin.query('SELECT pg_drop_replication_slot($1)', [slot_name]);
  await admin.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
}

async function asAdmin(server: ServerAddress, work: (admin: pg.Client) => Promise<unknown>): Promise<void> {
  const { host, port, user, password } = server;
  const admin = new pg.Client({ host, port, user, password, database: 'postgres' });
  admin.on('error', () => {});
  await admin.connect();
  try {
    await work(admin);
  } finally {
    await admin.end();
  }
}

async function sharedServer(): Promise<ServerAddress> {
  const port = process.env[BROKER_VARIABLE];
  assert(port !== undefined, 'the shared Postgres is there only in a vitest run with global-setup.ts');
  const broker = connect(Number(port), '127.0.0.1').end(`${chosenMajor()}\n`);
  const answer = JSON.parse(await text(broker)) as ServerAddress | { failed: string };
  if ('failed' in answer) throw new Error(answer.failed);
  return answer;
}
