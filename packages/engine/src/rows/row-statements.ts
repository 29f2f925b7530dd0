/** The row index's SQL: its file, the tables in it per source table, and what is asked of those. */
import type { DatabaseSync, StatementSync } from 'node:sqlite';

const PAGE_BYTES = 8192;
const CACHE_KIB = 64 * 1024;
/** Pages of WAL after which SQLite moves them into the file. */
const CHECKPOINT_PAGES = 4000;

export interface RowStatements {
  readonly put: StatementSync;
  readonly get: StatementSync;
  readonly remove: StatementSync;
  /** null: no values are kept. */
  readonly values: ValueStatements | null;
}

export interface ValueStatements {
  readonly open: StatementSync;
  readonly close: StatementSync;
  readonly add: StatementSync;
  readonly fill: StatementSync;
  readonly lastUntil: StatementSync;
}

export function prepareFile(db: DatabaseSync): void {
  // The timeout first: whoever asks for a row may look at the file before it is in WAL mode, and hold its lock.
  db.exec(`PRAGMA busy_timeout = 5000; PRAGMA page_size = ${PAGE_BYTES}; PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL; PRAGMA cache_size = -${CACHE_KIB}; PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES};
    PRAGMA foreign_keys = OFF;
    CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS tables (id INTEGER PRIMARY KEY, schema TEXT NOT NULL, name TEXT NOT NULL, oid INT,
      generation INT NOT NULL, key TEXT NOT NULL, values_kept INT NOT NULL, since TEXT NOT NULL,
      next_col INT NOT NULL, UNIQUE (schema, name));
    CREATE TABLE IF NOT EXISTS shapes (id INTEGER PRIMARY KEY, tab INT NOT NULL, relation INT NOT NULL,
      columns TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS gone (schema TEXT NOT NULL, name TEXT NOT NULL, generation INT NOT NULL,
      PRIMARY KEY (schema, name)) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS shapes_by_table ON shapes (tab);`);
}

export function makeTables(db: DatabaseSync, id: number, values: boolean): void {
  db.exec(`CREATE TABLE r${id} (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, shape INT NOT NULL, lsn INT NOT NULL,
    hashes BLOB NOT NULL)`);
  if (!values) return;
  db.exec(`CREATE TABLE v${id} (id INTEGER PRIMARY KEY, key BLOB NOT NULL, col INT NOT NULL, from_lsn INT NOT NULL,
    from_ord INT NOT NULL, until_lsn INT, until_ord INT, value BLOB);
    CREATE INDEX v${id}_by_key ON v${id} (key, col, from_lsn, from_ord);
    CREATE INDEX v${id}_by_end ON v${id} (until_lsn) WHERE until_lsn IS NOT NULL`);
}

export function dropTables(db: DatabaseSync, id: number): void {
  db.exec(`DROP TABLE r${id}; DROP TABLE IF EXISTS v${id}; DELETE FROM shapes WHERE tab = ${id}`);
}

export function forgetTable(db: DatabaseSync, id: number): void {
  // Another table of the name is read: what was read of this one does not tell of it.
  db.exec(`INSERT INTO gone SELECT schema, name, generation + 1 FROM tables WHERE id = ${id}
    ON CONFLICT (schema, name) DO UPDATE SET generation = max(generation + 1, excluded.generation)`);
  dropTables(db, id);
  db.exec(`DELETE FROM tables WHERE id = ${id}`);
}

export function lastId(db: DatabaseSync, table: 'tables' | 'shapes'): number {
  return (db.prepare(`SELECT coalesce(max(id), 0) AS id FROM ${table}`).get() as { id: number }).id;
}

export function prepareRows(db: DatabaseSync, id: number, values: boolean): RowStatements {
  return {
    put: db.prepare(
      `INSERT INTO r${id} (key, shape, lsn, hashes) VALUES (?, ?, ?, ?)
       ON CONFLICT (key) DO UPDATE SET shape = excluded.shape, lsn = excluded.lsn, hashes = excluded.hashes`,
    ),
    get: db.prepare(`SELECT shape, hashes FROM r${id} WHERE key = ?`),
    remove: db.prepare(`DELETE FROM r${id} WHERE key = ?`),
    values: values ? prepareValues(db, id) : null,
  };
}

function prepareValues(db: DatabaseSync, id: number): ValueStatements {
  const lastUntil = db.prepare(
    `SELECT until_lsn, until_ord FROM v${id} WHERE key = ? AND col = ? ORDER BY from_lsn DESC, from_ord DESC LIMIT 1`,
  );
  lastUntil.setReadBigInts(true);
  return {
    open: db.prepare(`SELECT id, col, value FROM v${id} WHERE key = ? AND until_lsn IS NULL`),
    close: db.prepare(`UPDATE v${id} SET until_lsn = ?, until_ord = ? WHERE id = ?`),
    add: db.prepare(`INSERT INTO v${id} (key, col, from_lsn, from_ord, value) VALUES (?, ?, ?, ?, ?)`),
    fill: db.prepare(`UPDATE v${id} SET value = ? WHERE id = ?`),
    lastUntil,
  };
}
