/**
 * What goes on beside the writers of the workload (workload.ts), seeded: columns that come, go and change their type in
 * tables that are being written, replica identities that change, a table that is dropped and made again, truncates,
 * and transactions too large for the memory of a decoder, with parts rolled back.
 */
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import type { ConnectionConfig, TestDatabase } from './postgres.ts';
import { type Random, seededRandom } from './random.ts';
import { SCRATCH_TABLE, type TableShape, WORKLOAD_TABLES } from './workload-tables.ts';

/** Names of the columns that come and go. */
export const PASSING_COLUMNS = /^x_\d+$/;
/** Filled and emptied beside the writers; not in the audit. */
export const LARGE_TABLE: TableShape = { schema: 'public', name: 'wl_large', key: ['id'] };

const RECONNECT_MS = 40;
const LARGE_ROWS_MIN = 500;
const LARGE_ROWS_SPREAD = 4_000;
const LOCK_TIMEOUT_MS = 400;

export interface DisturbanceOptions {
  readonly config: ConnectionConfig;
  readonly seed: number;
  readonly ddl: boolean;
  readonly truncates: boolean;
  readonly large: boolean;
  readonly pauseMs: number;
}

export interface DisturbanceCounts {
  schemaChanges: number;
  truncates: number;
  large: number;
}

export interface Disturbance {
  readonly counts: DisturbanceCounts;
  stop(): Promise<DisturbanceCounts>;
}

export async function createDisturbedTables(database: TestDatabase): Promise<void> {
  await database.sql(`CREATE TABLE ${LARGE_TABLE.name} (id bigint PRIMARY KEY, filler text)`);
}

export function startDisturbance(options: DisturbanceOptions): Disturbance {
  const counts: DisturbanceCounts = { schemaChanges: 0, truncates: 0, large: 0 };
  const stopping = new AbortController();
  const running = disturb(options, counts, stopping.signal);
  // Reported by stop(), which may be called much later.
  running.catch(() => {});
  return {
    counts,
    async stop() {
      stopping.abort();
      await running;
      return counts;
    },
  };
}

async function disturb(options: DisturbanceOptions, counts: DisturbanceCounts, stopping: AbortSignal): Promise<void> {
  const random = seededRandom(options.seed * 31 + 7);
  const kinds = [
    ...(options.ddl ? [changeSchema, changeSchema] : []),
    ...(options.truncates ? [truncate] : []),
    ...(options.large ? [large] : []),
  ];
  let next = 1;
  while (!stopping.aborted && kinds.length > 0) {
    const client = new pg.Client({ ...options.config, connectionTimeoutMillis: 5_000 });
    client.on('error', () => {});
    try {
      await client.connect();
      await client.query(`SET lock_timeout = ${LOCK_TIMEOUT_MS}`);
      while (!stopping.aborted) {
        await random.pick(kinds)(client, random, next++, counts).catch(refused);
        await client.query('ROLLBACK');
        await delay(random.integer(options.pauseMs));
      }
    } catch (error) {
      if (error instanceof pg.DatabaseError && !/^(57P0|08|53300)/.test(error.code ?? '')) throw error;
      await delay(RECONNECT_MS);
    } finally {
      await client.end().catch(() => {});
    }
  }
}

/** A deadlock with the writers, or a lock they hold for too long; and keys that a lost answer left behind. */
function refused(error: unknown): void {
  if (!(error instanceof pg.DatabaseError) || !/^(40|55P03|23505)/.test(error.code ?? '')) throw error;
}

type Kind = (client: pg.Client, random: Random, n: number, counts: DisturbanceCounts) => Promise<void>;

const PASSING_TYPES = [`int DEFAULT 7`, `text`, `text DEFAULT 'seven'`, `numeric`, `jsonb DEFAULT '{"n": 1}'`, `int[]`];

const changeSchema: Kind = async (client, random, n, counts) => {
  const table = random.pick(Object.values(WORKLOAD_TABLES)).name;
  await client.query('BEGIN');
  const passing = await client.query<{ name: string }>(
    `SELECT attname AS name FROM pg_attribute WHERE attrelid = '${table}'::regclass AND attname ~ '^x_' AND NOT attisdropped`,
  );
  const name = passing.rows.length > 0 ? random.pick(passing.rows).name : null;
  const kind = random.integer(6);
  if (name === null || (kind === 0 && passing.rows.length < 4)) {
    await client.query(`ALTER TABLE ${table} ADD COLUMN x_${n} ${random.pick(PASSING_TYPES)}`);
  } else if (kind <= 1) await client.query(`ALTER TABLE ${table} DROP COLUMN ${name}`);
  else if (kind === 2) await client.query(`ALTER TABLE ${table} RENAME COLUMN ${name} TO x_${n}`);
  else if (kind === 3) {
    await client.query(`ALTER TABLE ${table} ALTER ${name} DROP DEFAULT, ALTER ${name} TYPE text USING ${name}::text`);
  } else if (kind === 4) {
    await client.query(
      `ALTER TABLE ${WORKLOAD_TABLES.names.name} REPLICA IDENTITY ${random.pick(['FULL', 'DEFAULT'])}`,
    );
  } else {
    await client.query(`DROP TABLE ${SCRATCH_TABLE.name}`);
    await client.query(
      `CREATE TABLE ${SCRATCH_TABLE.name} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, filler text)`,
    );
  }
  // Rows before and after the change in its own transaction, too.
  await client.query(`INSERT INTO ${SCRATCH_TABLE.name} (filler) VALUES ('beside a change of ${table}')`);
  await client.query(random.chance(0.8) ? 'COMMIT' : 'ROLLBACK');
  counts.schemaChanges++;
};

const truncate: Kind = async (client, random, _, counts) => {
  const tables = random.chance(0.5) ? LARGE_TABLE.name : `${LARGE_TABLE.name}, ${SCRATCH_TABLE.name}`;
  await client.query('BEGIN');
  await client.query(`TRUNCATE ${tables}`);
  if (random.chance(0.5)) await client.query(`INSERT INTO ${LARGE_TABLE.name} SELECT -i FROM generate_series(1, 3) i`);
  await client.query(random.chance(0.8) ? 'COMMIT' : 'ROLLBACK');
  counts.truncates++;
};

const large: Kind = async (client, random, n, counts) => {
  const rows = LARGE_ROWS_MIN + random.integer(LARGE_ROWS_SPREAD);
  const insert = (from: number) =>
    client.query(
      `INSERT INTO ${LARGE_TABLE.name} SELECT ${n}::bigint * 100000 + i, md5(i::text) FROM generate_series(${from}, ${from + rows}) i`,
    );
  await client.query('BEGIN');
  await insert(1);
  await client.query('SAVEPOINT here');
  await insert(20_000);
  if (random.chance(0.6)) await client.query('ROLLBACK TO here');
  // Most of them are gone again at once: the table stays small.
  await client.query(`DELETE FROM ${LARGE_TABLE.name} WHERE id % 100 <> 0`);
  await client.query(random.chance(0.7) ? 'COMMIT' : 'ROLLBACK');
  counts.large++;
};
