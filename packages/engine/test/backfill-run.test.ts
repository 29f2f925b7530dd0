/** A run on real tables beside a stream that the test plays, so that what is delivered when is the test's to say. */

import { ChunkQuery } from '@millrace/engine/backfill/chunk-query';
import { RateLimit } from '@millrace/engine/backfill/read-pacing';
import { planTable } from '@millrace/engine/backfill/table-plan';
import { READER_SETTINGS } from '@millrace/engine/backfill/table-reader';
import { PgConnection } from '@millrace/postgres/connection';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { chosenMajor } from '@millrace/testkit/postgres-majors';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { ALL_DELIVERED, change, INT, type Memory, type PlayOptions, playBackfill, wholeOf } from './played-backfill.ts';

const NOTHING_DELIVERED = 0n;

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

const play = (name: string, order: 'physical' | 'key', options: PlayOptions = {}) =>
  playBackfill(db, stops, name, order, options);

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

test('by key: a row whose key is the word of the marks of late rows is one like the others', async () => {
  await db.sql(`CREATE TABLE t (id text PRIMARY KEY, v int); INSERT INTO t SELECT unnest('{early,late,later,punctual}'::text[]), 1;
    CREATE PUBLICATION played FOR TABLE t`);
  const first = await play('t', 'key');
  await first.ready();
  expect(first.take(ALL_DELIVERED, 2)).toEqual(['early', 'late']);
  expect(await wholeOf(await play('t', 'key', { mark: first.mark! }))).toEqual(['later', 'punctual']);
});

describe('in the order of a key that is another one when it goes on', () => {
  const cases = [
    ['of another type', 'ALTER TABLE t ALTER id TYPE text'],
    ['with another collation', 'ALTER TABLE t ALTER name TYPE text COLLATE "C"', 'name'],
    ['of other columns', 'ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (v)'],
  ] as const;
  for (const [name, alter, key = 'id'] of cases) {
    test(`${name}: no row is missing`, async () => {
      await db.sql(`CREATE TABLE t (id int NOT NULL, v int NOT NULL, name text COLLATE "en-x-icu" NOT NULL);
        ALTER TABLE t ADD CONSTRAINT t_pkey PRIMARY KEY (${key}); CREATE PUBLICATION played FOR TABLE t;
        INSERT INTO t SELECT i, 13 - i, CASE WHEN i < 9 THEN 'a' ELSE 'B' END || chr(96 + i) FROM generate_series(1, 12) i`);
      const first = await play('t', 'key');
      await first.ready();
      expect(first.take(ALL_DELIVERED, 8)).toHaveLength(8);
      await db.sql(alter);
      const rest = await wholeOf(await play('t', 'key', { mark: first.mark! }));
      expect(rest).toEqual(expect.arrayContaining(['9', '10', '11', '12']));
    });
  }

  test('none at all: it has failed, and says so', async () => {
    await db.sql(KEYED);
    const first = await play('t', 'key');
    await first.ready();
    expect(first.take(ALL_DELIVERED, 2)).toEqual(['1', '2']);
    await db.sql('ALTER TABLE t DROP CONSTRAINT t_pkey');
    await expect(wholeOf(await play('t', 'key', { mark: first.mark! }))).rejects.toMatchObject({
      code: 'pg_table_keyless',
    });
  });
});

describe('on disk, with a condition that an index, or another table, has in another order', () => {
  const TABLE = `CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, (i * 7919) % 20000 FROM generate_series(1, 20000) i;
    CREATE INDEX t_v ON t (v); CREATE TABLE picked AS SELECT id FROM t WHERE v < 8 ORDER BY v; ANALYZE`;
  const matching = async () =>
    (await db.sql<{ id: number }>('SELECT id FROM t WHERE v < 8 ORDER BY id')).map(({ id }) => String(id));
  const cases = [
    ['an index', 'FOR TABLE t', 'v < 8'],
    ['another table', 'FOR TABLE t', 'id IN (SELECT id FROM picked)'],
    ['the row filter', 'FOR TABLE t WHERE (v < 8)', undefined],
  ] as const;
  for (const [name, publication, where] of cases) {
    test.skipIf(chosenMajor() < 15 && where === undefined)(`${name}: from any mark no row is missing`, async () => {
      await db.sql(`${TABLE}; CREATE PUBLICATION played ${publication}`);
      const all = await matching();
      const range = where === undefined ? {} : { where };
      const first = await play('t', 'physical', range);
      for (let held = 1; held < all.length; held++) {
        let taken = first.take(ALL_DELIVERED, 1);
        for (; taken.length === 0; taken = first.take(ALL_DELIVERED, 1)) await first.ready();
        expect(taken).toEqual([all[held - 1]]);
        expect(await wholeOf(await play('t', 'physical', { ...range, mark: first.mark! }))).toEqual(all.slice(held));
      }
    });
  }

  test('what does not fit a chunk comes with the next ones, each row once', async () => {
    await db.sql(`${TABLE}; CREATE PUBLICATION played FOR TABLE t`);
    const taken = await wholeOf(await play('t', 'physical', { where: 'v >= 0' }));
    expect(taken).toEqual(Array.from({ length: 20_000 }, (_, i) => String(i + 1)));
  });

  test('it is still a range of pages that is read, whatever the role says of plans', async () => {
    await db.sql(`${TABLE}; CREATE PUBLICATION played FOR TABLE t`);
    const connection = await PgConnection.connect({ ...db.config, ssl: 'disable' });
    onTestFinished(() => connection.close());
    await connection.query(`SET enable_tidscan = off; ${READER_SETTINGS}`);
    const [{ oid }] = (await db.sql(`SELECT 't'::regclass::oid::int AS oid`)) as [{ oid: number }];
    const plan = await planTable(connection, 'played', oid);
    for (const range of [{}, { where: 'v < 8' }]) {
      const query = new ChunkQuery(plan, plan.leaves[0]!, 'physical', range);
      const chunk = query.chunk({ after: ['(10,0)'], through: ['(60,0)'] }, 4000);
      const { rows } = await connection.query(`BEGIN; ${query.settings}EXPLAIN ${chunk}; COMMIT`);
      const lines = rows.map(([line]) => line).join('\n');
      expect(lines).toMatch(/Tid Range Scan on t/);
      expect(lines).not.toMatch(/Index|Seq Scan|cost=1\d{10}/);
    }
  });
});

describe('large values that an update left out of the stream', () => {
  const ROWS = 1000;
  const LARGE = `CREATE TABLE t (id int PRIMARY KEY, v int, doc text); ALTER TABLE t ALTER doc SET STORAGE EXTERNAL;
    INSERT INTO t SELECT i, 1, repeat('d', 2100) FROM generate_series(1, ${ROWS}) i; CREATE PUBLICATION played FOR TABLE t`;
  const numbers = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => String(from + i));

  test('of rows that moved behind the end: they are read by their keys, those that get another key meanwhile, too', async () => {
    await db.sql(LARGE);
    let held: string | null = 'held';
    const played = await play('t', 'physical', { blocked: () => held });
    const { run, table, take, ready } = played;
    await vi.waitFor(() => expect(run.waiting).toBe('held'));
    const xid = await begin('UPDATE t SET v = 2');
    await writer.query('COMMIT');
    run.begun(xid, 1n);
    for (let id = 1; id <= ROWS; id++) change(run, table, xid, 'update', [id, 2, null]);
    held = null;
    run.wake();
    const taken = new Set<string>();
    // The first of them came by key, not yet the last.
    while (!taken.has('1') || !taken.has('400')) {
      const some = take(ALL_DELIVERED);
      for (const id of some) taken.add(id);
      if (some.length === 0) await ready();
    }
    expect(taken.has('900')).toBe(false);
    const next = await begin('UPDATE t SET id = 5000 WHERE id = 900');
    await writer.query('COMMIT');
    run.begun(next, 2n);
    change(run, table, next, 'update', [5000, 2, null], 'K', [900, null, null]);
    for (const id of await wholeOf(played)) taken.add(id);
    expect(
      [...taken]
        .map(Number)
        .sort((a, b) => a - b)
        .map(String),
    ).toEqual([...numbers(1, 899), ...numbers(901, ROWS), '5000']);
  });

  test('of rows that moved before a restart: all that was written since is read, and only that, from any mark', async () => {
    await db.sql(LARGE);
    const memory: Memory = { ends: new Map(), begun: { since: null } };
    const first = await play('t', 'physical', { memory });
    await first.ready();
    expect(first.take(ALL_DELIVERED, 3)).toEqual(['1', '2', '3']);
    expect(memory.begun.since).toMatch(/^\d+$/);
    await first.run.stop();
    // Nobody else's transactions count here.
    const [{ since }] = (await db.sql('SELECT pg_current_xact_id()::text AS since')) as [{ since: string }];
    memory.begun.since = since;
    await db.sql('UPDATE t SET v = 2 WHERE id IN (2, 600) OR id > 700');
    let { mark } = first;
    const taken: string[] = [];
    for (let late = 0; late < 3; ) {
      const run = await play('t', 'physical', { memory, mark: mark! });
      let some: string[] = [];
      for (; some.length === 0; some = run.take(ALL_DELIVERED, late === 0 ? 250 : 1)) await run.ready();
      taken.push(...some);
      mark = run.mark;
      if (mark![4] === 'late') late++;
      await run.run.stop();
    }
    taken.push(...(await wholeOf(await play('t', 'physical', { memory, mark: mark! }))));
    expect(taken.filter((id) => Number(id) > 3 && Number(id) <= 700 && id !== '600')).toEqual(
      numbers(4, 700).filter((id) => id !== '600'),
    );
    const late = taken.slice(taken.lastIndexOf('2'));
    expect(late).toEqual(['2', '600', ...numbers(701, ROWS)]);
  });

  test('of rows that moved before a restart, of a table that has no key any more: it has failed, and says so', async () => {
    await db.sql(LARGE);
    const memory: Memory = { ends: new Map(), begun: { since: null } };
    const first = await play('t', 'physical', { memory });
    await first.ready();
    expect(first.take(ALL_DELIVERED, 3)).toEqual(['1', '2', '3']);
    await first.run.stop();
    await db.sql('UPDATE t SET v = 2');
    const second = await play('t', 'physical', { memory, mark: first.mark! });
    while (second.mark?.[4] !== 'late') if (second.take(ALL_DELIVERED, 250).length === 0) await second.ready();
    await second.run.stop();
    await db.sql('ALTER TABLE t DROP CONSTRAINT t_pkey');
    await expect(wholeOf(await play('t', 'physical', { memory, mark: second.mark! }))).rejects.toMatchObject({
      code: 'pg_table_keyless',
    });
  });
});

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

test.skipIf(chosenMajor() < 15)(
  'a column that the publication gets meanwhile is read, too, from its first change on',
  async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 1 FROM generate_series(1, 5) i;
    CREATE PUBLICATION played FOR TABLE t (id)`);
    const played = await play('t', 'key');
    const { run, table, take, ready } = played;
    await ready();
    await db.sql('ALTER PUBLICATION played SET TABLE t (id, v)');
    const xid = await begin('UPDATE t SET v = 2 WHERE id = 2');
    await writer.query('COMMIT');
    run.begun(xid, 5n);
    change(run, table, xid, 'update', [2, 2]);
    expect(take(ALL_DELIVERED)).toEqual([]);
    expect(await wholeOf(played)).toEqual(['1', '2', '3', '4', '5']);
    expect(run.plan!.whole[0]!.schema.columns.map(({ name }) => name)).toEqual(['id', 'v']);
  },
);

test('what is changed while it may not read is not remembered without end', async () => {
  await db.sql(KEYED);
  let held: string | null = 'held';
  const played = await play('t', 'physical', { blocked: () => held });
  const { run, table } = played;
  await vi.waitFor(() => expect(run.waiting).toBe('held'));
  const { plan } = run;
  for (let xid = 1; xid <= 200_002; xid++) {
    run.begun(xid, 1n);
    change(run, table, xid, 'update', [2, 2]);
  }
  await vi.waitFor(() => expect(run.plan).not.toBe(plan), { timeout: 10_000 });
  held = null;
  run.wake();
  expect(await wholeOf(played)).toEqual(['1', '2', '3', '4', '5']);
});

test('a condition on a column that is no more has failed, and says so', async () => {
  await db.sql(KEYED);
  const where = 'v = 1';
  const first = await play('t', 'key', { where });
  await first.ready();
  expect(first.take(ALL_DELIVERED, 2)).toEqual(['1', '2']);
  await db.sql('ALTER TABLE t RENAME v TO w');
  await expect(wholeOf(await play('t', 'key', { where, mark: first.mark! }))).rejects.toMatchObject({
    code: 'backfill_invalid',
    detail: expect.stringContaining('column "v" does not exist'),
  });
}, 20_000);

test('what a read that fails was to take of the rows per second is given back', async () => {
  await db.sql(KEYED);
  const rate = new RateLimit(1);
  const { run, ready } = await play('t', 'key', { where: 'v / (v - 1) = 1', rate });
  await ready();
  expect(run.failure).toMatchObject({ detail: expect.stringContaining('22012') });
  expect(rate.waitMs(performance.now())).toBe(0);
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

test('without a key a row is asked for again however long the backfill waited for a commit before', async () => {
  await db.sql(`CREATE TABLE t (id int, v int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 1), (1, 1), (2, 1);
    CREATE PUBLICATION played FOR TABLE t`);
  const gate = new pg.Client(db.config);
  gate.on('error', () => {});
  await gate.connect();
  onTestFinished(() => gate.end());
  await gate.query('SELECT pg_advisory_lock(1)');
  const xid = await begin('DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE id = 1)');
  const busy = writer.query('SELECT pg_advisory_lock(1)').catch(() => {});
  let looks = 0;
  const { run, table, take, ready } = await play('t', 'physical', {
    blocked() {
      looks++;
      return null;
    },
  });
  await vi.waitFor(() => expect(looks).toBeGreaterThan(20), { timeout: 20_000 });
  expect(run.waiting).toMatch(/is committing/);
  run.begun(xid, 5n);
  change(run, table, xid, 'delete', [1, 1], 'O');
  await ready();
  expect(take(ALL_DELIVERED)).toEqual([]);
  await gate.query('SELECT pg_advisory_unlock(1)');
  await busy;
  await writer.query('COMMIT');
  let rows: string[] = [];
  while (rows.length === 0) {
    await ready();
    rows = take(ALL_DELIVERED);
  }
  expect(rows).toEqual(['1', '2']);
});

describe('a replica identity that is another index than the primary key, which an update of the key does not say', () => {
  const CODED = `CREATE TABLE t (id int PRIMARY KEY, code int NOT NULL UNIQUE); ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key;
    INSERT INTO t SELECT i, i FROM generate_series(1, 5) i; CREATE PUBLICATION played FOR TABLE t`;
  const updates = [
    ['the key alone', 'UPDATE t SET id = 9 WHERE id = 2', [9, 2], null],
    ['both', 'UPDATE t SET id = 9, code = 9 WHERE id = 2', [9, 9], [null, 2]],
  ] as const;
  for (const order of ['physical', 'key'] as const) {
    for (const [what, sql, now, before] of updates) {
      test(`by ${order}: the row under its old key is not read behind an update of ${what}`, async () => {
        await db.sql(CODED);
        const xid = await begin(sql);
        const played = await play('t', order);
        const { run, take, ready } = played;
        const table = { ...played.table, identity: ['code'] };
        await ready();
        run.begun(xid, 5n);
        if (before === null) change(run, table, xid, 'update', now);
        else change(run, table, xid, 'update', now, 'K', before);
        expect(take(ALL_DELIVERED)).toEqual([]);
        await writer.query('COMMIT');
        expect((await wholeOf(played)).sort()).toEqual(['1', '3', '4', '5', '9']);
      });
    }
  }

  test('one that the table got after the backfill began counts, too', async () => {
    await db.sql(`${CODED}; ALTER TABLE t REPLICA IDENTITY DEFAULT`);
    const played = await play('t', 'key');
    const { run, take, ready } = played;
    await ready();
    await db.sql('ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key');
    const xid = await begin('UPDATE t SET id = 9 WHERE id = 2');
    await writer.query('COMMIT');
    run.begun(xid, 5n);
    change(run, { ...played.table, identity: ['code'] }, xid, 'update', [9, 2]);
    expect(take(ALL_DELIVERED)).toEqual([]);
    expect(await wholeOf(played)).toEqual(['1', '3', '4', '5', '9']);
  });

  test('that of a partition counts where that of the root is announced', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY, code int NOT NULL) PARTITION BY RANGE (id);
      CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100); CREATE UNIQUE INDEX t1_code ON t1 (code);
      CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200);
      ALTER TABLE t1 REPLICA IDENTITY USING INDEX t1_code; INSERT INTO t VALUES (1, 1), (2, 2), (101, 1), (102, 2);
      CREATE PUBLICATION played FOR TABLE t WITH (publish_via_partition_root = true)`);
    const xid = await begin('UPDATE t SET id = 9 WHERE id = 2');
    const played = await play('t', 'key');
    const { run, table, take, ready } = played;
    await ready();
    run.begun(xid, 5n);
    change(run, table, xid, 'update', [9, 2]);
    expect(take(ALL_DELIVERED)).toEqual([]);
    await writer.query('COMMIT');
    // What is unique in one partition is not in another.
    expect(await wholeOf(played)).toEqual(['1', '9', '101', '102']);
  });

  test('a row whose key stays holds nothing up', async () => {
    await db.sql(CODED);
    const xid = await begin('UPDATE t SET code = 7 WHERE id = 2');
    const { run, table, take, ready } = await play('t', 'key');
    await ready();
    run.begun(xid, 5n);
    change(run, { ...table, identity: ['code'] }, xid, 'update', [2, 7], 'K', [null, 2]);
    expect(take(ALL_DELIVERED)).toEqual(['1', '3', '4', '5']);
    await writer.query('COMMIT');
  });
});

for (const before of ['the change', 'a transaction of which a part'] as const) {
  test(`without a key a row is asked for again for as long as ${before} was delivered and cannot be seen`, async () => {
    await db.sql(`CREATE TABLE t (id int, v int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 1), (1, 1), (2, 1);
      CREATE PUBLICATION played FOR TABLE t`);
    const xid = await begin('DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE id = 1)');
    const { run, table, take, ready } = await play('t', 'physical');
    await ready();
    run.begun(xid, 5n);
    if (before === 'the change') change(run, table, xid, 'delete', [1, 1], 'O');
    else run.resumed(xid);
    for (let looks = 0; looks < 8; looks++) {
      expect(take(ALL_DELIVERED)).toEqual([]);
      if (before === 'the change' && looks > 0) expect(run.waiting).toMatch(/is committing/);
      await ready();
    }
    await writer.query('COMMIT');
    expect(take(ALL_DELIVERED)).toEqual([]);
    await ready();
    const next = await begin('DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE id = 2)');
    run.begun(next, 6n);
    change(run, table, next, 'delete', [2, 1], 'O');
    expect(take(ALL_DELIVERED)).toEqual([]);
    await writer.query('COMMIT');
    let rows: string[] = [];
    for (; rows.length === 0; rows = take(ALL_DELIVERED)) await ready();
    expect(rows).toEqual(['1']);
  });
}

test('without a key a row that never stays the same is left to its changes in the end', async () => {
  await db.sql(`CREATE TABLE t (id int, v int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 1), (2, 1);
    CREATE PUBLICATION played FOR TABLE t`);
  const { run, table, take, ready } = await play('t', 'physical');
  let looks = 0;
  for (let rows: string[] = []; rows.length === 0; looks++) {
    await ready();
    // A change that no chunk has seen, each time.
    const xid = await begin('UPDATE t SET v = 1 WHERE id = 1');
    await writer.query('COMMIT');
    run.begun(xid, BigInt(5 + looks));
    change(run, table, xid, 'update', [1, 1], 'O');
    rows = take(ALL_DELIVERED);
    expect(rows).toEqual(rows.length === 0 ? [] : ['2']);
  }
  expect(looks).toBe(6);
});
