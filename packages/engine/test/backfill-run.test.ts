/** A run on real tables beside a stream that the test plays, so that what is delivered when is the test's to say. */

import { parseMark } from '@millrace/engine/backfill/backfill-mark';
import { BackfillRun } from '@millrace/engine/backfill/backfill-run';
import { RateLimit } from '@millrace/engine/backfill/read-pacing';
import { ReaderPool } from '@millrace/engine/backfill/reader-pool';
import type { TableSchema } from '@millrace/engine/table-schema';
import { DELETE, RowReader, UPDATE } from '@millrace/postgres/pgoutput';
import { builtinType } from '@millrace/postgres/value-json';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';

const AT = { lsn: 1n, ordinal: 0 };
const NOTHING_DELIVERED = 0n;
const ALL_DELIVERED = 1n << 62n;
const INT = builtinType(23)!;

let db: TestDatabase;
let writer: pg.Client;
const stops: (() => Promise<unknown>)[] = [];
beforeEach(async () => {
  db = await createDatabase();
  writer = new pg.Client(db.config);
  writer.on('error', () => {}); // When the test fails, its session is ended.
  await writer.connect();
});
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
  await writer.end();
  await db.drop();
});

interface Played {
  readonly run: BackfillRun;
  /** As the stream announces it. */
  readonly table: TableSchema;
  /** Keys of rows handed over since the last call, in batches of at most `max`. */
  take(progress: bigint, max?: number): string[];
  /** Resolves when a chunk was ready or the run has ended since the last call. */
  ready(): Promise<void>;
  /** What the batch that was filled last says of the place. */
  readonly mark: readonly string[] | null;
}

async function play(
  name: string,
  order: 'physical' | 'key',
  options: { currentXid?: number; mark?: readonly string[] } = {},
): Promise<Played> {
  const [{ oid }] = (await db.sql(`SELECT '${name}'::regclass::oid::int AS oid`)) as [{ oid: number }];
  const columns = await db.sql<{ attname: string }>(
    `SELECT attname FROM pg_attribute WHERE attrelid = ${oid} AND attnum > 0 ORDER BY attnum`,
  );
  const table: TableSchema = {
    oid,
    schema: 'public',
    name,
    columns: columns.map(({ attname }) => ({ name: attname, type: INT })),
    primaryKey: ['id'],
  };
  const pool = new ReaderPool({ ...db.config, ssl: 'disable' }, 2);
  let taken: string[] = [];
  let left = 0;
  const waiting = new Set<() => void>();
  let events = 0;
  let seen = 0;
  const run = new BackfillRun({
    job: {
      id: 'played',
      kind: 'ad_hoc',
      table: { schema: 'public', name },
      oid,
      order,
      range: {},
      state: 'active',
      error: null,
      rowsInitial: 1,
      rowsInitialExact: true,
      rowsProcessed: 0,
      rowsIngested: 0,
      activeMs: 0,
      insertedAt: 0,
      updatedAt: 0,
      completedAt: null,
      canceledAt: null,
    },
    mark: parseMark(options.mark),
    pool,
    rate: new RateLimit(null),
    rowsPerSecondMax: null,
    publication: 'played',
    takes: () => true,
    blocked: () => null,
    write(_batch, _schema, bytes, { starts, ends }) {
      if (left-- <= 0) return false;
      taken.push(bytes.toString('utf8', starts[0], ends[0]));
      return true;
    },
    currentXid: () => options.currentXid ?? null,
    poke: () => {},
    notify() {
      events++;
      for (const wake of waiting) wake();
    },
    onEstimate: () => {},
    onProgress: () => {},
    ends: new Map(),
    onPlanned: async () => {},
  });
  stops.push(
    () => pool.close(),
    () => run.stop(),
  );
  const batch = new MessageBatch({ messagesMax: 10, bytesMax: 1000, messageOverhead: 0 });
  return {
    run,
    table,
    take(progress, max = Number.MAX_SAFE_INTEGER) {
      taken = [];
      left = max;
      batch.mark = null;
      run.fill(batch, AT, progress);
      return taken;
    },
    async ready() {
      if (events === seen) await new Promise<void>((resolve) => void waiting.add(resolve));
      seen = events;
    },
    get mark() {
      return batch.mark?.key ?? null;
    },
  };
}

/** The change of one row as pgoutput sends it. */
function change(
  run: BackfillRun,
  table: TableSchema,
  xid: number,
  kind: 'update' | 'delete',
  values: readonly number[],
  old: 'K' | 'O' | null = null,
): void {
  const tuple = (mark: string) => {
    const columns = values.map((value) => {
      const text = Buffer.from(String(value));
      const head = Buffer.alloc(5);
      head.write('t');
      head.writeInt32BE(text.length, 1);
      return Buffer.concat([head, text]);
    });
    const count = Buffer.alloc(3);
    count.write(mark);
    count.writeInt16BE(values.length, 1);
    return Buffer.concat([count, ...columns]);
  };
  const head = Buffer.alloc(5);
  head[0] = kind === 'update' ? UPDATE : DELETE;
  head.writeUInt32BE(table.oid, 1);
  const parts = [...(old === null ? [] : [tuple(old)]), ...(kind === 'update' ? [tuple('N')] : [])];
  const bytes = Buffer.concat([head, ...parts]);
  const row = new RowReader();
  row.aim(bytes, 0, bytes.length);
  run.changed(table, xid, head[0]!, bytes, row);
}

/** Begins a transaction that has changed something, and returns its id as the stream has it. */
async function begin(sql: string): Promise<number> {
  await writer.query(`BEGIN; ${sql}`);
  const { rows } = await writer.query(`SELECT (pg_current_xact_id()::text::bigint % 4294967296)::text AS xid`);
  return Number(rows[0].xid);
}

const KEYED = `CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 1 FROM generate_series(1, 5) i;
  CREATE PUBLICATION played FOR TABLE t`;

for (const order of ['physical', 'key'] as const) {
  test(`by ${order}: rows wait until the stream has come to where they were read`, async () => {
    await db.sql(KEYED);
    const { run, take, ready } = await play('t', order);
    await ready();
    expect(take(NOTHING_DELIVERED)).toEqual([]);
    expect(take(ALL_DELIVERED)).toEqual(['1', '2', '3', '4', '5']);
    await ready();
    expect([run.finished, run.processed, run.ingested]).toEqual([true, 5, 5]);
  });

  test(`by ${order}: what a transaction in progress changes is left out once it was delivered, and only that`, async () => {
    await db.sql(KEYED);
    const xid = await begin('UPDATE t SET v = 2 WHERE id IN (2, 4)');
    const { run, table, take, ready } = await play('t', order);
    await ready();
    run.begun(xid, 5n);
    change(run, table, xid, 'update', [2, 2]);
    // Under a key that was changed the old one counts as well.
    change(run, table, xid, 'update', [9, 2]);
    change(run, table, xid, 'delete', [4, 0], 'K');
    expect(take(ALL_DELIVERED)).toEqual(['1', '3', '5']);
    await ready();
    expect([run.finished, run.processed, run.ingested]).toEqual([true, 5, 3]);
    await writer.query('COMMIT');
  });

  test(`by ${order}: what the snapshot sees is at least as new as the change, and is delivered`, async () => {
    await db.sql(KEYED);
    const xid = await begin('UPDATE t SET v = 2 WHERE id = 2');
    await writer.query('COMMIT');
    const { run, table, take, ready } = await play('t', order);
    await ready();
    run.begun(xid, 5n);
    change(run, table, xid, 'update', [2, 2]);
    expect(take(ALL_DELIVERED).sort()).toEqual(['1', '2', '3', '4', '5']);
  });

  test(`by ${order}: a truncate in progress that was delivered leaves nothing of what was read`, async () => {
    await db.sql(`${KEYED}; CREATE TABLE other (id int)`);
    const xid = await begin('INSERT INTO other VALUES (1)');
    const { run, table, take, ready } = await play('t', order);
    await ready();
    run.begun(xid, 5n);
    run.truncated(table, xid);
    expect(take(ALL_DELIVERED)).toEqual([]);
    await ready();
    expect([run.finished, run.processed, run.ingested]).toEqual([true, 5, 0]);
    await writer.query('COMMIT');
  });

  test(`by ${order}: a change of a row that is not known is read again until it is seen`, async () => {
    await db.sql(KEYED);
    const xid = await begin('UPDATE t SET v = 2 WHERE id = 2');
    const { run, take, ready } = await play('t', order, { currentXid: xid });
    await ready();
    expect(take(ALL_DELIVERED)).toEqual([]);
    await ready();
    expect(take(ALL_DELIVERED)).toEqual([]);
    await writer.query('COMMIT');
    for (let rows: string[] = []; rows.length === 0; rows = take(ALL_DELIVERED)) await ready();
    expect(run.ingested).toBe(5);
  });

  test(`by ${order}: from any mark it goes on with the row after it`, async () => {
    await db.sql(KEYED);
    const all = ['1', '2', '3', '4', '5'];
    const first = await play('t', order);
    await first.ready();
    for (let held = 1; held < 5; held++) {
      expect(first.take(ALL_DELIVERED, 1)).toEqual([all[held - 1]]);
      const again = await play('t', order, { mark: first.mark! });
      await again.ready();
      expect(again.take(ALL_DELIVERED)).toEqual(all.slice(held));
      expect([again.run.processed, again.run.ingested]).toEqual([5, 5]);
    }
  });
}

test('rows of the shape a table had before are read again, not delivered after a change of the new shape', async () => {
  await db.sql(KEYED);
  // A row that the chunk does not have: nothing but the shape says that what was read is old.
  const xid = await begin('INSERT INTO t VALUES (6, 1)');
  const { run, table, take, ready } = await play('t', 'key');
  await ready();
  const reshaped = { ...table, columns: [...table.columns, { name: 'added', type: INT }] };
  run.begun(xid, 5n);
  change(run, reshaped, xid, 'update', [6, 1, 7]);
  expect(take(ALL_DELIVERED)).toEqual([]);
  await writer.query('COMMIT');
  await db.sql('ALTER TABLE t ADD COLUMN added int DEFAULT 7');
  let rows: string[] = [];
  for (; rows.length === 0; rows = take(ALL_DELIVERED)) await ready();
  expect(rows).toEqual(['1', '2', '3', '4', '5', '6']);
});

test('a truncate of one partition does not make the rows of another stale', async () => {
  await db.sql(`CREATE TABLE t (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2);
    INSERT INTO t VALUES (1, 1), (2, 2); CREATE PUBLICATION played FOR TABLE t; CREATE TABLE other (id int)`);
  const xid = await begin('INSERT INTO other VALUES (1)');
  const { run, table, take, ready } = await play('t', 'key');
  await ready();
  const [{ oid }] = (await db.sql(`SELECT 't1'::regclass::oid::int AS oid`)) as [{ oid: number }];
  run.begun(xid, 5n);
  run.truncated({ ...table, oid }, xid);
  expect(take(ALL_DELIVERED)).toEqual([]);
  await writer.query('COMMIT');
  while (!run.finished) {
    await ready();
    while (take(ALL_DELIVERED).length > 0);
  }
  expect(run.ingested).toBe(2);
});

test('without a key a row that looks like one that was changed is asked for again, and is there if it is another', async () => {
  await db.sql(`CREATE TABLE t (id int, v int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 1), (1, 1), (2, 1);
    CREATE PUBLICATION played FOR TABLE t`);
  const xid = await begin('DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE id = 1)');
  const { run, table, take, ready } = await play('t', 'physical');
  await ready();
  run.begun(xid, 5n);
  change(run, table, xid, 'delete', [1, 1], 'O');
  expect(take(ALL_DELIVERED)).toEqual([]);
  await writer.query('COMMIT');
  let rows: string[] = [];
  while (rows.length === 0) {
    await ready();
    rows = take(ALL_DELIVERED);
  }
  expect(rows).toEqual(['1', '2']);
});

test('without a key a row that never stays the same is left to its changes in the end', async () => {
  await db.sql(`CREATE TABLE t (id int, v int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 1), (2, 1);
    CREATE PUBLICATION played FOR TABLE t`);
  const xid = await begin('UPDATE t SET v = 2 WHERE id = 1');
  const { run, table, take, ready } = await play('t', 'physical');
  await ready();
  run.begun(xid, 5n);
  change(run, table, xid, 'update', [1, 1], 'O');
  let rows = take(ALL_DELIVERED);
  for (; rows.length === 0; rows = take(ALL_DELIVERED)) await ready();
  expect(rows).toEqual(['2']);
  await writer.query('COMMIT');
});
