/**
 * Random transactions on random tables. What transaction N of connection C does follows from the seed and from what the
 * tables are like when it begins; with one connection that makes a whole run repeatable.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { copyIn, copyLine } from '@millrace/testkit/copy-in';
import type { ConnectionConfig } from '@millrace/testkit/postgres';
import { type Random, seededRandom } from '@millrace/testkit/random';
import pg from 'pg';
import { randomValue } from './column-types.ts';
import { type Column, PARTITION_SPAN, randomDdl, readTables, type Table } from './schema.ts';

export interface ScriptOptions {
  readonly config: ConnectionConfig;
  readonly seed: number;
  readonly connections: number;
  /** Chance of a change of the schema in place of any statement. */
  readonly ddl: number;
  readonly truncates: boolean;
  /** Partitions come and go. Without it they stay as they were made. */
  readonly partitionMoves: boolean;
  /** TRUNCATE of one partition: not told to subscribers of the root. */
  readonly partitionTruncates: boolean;
  /** Rows of a large transaction at most; 0: none. */
  readonly largeRowsMax: number;
  readonly pauseMs: number;
}

export interface ScriptCounts {
  committed: number;
  rolledBack: number;
  /** Commits whose answer was lost. */
  lostAnswers: number;
  statements: number;
  schemaChanges: number;
  /** What the server refused, by SQLSTATE. */
  readonly refused: Map<string, number>;
}

export interface Scripts {
  readonly counts: ScriptCounts;
  reached(committed: number): Promise<void>;
  /** Ends every connection after its present transaction. */
  stop(): Promise<ScriptCounts>;
}

const RECONNECT_MS = 40;
const LOCK_TIMEOUT_MS = 1_500;
const STATEMENTS_MAX = 6;
/** Above this many rows of a table a statement deletes rather than inserts. */
const CROWDED_ROWS = 150;

export function startScripts(options: ScriptOptions): Scripts {
  const counts: ScriptCounts = {
    ...{ committed: 0, rolledBack: 0, lostAnswers: 0, statements: 0, schemaChanges: 0 },
    refused: new Map(),
  };
  const stopping = new AbortController();
  const running = Array.from({ length: options.connections }, (_, index) =>
    connection(options, index, counts, stopping.signal),
  );
  const ended = Promise.allSettled(running);
  return {
    counts,
    async reached(committed) {
      let over = false;
      void ended.then(() => (over = true));
      while (counts.committed < committed && !over) await Promise.race([delay(5), ...running]);
    },
    async stop() {
      stopping.abort();
      for (const result of await ended) if (result.status === 'rejected') throw result.reason;
      return counts;
    },
  };
}

/** The transactions from `from` up to `to` of one connection, with nobody beside it: the same ones every time. */
export async function runSerially(options: ScriptOptions, from: number, to: number): Promise<ScriptCounts> {
  const scripts: ScriptCounts = {
    ...{ committed: 0, rolledBack: 0, lostAnswers: 0, statements: 0, schemaChanges: 0 },
    refused: new Map(),
  };
  const client = await connect(options.config);
  if (client === null) throw new Error('the server is not there');
  for (let n = from; n < to; n++) await transact(sessionOf(options, client, scripts, 0, n));
  await client.end();
  return scripts;
}

async function connection(
  options: ScriptOptions,
  index: number,
  counts: ScriptCounts,
  stopping: AbortSignal,
): Promise<void> {
  let n = 0;
  while (!stopping.aborted) {
    const client = await connect(options.config);
    if (client === null) {
      await delay(RECONNECT_MS);
      continue;
    }
    try {
      while (!stopping.aborted) {
        await transact(sessionOf(options, client, counts, index, n++));
        if (options.pauseMs > 0) await delay(options.pauseMs);
      }
    } catch (error) {
      if (!isConnectionLoss(error)) throw error;
    } finally {
      await client.end().catch(() => {});
    }
  }
}

async function connect(config: ConnectionConfig): Promise<pg.Client | null> {
  const client = new pg.Client({ ...config, connectionTimeoutMillis: 5_000 });
  client.on('error', () => {});
  try {
    await client.connect();
    await client.query(`SET lock_timeout = ${LOCK_TIMEOUT_MS}; SET client_min_messages = 'warning'`);
    return client;
  } catch (error) {
    if (!isConnectionLoss(error)) throw error;
    return null;
  }
}

function isConnectionLoss(error: unknown): boolean {
  if (error instanceof pg.DatabaseError) return /^(57P0|08|53300)/.test(error.code ?? '');
  return error instanceof Error && error.name === 'Error';
}

interface Session {
  readonly options: ScriptOptions;
  readonly client: pg.Client;
  readonly counts: ScriptCounts;
  readonly random: Random;
  /** No two transactions of a run have the same; below 100 000. */
  readonly serial: number;
  tables: readonly Table[];
  /** Of the next key and the next name. */
  next: number;
  /** What it is doing, for the report of an error. */
  statement: string;
}

function sessionOf(options: ScriptOptions, client: pg.Client, counts: ScriptCounts, index: number, n: number): Session {
  const random = seededRandom(options.seed * 7_919 + index * 1_000_003 + n * 31);
  const serial = n * options.connections + index;
  return { options, client, counts, random, serial, tables: [], next: 0, statement: '' };
}

async function transact(session: Session): Promise<void> {
  const { client, random, counts } = session;
  await client.query('BEGIN');
  let committing = false;
  try {
    session.tables = await readTables(client);
    for (let left = 1 + random.integer(STATEMENTS_MAX); left > 0; left--) await step(session);
    if (random.chance(0.1)) {
      await client.query('ROLLBACK');
      counts.rolledBack++;
      return;
    }
    committing = true;
    await client.query('COMMIT');
    counts.committed++;
  } catch (error) {
    if (!(error instanceof pg.DatabaseError) || isConnectionLoss(error)) {
      if (committing) counts.lostAnswers++;
      throw error;
    }
    const code = error.code ?? '';
    counts.refused.set(code, (counts.refused.get(code) ?? 0) + 1);
    if (!EXPECTED.test(code)) throw new Error(`${code} ${error.message}, at: ${session.statement}`, { cause: error });
    await client.query('ROLLBACK');
    counts.rolledBack++;
  }
}

/**
 * Deadlocks and lock timeouts; what another connection changed meanwhile (columns, tables); keys that are taken, rows
 * without a partition, references; a change of a table that is in use.
 */
const EXPECTED = /^(40|55P0|55006|42P01|42703|42P07|42701|42P16|42P17|42804|23|22P02|22003|2BP01|55000|0A000|XX000)/;

async function run(session: Session, sql: string): Promise<void> {
  session.statement = sql;
  session.counts.statements++;
  await session.client.query(sql);
}

/** One statement, or a savepoint with some statements under it. */
async function step(session: Session): Promise<void> {
  const { random, client } = session;
  if (!random.chance(0.15)) return statement(session);
  const name = `s${session.next++}`;
  await run(session, `SAVEPOINT ${name}`);
  for (let left = 1 + random.integer(3); left > 0; left--) await step(session);
  if (random.chance(0.5)) {
    await run(session, `ROLLBACK TO ${name}`);
    session.tables = await readTables(client);
  }
  if (random.chance(0.7)) await run(session, `RELEASE ${name}`);
}

async function statement(session: Session): Promise<void> {
  const { random, options, tables } = session;
  if (random.chance(options.ddl)) return ddl(session);
  if (options.truncates && random.chance(0.02)) return truncate(session);
  if (random.chance(0.05)) return logicalMessage(session);
  if (options.largeRowsMax > 0 && random.chance(0.02)) return large(session);
  const able = tables.filter(({ parent }) => parent === null || random.chance(0.3));
  const table = random.pick(able);
  const kind = random.integer(10);
  if (kind < 4) return insert(session, table, 1 + random.integer(4));
  if (kind === 4) return copy(session, table, 1 + random.integer(40));
  if (table.key.length === 0 && table.identity !== 'f') return insert(session, table, 1);
  if (kind < 8) return update(session, table);
  if (kind === 8) return moveKey(session, table);
  return remove(session, table);
}

async function ddl(session: Session): Promise<void> {
  const { random, options, tables, client } = session;
  const fresh = session.serial * 100 + (session.next++ % 100);
  const statements = randomDdl(random, tables, fresh);
  if (statements === null) return;
  if (!options.partitionMoves && /(ATTACH|DETACH) PARTITION/.test(statements[0]!)) return;
  for (const sql of statements) await run(session, sql);
  session.counts.schemaChanges++;
  session.tables = await readTables(client);
}

async function truncate(session: Session): Promise<void> {
  const { random, options, tables } = session;
  const able = tables.filter(({ parent }) => parent === null || options.partitionTruncates);
  const count = Math.min(able.length, 1 + random.integer(2));
  const names = new Set(Array.from({ length: count }, () => `r.${random.pick(able).name}`));
  await run(session, `TRUNCATE ${[...names].join(', ')} CASCADE`);
}

async function logicalMessage(session: Session): Promise<void> {
  const { random } = session;
  const transactional = random.chance(0.7);
  const prefix = random.pick([
    'app',
    'outbox',
    'sequin:transaction_annotations.set',
    'sequin:transaction_annotations.clear',
  ]);
  const content = random.pick([`{"by": ${random.integer(9)}}`, 'not json', '', 'x'.repeat(random.integer(3_000))]);
  await run(session, `SELECT pg_logical_emit_message(${transactional}, '${prefix}', '${content}')`);
}

/** Above logical_decoding_work_mem, so that a server which can streams it before it is committed. */
async function large(session: Session): Promise<void> {
  const { random, options } = session;
  const able = session.tables.filter(({ partitioned, parent }) => !partitioned && parent === null);
  const table = random.pick(able);
  const rows = 200 + random.integer(options.largeRowsMax);
  await insert(session, table, rows);
  if (random.chance(0.7) && table.key.length > 0) {
    // Gone again, most of them, so that tables stay small.
    await run(session, `DELETE FROM r.${table.name} WHERE ${chosen(table, rows - random.integer(20), random)}`);
  }
}

function freshKey(session: Session, type: string, offset: string): string {
  const base = session.serial * 100_000 + (session.next += 50_000);
  // Keys of an integer column have to stay below 2^31.
  const number = `(${base % 2_000_000_000} + ${offset})`;
  switch (type) {
    case 'text':
      return `'key ' || ${number}`;
    case 'uuid':
      return `md5('key' || ${number})::uuid`;
    case 'numeric':
      return `${number} / 4.0`;
    default:
      return `${number}::${type}`;
  }
}

/** Expressions for a row's columns; `offset` is what makes the keys of a statement's rows differ. */
function rowOf(session: Session, table: Table, offset: string): [name: string, value: string][] {
  const { random } = session;
  return writable(table).map(({ name, type }) => {
    if (name === 'p') return [name, partitionNumber(session, table, offset)];
    const value = table.key.includes(name) ? freshKey(session, type, offset) : randomValue(type, random);
    return [name, value];
  });
}

function partitionNumber({ random, tables }: Session, table: Table, offset: string): string {
  const there = tables.flatMap(({ parent, low }) => (parent === table.name && low !== null ? [low] : []));
  const low = table.low ?? (there.length > 0 ? random.pick(there) : 0);
  return `${low} + (${offset}) % ${PARTITION_SPAN}`;
}

function writable(table: Table): readonly Column[] {
  return table.columns.filter(({ free }) => free);
}

async function insert(session: Session, table: Table, rows: number): Promise<void> {
  if (rows < 100 && (await isCrowded(session, table))) return remove(session, table);
  const row = rowOf(session, table, 'i');
  const names = row.map(([name]) => name).join(', ');
  const values = row.map(([, value]) => value).join(', ');
  await run(session, `INSERT INTO r.${table.name} (${names}) SELECT ${values} FROM generate_series(1, ${rows}) i`);
}

/** COPY writes many rows at one WAL position. Only columns that take plain text get values. */
async function copy(session: Session, table: Table, rows: number): Promise<void> {
  if (await isCrowded(session, table)) return remove(session, table);
  const columns = writable(table).filter(
    ({ name, type }) => table.key.includes(name) || type === 'text' || name === 'p',
  );
  const able = columns.every(({ name, type }) => !table.key.includes(name) || type !== 'uuid');
  if (columns.length === 0 || !able) return insert(session, table, rows);
  const base = session.serial * 100_000 + (session.next += 50_000);
  const low = Number(/^\d+/.exec(partitionNumber(session, table, '0'))![0]);
  const lines = Array.from({ length: rows }, (_, i) =>
    copyLine(
      columns.map(({ name, type }) => {
        if (name === 'p') return low + (i % PARTITION_SPAN);
        if (!table.key.includes(name)) return `copied ${i}`;
        return type === 'text' ? `key ${base % 2_000_000_000} ${i}` : (base % 2_000_000_000) + i;
      }),
    ),
  );
  session.statement = `COPY r.${table.name}`;
  session.counts.statements++;
  await copyIn(
    session.client,
    `COPY r.${table.name} (${columns.map(({ name }) => name).join(', ')}) FROM STDIN`,
    lines,
  );
}

async function isCrowded({ client }: Session, table: Table): Promise<boolean> {
  const { rows } = await client.query<{ n: number }>(`SELECT count(*)::int AS n FROM r.${table.name}`);
  return rows[0]!.n >= CROWDED_ROWS;
}

/** A condition that takes `count` rows of those that are there, by their content alone. */
function chosen(table: Table, count: number, random: Random): string {
  const by = `ORDER BY md5(t::text || '${random.integer(1e6)}') LIMIT ${count}`;
  if (table.key.length === 0) return `ctid = ANY (ARRAY(SELECT t.ctid FROM r.${table.name} t ${by}))`;
  const key = table.key.map((name) => `t.${name}`).join(', ');
  return `(${table.key.join(', ')}) IN (SELECT ${key} FROM r.${table.name} t ${by})`;
}

async function update(session: Session, table: Table): Promise<void> {
  const { random } = session;
  const able = writable(table).filter(({ name }) => !table.key.includes(name) && name !== 'p');
  if (able.length === 0) return;
  const columns = able.filter(() => random.chance(0.4));
  if (columns.length === 0) columns.push(random.pick(able));
  const sets = columns.map(({ name, type }) => `${name} = ${randomValue(type, random)}`).join(', ');
  const where = chosen(table, 1 + random.integer(5), random);
  await run(session, `UPDATE r.${table.name} SET ${sets} WHERE ${where}`);
}

/** Another key, another partition, or another value of the column that identifies a row to replication. */
async function moveKey(session: Session, table: Table): Promise<void> {
  const { random } = session;
  const where = chosen(table, 1, random);
  if (table.key.length === 0) return update(session, table);
  if (table.identity === 'i')
    return run(session, `UPDATE r.${table.name} SET code = ${freshKey(session, 'text', '0')} WHERE ${where}`);
  const part = random.pick(table.key);
  const column = table.columns.find(({ name }) => name === part)!;
  const inRoot = column.name === 'p' && table.low === null;
  const value =
    column.name === 'p' ? (inRoot ? partitionNumber(session, table, '7') : 'p') : freshKey(session, column.type, '0');
  await run(session, `UPDATE r.${table.name} SET ${column.name} = ${value} WHERE ${where}`);
}

async function remove(session: Session, table: Table): Promise<void> {
  if (table.key.length === 0 && table.identity !== 'f') return;
  const count = (await isCrowded(session, table)) ? 60 : 1 + session.random.integer(6);
  await run(session, `DELETE FROM r.${table.name} WHERE ${chosen(table, count, session.random)}`);
}
