/** A Postgres of our own, and backlogs in it: a table, its rows, and a slot from before them that every run copies. */
import { type ConnectionConfig, PgConnection } from '@millrace/postgres/connection';
import { dropSlot } from '@millrace/postgres/slot';
import { type OwnPostgres, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';

/** What differs from the server's own defaults. fsync stays on, for the writers whose commits are timed. */
export const POSTGRES_SETTINGS: Readonly<Record<string, string>> = {
  wal_sender_timeout: '0',
  max_wal_size: '16GB',
  checkpoint_timeout: '1h',
  autovacuum: 'off',
  shared_buffers: '512MB',
};

export const PUBLICATION = 'bench';
const ORIGIN = 'origin';
const POLL_MS = 10;
const START_TIMEOUT_MS = 30_000;

export interface TableSpec {
  readonly name: string;
  readonly about: string;
  readonly rows: number;
  readonly rowsPerTransaction: number;
  readonly columns: string;
  /** The values of row number `i`; the first is `i`. */
  readonly values: string;
}

const SMALL_COLUMNS =
  'id bigint PRIMARY KEY, quantity int, name text, category text, note text, price numeric(12,4), active boolean, ' +
  'created_at timestamptz, uid uuid, doc jsonb';
const SMALL_VALUES =
  "i, i % 1000, 'Item ' || i, 'kitchen', 'by phone', (i % 100000) / 100.0, i % 3 = 0, " +
  "timestamptz '2026-01-01 00:00:00.123456Z' + i * interval '1 second', md5(i::text)::uuid, " +
  `'{"color": "red", "size": 12}'::jsonb`;

export const TABLES = {
  small: {
    name: 'small',
    about: '10 columns, 160 B rows, transactions of 100',
    rows: 1_000_000,
    rowsPerTransaction: 100,
    columns: SMALL_COLUMNS,
    values: SMALL_VALUES,
  },
  one: {
    name: 'one',
    about: 'the same row, one per transaction',
    rows: 200_000,
    rowsPerTransaction: 1,
    columns: SMALL_COLUMNS,
    values: SMALL_VALUES,
  },
  big: {
    name: 'big',
    about: '5 columns with 1 KB of text, transactions of 100',
    rows: 200_000,
    rowsPerTransaction: 100,
    columns: 'id bigint PRIMARY KEY, kind int, body text, active boolean, created_at timestamptz',
    values: "i, i % 7, repeat(md5(i::text), 32), true, timestamptz '2026-01-01Z' + i * interval '1 second'",
  },
} as const satisfies Record<string, TableSpec>;

export class BenchPostgres {
  readonly #own: OwnPostgres;

  static async start(): Promise<BenchPostgres> {
    return new BenchPostgres(await startOwnPostgres(POSTGRES_SETTINGS));
  }

  private constructor(own: OwnPostgres) {
    this.#own = own;
  }

  get version(): string {
    return this.#own.server.version;
  }

  async createDatabase(): Promise<BenchDatabase> {
    return new BenchDatabase(await this.#own.createDatabase());
  }

  async remove(): Promise<void> {
    await this.#own.remove();
  }
}

export class BenchDatabase {
  readonly #database: TestDatabase;
  #copies = 0;

  constructor(database: TestDatabase) {
    this.#database = database;
  }

  get connection(): ConnectionConfig {
    return { ...this.#database.config, ssl: 'disable' };
  }

  sql<Row extends object>(text: string): Promise<Row[]> {
    return this.#database.sql<Row>(text);
  }

  async drop(): Promise<void> {
    await this.#database.drop();
  }

  /** Tables of that shape, published together. */
  async createTables(spec: TableSpec, names: readonly string[]): Promise<void> {
    for (const name of names) await this.sql(`CREATE TABLE ${name} (${spec.columns})`);
    await this.sql(`CREATE PUBLICATION ${PUBLICATION} FOR TABLE ${names.join(', ')}`);
    for (const name of names) {
      await this.sql(`
        CREATE PROCEDURE fill_${name}(first bigint, last bigint, size bigint) LANGUAGE plpgsql AS $$
        BEGIN
          PERFORM set_config('synchronous_commit', 'off', false);
          FOR start IN first..last BY size LOOP
            INSERT INTO ${name} SELECT ${spec.values} FROM generate_series(start, least(start + size - 1, last)) AS i;
            COMMIT;
          END LOOP;
        END $$`);
    }
  }

  async fill(table: string, first: number, last: number, rowsPerTransaction: number): Promise<void> {
    await this.sql(`CALL fill_${table}(${first}, ${last}, ${rowsPerTransaction})`);
  }

  async createSlot(name = ORIGIN): Promise<void> {
    await this.sql(`SELECT pg_create_logical_replication_slot('${name}', 'pgoutput')`);
  }

  /** The end of what is written, once that is on disk. */
  async settle(): Promise<string> {
    await this.sql('CHECKPOINT');
    const [row] = await this.sql<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
    return row!.lsn;
  }

  /** Runs `drain` with a copy of the slot that stands before the backlog. */
  async withCopy<T>(drain: (slot: string) => Promise<T>): Promise<T> {
    const slot = `copy_${++this.#copies}`;
    await this.sql(`SELECT pg_copy_logical_replication_slot('${ORIGIN}', '${slot}')`);
    try {
      return await drain(slot);
    } finally {
      const connection = await PgConnection.connect(this.connection);
      await dropSlot(connection, slot, { wait: true }).finally(() => connection.close());
    }
  }

  /** When the server got START_REPLICATION for the slot: the same clock for every client. */
  async startedAtMs(slot: string, client: { readonly result: Promise<unknown> }): Promise<number> {
    let ended = false;
    const end = () => (ended = true);
    client.result.then(end, end);
    const deadline = performance.now() + START_TIMEOUT_MS;
    while (performance.now() < deadline && !ended) {
      const [row] = await this.sql<{ at: number }>(`
        SELECT (extract(epoch FROM a.query_start) * 1000)::float8 AS at
        FROM pg_replication_slots AS s JOIN pg_stat_activity AS a ON a.pid = s.active_pid
        WHERE s.slot_name = '${slot}' AND a.query LIKE 'START_REPLICATION%'`);
      if (row !== undefined) return row.at;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    if (ended) await client.result;
    throw new Error('The client was never seen streaming.');
  }
}
