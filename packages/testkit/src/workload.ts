/**
 * Concurrent writers, seeded, of the kind that finds a capture tool's mistakes: multi-row transactions, multi-row
 * statements and COPY (whose rows share one WAL position), moves of keys, rollbacks, savepoints, values out of line.
 * The writers outlive the server: they reconnect for as long as it takes, and a commit whose answer was lost is looked
 * up in the audit table.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { assert } from '@millrace/core/assert';
import pg from 'pg';
import { copyIn, copyLine } from './copy-in.ts';
import type { ConnectionConfig } from './postgres.ts';
import { type Random, seededRandom } from './random.ts';
import { type AuditEntry, keyText, SHARED_ROWS, WORKLOAD_TABLES } from './workload-tables.ts';

const RECONNECT_MS = 40;
const POLL_MS = 5;
const STATEMENTS_MAX = 6;
/** Keys a writer holds per table; above, it deletes more often than it inserts. */
const OWN_ROWS_MAX = 150;
const DOCUMENT_BYTES_MIN = 2_500; // Out of line in an 8 KiB page.
const DOCUMENT_BYTES_SPREAD = 6_000;

export interface WorkloadOptions {
  /** A database with createWorkloadTables() done. */
  readonly config: ConnectionConfig;
  readonly seed: number;
  readonly writers: number;
  /** Rest of a writer between transactions. Absent: none. */
  readonly pauseMs?: number;
  /** Also fill and truncate wl_scratch. */
  readonly truncates?: boolean;
}

export interface WorkloadCounts {
  /** Known to be committed: answered, or found in the audit afterwards. */
  readonly committed: number;
  readonly rolledBack: number;
  /** Row changes in committed transactions, the audit's own not counted. */
  readonly changes: number;
  readonly reconnects: number;
  /** Commits whose answer was lost. */
  readonly lostAnswers: number;
  /** Of those, the ones that could not be looked up before the stop. */
  readonly unresolved: number;
}

export interface Workload {
  readonly counts: WorkloadCounts;
  /** Resolves once so many transactions are committed in all. Rejects as stop() does, and when stopped before. */
  reached(committed: number): Promise<void>;
  /** Ends every writer after its present transaction. Rejects if a writer met an error that is none of the server's. */
  stop(): Promise<WorkloadCounts>;
}

interface Progress {
  committed: number;
  rolledBack: number;
  changes: number;
  reconnects: number;
  lostAnswers: number;
  unresolved: number;
}

export function startWorkload(options: WorkloadOptions): Workload {
  const counts: Progress = { committed: 0, rolledBack: 0, changes: 0, reconnects: 0, lostAnswers: 0, unresolved: 0 };
  const stopping = new AbortController();
  const writers = Array.from({ length: options.writers }, (_, index) => write(options, index, counts, stopping.signal));
  // A failed writer is reported by stop(), which may be called much later.
  const ended = Promise.allSettled(writers);
  return {
    get counts() {
      return { ...counts };
    },
    async reached(committed) {
      let over = false;
      void ended.then(() => (over = true));
      while (counts.committed < committed && !over) await Promise.race([delay(POLL_MS), ...writers]);
      assert(counts.committed >= committed, 'a workload is waited for while it runs');
    },
    async stop() {
      stopping.abort();
      for (const result of await ended) if (result.status === 'rejected') throw result.reason;
      return { ...counts };
    },
  };
}

/** What a writer carries from one connection to the next. */
interface Writer {
  readonly index: number;
  readonly random: Random;
  readonly counts: Progress;
  /** Number of the next transaction and of the next key. */
  n: number;
  nextId: number;
  /** A transaction whose COMMIT was sent and not answered. */
  pending: { readonly tx: string; readonly changes: number } | null;
}

async function write(options: WorkloadOptions, index: number, counts: Progress, stopping: AbortSignal): Promise<void> {
  const random = seededRandom(options.seed * 1_000_003 + index);
  const writer: Writer = { index, random, counts, n: 0, nextId: 1, pending: null };
  for (let first = true; !stopping.aborted; first = false) {
    const client = await connect(options.config);
    if (client === null) {
      await delay(RECONNECT_MS);
      continue;
    }
    if (!first) counts.reconnects++;
    try {
      await settlePending(client, writer);
      const session = await openSession(client, writer, options.truncates === true);
      while (!stopping.aborted) {
        await transact(session);
        if (options.pauseMs !== undefined) await delay(options.pauseMs);
      }
    } catch (error) {
      if (!isConnectionLoss(error)) throw error;
    } finally {
      await client.end().catch(() => {});
    }
  }
  if (writer.pending !== null) counts.unresolved++;
}

async function connect(config: ConnectionConfig): Promise<pg.Client | null> {
  const client = new pg.Client({ ...config, connectionTimeoutMillis: 5_000 });
  client.on('error', () => {});
  try {
    await client.connect();
    return client;
  } catch (error) {
    if (!isConnectionLoss(error)) throw error;
    return null;
  }
}

/** The server went away, is going or is not there yet; anything else it says is a mistake of the workload. */
function isConnectionLoss(error: unknown): boolean {
  if (error instanceof pg.DatabaseError) return /^(57P0|08|53300)/.test(error.code ?? '');
  // pg has no codes for a lost connection, but what it throws is a plain Error; a TypeError is a mistake.
  return error instanceof Error && error.name === 'Error';
}

async function settlePending(client: pg.Client, writer: Writer): Promise<void> {
  if (writer.pending === null) return;
  const { tx, changes } = writer.pending;
  const found = await client.query('SELECT 1 FROM wl_audit WHERE tx = $1', [tx]);
  writer.pending = null;
  if (found.rowCount === 0) return;
  writer.counts.committed++;
  writer.counts.changes += changes;
}

interface Session {
  readonly client: pg.Client;
  readonly writer: Writer;
  readonly truncates: boolean;
  /** Keys of the writer's own rows, as of the last commit: key values per row. */
  own: Record<keyof typeof WORKLOAD_TABLES, (string | number)[][]>;
  /** Of the open transaction. */
  entries: AuditEntry[];
}

async function openSession(client: pg.Client, writer: Writer, truncates: boolean): Promise<Session> {
  const session: Session = { client, writer, truncates, own: await ownRows(client, writer.index), entries: [] };
  const last = await client.query<{ n: number; id: number }>(
    `SELECT coalesce(max(n), -1)::int AS n,
            (SELECT coalesce(max(id), 0)::int % 10000000 FROM wl_accounts WHERE owner = $1) AS id
     FROM wl_audit WHERE writer = $1`,
    [writer.index],
  );
  writer.n = Math.max(writer.n, last.rows[0]!.n + 1);
  writer.nextId = Math.max(writer.nextId, last.rows[0]!.id + 1);
  return session;
}

async function ownRows(client: pg.Client, writer: number): Promise<Session['own']> {
  const own: Partial<Session['own']> = {};
  for (const table of Object.keys(WORKLOAD_TABLES) as (keyof typeof WORKLOAD_TABLES)[]) {
    const { name, key } = WORKLOAD_TABLES[table];
    const query = {
      text: `SELECT ${key.join(', ')} FROM ${name} WHERE owner = $1`,
      values: [writer],
      rowMode: 'array',
    };
    own[table] = (await client.query(query as pg.QueryArrayConfig)).rows as (string | number)[][];
  }
  return own as Session['own'];
}

async function transact(session: Session): Promise<void> {
  const { client, writer } = session;
  const { random, counts } = writer;
  const tx = `${writer.index}-${writer.n}`;
  session.entries = [];
  await client.query('BEGIN');
  try {
    for (let left = 1 + random.integer(STATEMENTS_MAX); left > 0; left--) await step(session);
    if (random.chance(0.1)) {
      await client.query('ROLLBACK');
      return await afterRollback(session);
    }
    await client.query('INSERT INTO wl_audit (tx, writer, n, changes) VALUES ($1, $2, $3, $4)', [
      tx,
      writer.index,
      writer.n++,
      JSON.stringify(session.entries),
    ]);
  } catch (error) {
    // 40: deadlock or serialization failure among writers of shared rows.
    if (!(error instanceof pg.DatabaseError) || !error.code?.startsWith('40')) throw error;
    await client.query('ROLLBACK');
    return await afterRollback(session);
  }
  writer.pending = { tx, changes: session.entries.length };
  try {
    await client.query('COMMIT');
  } catch (error) {
    counts.lostAnswers++;
    throw error;
  }
  writer.pending = null;
  counts.committed++;
  counts.changes += session.entries.length;
}

async function afterRollback(session: Session): Promise<void> {
  session.writer.counts.rolledBack++;
  session.own = await ownRows(session.client, session.writer.index);
}

/** One statement, or a savepoint with some statements under it. */
async function step(session: Session): Promise<void> {
  const { client, writer } = session;
  if (!writer.random.chance(0.12)) return statement(session);
  const before = session.entries.length;
  await client.query('SAVEPOINT here');
  for (let left = 1 + writer.random.integer(3); left > 0; left--) await statement(session);
  if (writer.random.chance(0.5)) {
    await client.query('ROLLBACK TO here');
    session.entries.length = before;
    session.own = await ownRows(client, writer.index);
  }
  await client.query('RELEASE here');
}

type Statement = (session: Session) => Promise<void>;

const STATEMENTS: readonly Statement[] = [
  insertAccount,
  updateShared,
  updateShared,
  updateAccounts,
  moveAccount,
  deleteAccounts,
  insertLines,
  copyLines,
  updateLines,
  moveLine,
  deleteLines,
  insertName,
  renameName,
  updateName,
  deleteName,
  insertFull,
  updateFull,
  moveFull,
  deleteFull,
  insertDocument,
  retitleDocument,
  rewriteDocument,
  deleteDocument,
];

async function statement(session: Session): Promise<void> {
  const { client, writer } = session;
  if (session.truncates && writer.random.chance(0.03)) {
    await client.query(`INSERT INTO wl_scratch (filler) SELECT 'x' FROM generate_series(1, 5)`);
    // Not under heavy contention: TRUNCATE locks out every other writer of the table until the end.
    if (writer.random.chance(0.3)) await client.query('TRUNCATE wl_scratch');
    return;
  }
  await writer.random.pick(STATEMENTS)(session);
}

type TableName = keyof typeof WORKLOAD_TABLES;

/**
 * Runs a statement that ends without RETURNING, and notes every row it touched, in the order in which it touched them.
 * `old` is the key of the one row whose key the statement changes.
 */
async function change(
  session: Session,
  table: TableName,
  action: 'insert' | 'update' | 'delete',
  sql: string,
  values: readonly unknown[],
  old?: readonly (string | number)[],
): Promise<void> {
  const { key } = WORKLOAD_TABLES[table];
  const text = `${sql} RETURNING ${key.join(', ')}, version`;
  const query = { text, values: [...values], rowMode: 'array' } as pg.QueryArrayConfig;
  const rows = (await session.client.query(query)).rows as (string | number)[][];
  for (const row of rows) note(session, table, action, row.slice(0, key.length), Number(row.at(-1)), old);
}

function note(
  session: Session,
  table: TableName,
  action: 'insert' | 'update' | 'delete',
  key: (string | number)[],
  version: number,
  old?: readonly (string | number)[],
): void {
  const { name } = WORKLOAD_TABLES[table];
  const text = keyText(key);
  const own = session.own[table];
  if (action === 'delete') session.entries.push([name, action, text, null]);
  else if (old === undefined) session.entries.push([name, action, text, version]);
  else session.entries.push([name, action, text, version, keyText(old)]);
  const gone = action === 'delete' ? text : old === undefined ? null : keyText(old);
  if (gone !== null) session.own[table] = own.filter((each) => keyText(each) !== gone);
  if (action === 'insert' || old !== undefined) session.own[table].push(key);
}

/** A fresh key: no other writer's, and none this writer had before. */
function freshId({ writer }: Session): number {
  return writer.index * 10_000_000 + writer.nextId++;
}

function someOwn(session: Session, table: TableName, max: number): (string | number)[][] {
  const own = session.own[table];
  const count = Math.min(own.length, 1 + session.writer.random.integer(max));
  const start = session.writer.random.integer(Math.max(1, own.length - count + 1));
  return own.slice(start, start + count);
}

/** Deletes are as frequent as inserts, so tables stay small by themselves; this bounds bad luck. */
function isCrowded(session: Session, table: TableName): boolean {
  return session.own[table].length >= OWN_ROWS_MAX;
}

const TEXTS: readonly (string | null)[] = [
  null,
  '',
  'plain',
  `it's "quoted"`,
  'back\\slash \\N \\.',
  'tab\tand\nnewline\r\n',
  '{"looks":"like json"}',
  'żółć 🥑 日本',
  '\u0001\u001f\u007f\u2028',
  'x'.repeat(300),
];

async function insertAccount(session: Session): Promise<void> {
  if (isCrowded(session, 'accounts')) return deleteAccounts(session);
  const { random, index } = session.writer;
  const values = [freshId(session), index, (random.integer(1_000_000) / 100).toFixed(2), random.pick(TEXTS)];
  await change(session, 'accounts', 'insert', INSERT_ACCOUNT, values);
}
const INSERT_ACCOUNT = 'INSERT INTO wl_accounts (id, owner, version, balance, note) VALUES ($1, $2, 0, $3, $4)';

async function updateShared(session: Session): Promise<void> {
  const { random } = session.writer;
  const sql = `UPDATE wl_accounts SET version = version + 1, balance = balance + $1, updated_at = clock_timestamp() WHERE id = $2`;
  await change(session, 'accounts', 'update', sql, [random.integer(200) - 100, -1 - random.integer(SHARED_ROWS)]);
}

async function updateAccounts(session: Session): Promise<void> {
  const ids = someOwn(session, 'accounts', 8).map(([id]) => id);
  const sql = `UPDATE wl_accounts SET version = version + 1, note = $1, active = NOT active WHERE id = ANY ($2::bigint[])`;
  await change(session, 'accounts', 'update', sql, [session.writer.random.pick(TEXTS), ids]);
}

async function moveAccount(session: Session): Promise<void> {
  const [old] = someOwn(session, 'accounts', 1);
  if (old === undefined) return;
  const sql = 'UPDATE wl_accounts SET version = version + 1, id = $1 WHERE id = $2';
  await change(session, 'accounts', 'update', sql, [freshId(session), old[0]], old);
}

async function deleteAccounts(session: Session): Promise<void> {
  const ids = someOwn(session, 'accounts', 4).map(([id]) => id);
  await change(session, 'accounts', 'delete', 'DELETE FROM wl_accounts WHERE id = ANY ($1::bigint[])', [ids]);
}

async function insertLines(session: Session): Promise<void> {
  if (isCrowded(session, 'lines')) return deleteLines(session);
  const { random, index } = session.writer;
  const sql = `INSERT INTO wl_lines (order_id, line, owner, version, sku, quantity, price)
    SELECT $1::int, i, $2::int, 0, 'sku ' || i, i, i * 1.1 FROM generate_series(1, $3::int) i`;
  await change(session, 'lines', 'insert', sql, [freshId(session), index, 1 + random.integer(25)]);
}

async function copyLines(session: Session): Promise<void> {
  if (isCrowded(session, 'lines')) return deleteLines(session);
  const { random, index } = session.writer;
  const order = freshId(session);
  const count = 1 + random.integer(60);
  const rows: string[] = [];
  for (let line = 1; line <= count; line++) {
    const sku = random.pick(TEXTS)?.slice(0, 40) ?? null;
    rows.push(copyLine([order, line, index, 0, sku, line % 100, random.integer(1000) / 8]));
  }
  const columns = 'order_id, line, owner, version, sku, quantity, price';
  await copyIn(session.client, `COPY wl_lines (${columns}) FROM STDIN`, rows);
  for (let line = 1; line <= count; line++) note(session, 'lines', 'insert', [order, line], 0);
}

async function updateLines(session: Session): Promise<void> {
  const [some] = someOwn(session, 'lines', 1);
  if (some === undefined) return;
  const sql =
    'UPDATE wl_lines SET version = version + 1, quantity = quantity + 1 WHERE order_id = $1 AND quantity < 30000';
  await change(session, 'lines', 'update', sql, [some[0]]);
}

async function moveLine(session: Session): Promise<void> {
  const [old] = someOwn(session, 'lines', 1);
  if (old === undefined) return;
  const sql = 'UPDATE wl_lines SET version = version + 1, line = $1 WHERE order_id = $2 AND line = $3';
  await change(session, 'lines', 'update', sql, [session.writer.nextId++ + 1_000, old[0], old[1]], old);
}

async function deleteLines(session: Session): Promise<void> {
  const [some] = someOwn(session, 'lines', 1);
  if (some !== undefined)
    await change(session, 'lines', 'delete', 'DELETE FROM wl_lines WHERE order_id = $1', [some[0]]);
}

function freshName(session: Session): string {
  return `${session.writer.random.pick(TEXTS)?.slice(0, 30) ?? 'none'} ${freshId(session)}`;
}

async function insertName(session: Session): Promise<void> {
  if (isCrowded(session, 'names')) return deleteName(session);
  const { random, index } = session.writer;
  const sql = 'INSERT INTO wl_names (name, owner, version, rank, tags, born) VALUES ($1, $2, 0, $3, $4, $5)';
  const tags = random.chance(0.2) ? null : [random.pick(TEXTS), random.pick(TEXTS), 'NULL'];
  await change(session, 'names', 'insert', sql, [freshName(session), index, random.integer(100), tags, '2024-02-29']);
}

async function renameName(session: Session): Promise<void> {
  const [old] = someOwn(session, 'names', 1);
  if (old === undefined) return;
  const sql = 'UPDATE wl_names SET version = version + 1, name = $1 WHERE name = $2';
  await change(session, 'names', 'update', sql, [freshName(session), old[0]], old);
}

async function updateName(session: Session): Promise<void> {
  const names = someOwn(session, 'names', 3).map(([name]) => name);
  const sql = 'UPDATE wl_names SET version = version + 1, rank = rank + 1 WHERE name = ANY ($1::text[])';
  await change(session, 'names', 'update', sql, [names]);
}

async function deleteName(session: Session): Promise<void> {
  const names = someOwn(session, 'names', 2).map(([name]) => name);
  await change(session, 'names', 'delete', 'DELETE FROM wl_names WHERE name = ANY ($1::text[])', [names]);
}

async function insertFull(session: Session): Promise<void> {
  if (isCrowded(session, 'full')) return deleteFull(session);
  const { random, index } = session.writer;
  const sql = `INSERT INTO wl_full (id, owner, version, a, b, raw, at)
    VALUES ($1, $2, 0, $3, $4::int, $5, timestamp '2024-01-02 03:04:05.6789' + $4::int * interval '1 hour')`;
  const raw = Buffer.from([0, 255, random.integer(256)]);
  await change(session, 'full', 'insert', sql, [freshId(session), index, random.pick(TEXTS), random.integer(9), raw]);
}

async function updateFull(session: Session): Promise<void> {
  const ids = someOwn(session, 'full', 5).map(([id]) => id);
  const sql = 'UPDATE wl_full SET version = version + 1, a = $1 WHERE id = ANY ($2::int[])';
  await change(session, 'full', 'update', sql, [session.writer.random.pick(TEXTS), ids]);
}

async function moveFull(session: Session): Promise<void> {
  const [old] = someOwn(session, 'full', 1);
  if (old === undefined) return;
  const sql = 'UPDATE wl_full SET version = version + 1, id = $1 WHERE id = $2';
  await change(session, 'full', 'update', sql, [freshId(session), old[0]], old);
}

async function deleteFull(session: Session): Promise<void> {
  const ids = someOwn(session, 'full', 3).map(([id]) => id);
  await change(session, 'full', 'delete', 'DELETE FROM wl_full WHERE id = ANY ($1::int[])', [ids]);
}

/** Long enough to be kept out of line, and another one every time. */
function longText({ writer: { random } }: Session): string {
  return `${random.next()} `.repeat(1 + (DOCUMENT_BYTES_MIN + random.integer(DOCUMENT_BYTES_SPREAD)) / 18);
}

async function insertDocument(session: Session): Promise<void> {
  if (isCrowded(session, 'documents')) return deleteDocument(session);
  const { random, index } = session.writer;
  const sql = 'INSERT INTO wl_documents (id, owner, version, title, body, data) VALUES ($1, $2, 0, $3, $4, $5)';
  const data = { id: random.integer(1e9), text: longText(session), list: [1, 2.5, null, { deep: true }] };
  const values = [freshId(session), index, random.pick(TEXTS), longText(session), JSON.stringify(data)];
  await change(session, 'documents', 'insert', sql, values);
}

async function retitleDocument(session: Session): Promise<void> {
  const ids = someOwn(session, 'documents', 3).map(([id]) => id);
  const sql = 'UPDATE wl_documents SET version = version + 1, title = $1 WHERE id = ANY ($2::int[])';
  await change(session, 'documents', 'update', sql, [session.writer.random.pick(TEXTS), ids]);
}

async function rewriteDocument(session: Session): Promise<void> {
  const ids = someOwn(session, 'documents', 1).map(([id]) => id);
  const sql = 'UPDATE wl_documents SET version = version + 1, body = $1 WHERE id = ANY ($2::int[])';
  await change(session, 'documents', 'update', sql, [longText(session), ids]);
}

async function deleteDocument(session: Session): Promise<void> {
  const ids = someOwn(session, 'documents', 2).map(([id]) => id);
  await change(session, 'documents', 'delete', 'DELETE FROM wl_documents WHERE id = ANY ($1::int[])', [ids]);
}
