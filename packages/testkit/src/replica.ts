/**
 * Copies of a server: a streaming standby that can be promoted, or what a backup of the disk gives back. The data
 * directory is copied while its server is stopped for a moment; it goes on at the same port.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type EmbeddedPostgres, startPostgres } from '@millrace/embedded-postgres/launcher';
import { type OwnPostgres, openDatabase, type TestDatabase, testDirectory } from './postgres.ts';
import { chosenMajor, majorFolder } from './postgres-majors.ts';

const POLL_MS = 10;
const WAIT_MS = 30_000;

export interface ReplicaOptions {
  readonly settings?: Readonly<Record<string, string>>;
  /** Of the server that is copied. */
  readonly major?: number;
  /** Of the physical slot. Several standbys of one primary need one each. */
  readonly physicalSlot?: string;
}

export interface Standby {
  readonly server: EmbeddedPostgres;
  /** The physical slot on the primary that it streams from. */
  readonly physicalSlot: string;
  /** The same database as it is here. */
  database(of: TestDatabase): TestDatabase;
  /** Resolves when it has replayed all that the primary has written by now. */
  caughtUp(): Promise<void>;
  /** Ends its life as a standby. The primary is not told. */
  promote(): Promise<void>;
  remove(): Promise<void>;
}

/** A hot standby of `primary` that streams from it, with feedback, through a physical slot. */
export async function startStandby(
  primary: OwnPostgres,
  { settings = {}, major, physicalSlot = 'standby' }: ReplicaOptions = {},
): Promise<Standby> {
  const { server: source } = primary;
  const admin = openDatabase(source, 'postgres');
  await admin.sql(`SELECT pg_create_physical_replication_slot('${physicalSlot}', true)`);
  const dir = await copyData(source);
  // A base backup leaves slots out: they are the primary's.
  const slots = join(dir, 'data', 'pg_replslot');
  for (const slot of readdirSync(slots)) rmSync(join(slots, slot), { recursive: true });
  writeFileSync(join(dir, 'data', 'standby.signal'), '');
  const { host, port, user, password } = source;
  const server = await startPostgres({
    dir,
    packageFolder: await majorFolder(major ?? chosenMajor()),
    settings: {
      primary_conninfo: `host=${host} port=${port} user=${user} password=${password} dbname=postgres application_name=standby`,
      primary_slot_name: physicalSlot,
      hot_standby_feedback: 'on',
      wal_receiver_status_interval: '1s',
      ...settings,
    },
  });
  const own = openDatabase(server, 'postgres');
  const opened: TestDatabase[] = [admin, own];
  return {
    server,
    physicalSlot,
    database(of) {
      const database = openDatabase(server, of.name);
      opened.push(database);
      return database;
    },
    async caughtUp() {
      const [{ lsn }] = (await admin.sql(`SELECT pg_current_wal_lsn() AS lsn`)) as [{ lsn: string }];
      await until('the standby replays what the primary wrote', async () => {
        const [row] = await own.sql(`SELECT pg_last_wal_replay_lsn() >= '${lsn}'::pg_lsn AS there`);
        return row.there === true;
      });
    },
    async promote() {
      await own.sql('SELECT pg_promote(true, 60)');
      await until('the standby is a primary', async () => {
        const [row] = await own.sql('SELECT pg_is_in_recovery() AS standby');
        return row.standby === false;
      });
    },
    async remove() {
      for (const database of opened) await database.drop();
      await server.remove();
    },
  };
}

/** What a cold copy of the disk gives back later: the same server, in the state it is in now, not started. */
export async function backUp(of: OwnPostgres): Promise<{
  /** Starts it, at a port of its own. */
  restore(options?: ReplicaOptions): Promise<OwnPostgres>;
}> {
  const dir = await copyData(of.server);
  return {
    async restore({ settings = {}, major } = {}) {
      const server = await startPostgres({ dir, settings, packageFolder: await majorFolder(major ?? chosenMajor()) });
      return {
        server,
        createDatabase: () => Promise.reject(new Error('a copy has the databases of its original')),
        remove: () => server.remove(),
      };
    },
  };
}

async function copyData(source: EmbeddedPostgres): Promise<string> {
  const dir = testDirectory('replica');
  await source.stop();
  // With owners and modes: Postgres refuses a data directory that is not its own.
  execFileSync('cp', ['-a', source.dataDir, join(dir, 'data')]);
  const password = join(dirname(source.dataDir), 'password');
  if (existsSync(password)) execFileSync('cp', [password, join(dir, 'password')]);
  else writeFileSync(join(dir, 'password'), `${source.password}\n`, { mode: 0o600 });
  await source.restart();
  return dir;
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + WAIT_MS;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`never: ${what}`);
    await delay(POLL_MS);
  }
}
