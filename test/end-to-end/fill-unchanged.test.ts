import { BackfillSource } from '@millrace/engine/backfill/backfill-source';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { eventually, type Message, type Millrace, startMillrace } from './millrace.ts';

const seed = Number(process.env.MILLRACE_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));

let db: TestDatabase;
let millrace: Millrace | null = null;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  millrace = null;
  await db.drop();
});

const big = (mark: string, size = 5000) => mark.repeat(size / mark.length);
const TABLE = `CREATE TABLE docs (id int PRIMARY KEY, n int, body text, tags text[], data jsonb);
  ALTER TABLE docs ALTER body SET STORAGE EXTERNAL, ALTER tags SET STORAGE EXTERNAL, ALTER data SET STORAGE EXTERNAL`;
const FILL = { name: 'filled', fill_unchanged: true };

function bodies(messages: readonly Message[]): unknown[] {
  return messages.map(({ record }) => (record as { body?: string }).body?.slice(0, 2));
}

test('large values that an update left alone are those of the position, also for rows from before', async () => {
  await db.sql(TABLE);
  await db.sql('INSERT INTO docs VALUES (1, 0, $1, $2, $3)', [big('old'), [big('tag')], JSON.stringify([big('json')])]);
  millrace = await startMillrace(db, { sinks: [FILL] });
  await eventually('the index has read the table', () => millrace!.server.pipelines[0]!.rowIndex!.filled);
  await db.sql('UPDATE docs SET n = 1');
  await db.sql('UPDATE docs SET body = $1', [big('new')]);
  await db.sql('UPDATE docs SET n = 2');
  await db.sql('UPDATE docs SET id = 9');
  await db.sql('UPDATE docs SET body = NULL, n = 3');
  const messages = await millrace.atLeast(5, 'filled');
  expect(bodies(messages)).toEqual(['ol', 'ne', 'ne', 'ne', undefined]);
  for (const { record, metadata } of messages) {
    expect(record).toMatchObject({ tags: [big('tag')], data: [big('json')] });
    expect(metadata).not.toHaveProperty('unchanged_columns');
  }
  expect(messages[4]!.record.body).toBeNull();
});

test('a sink that was stopped gets the values of its positions, not those that came later', async () => {
  await db.sql(TABLE);
  const sinks = (status: string) => [{ ...FILL, status }, { name: 'other' }];
  millrace = await startMillrace(db, { sinks: sinks('paused') });
  const { dataDir } = millrace;
  for (const mark of ['a1', 'b2', 'c3', 'd4']) {
    if (mark === 'a1') await db.sql('INSERT INTO docs (id, n, body) VALUES (1, 0, $1)', [big(mark)]);
    else await db.sql('UPDATE docs SET body = $1', [big(mark)]);
    await db.sql('UPDATE docs SET n = n + 1');
  }
  await db.sql('DELETE FROM docs');
  await db.sql('INSERT INTO docs (id, n, body) VALUES (1, 0, $1)', [big('e5')]);
  await millrace.atLeast(10, 'other');
  await millrace.stop();
  millrace = await startMillrace(db, { dataDir, sinks: sinks('active') });
  const messages = await millrace.atLeast(10, 'filled');
  expect(bodies(messages)).toEqual(['a1', 'a1', 'b2', 'b2', 'c3', 'c3', 'd4', 'd4', undefined, 'e5']);
});

test('without a sink that asks for it there is no index', async () => {
  await db.sql(TABLE);
  millrace = await startMillrace(db, { sinks: [{ name: 'plain' }] });
  expect(millrace.server.pipelines[0]!.rowIndex).toBeNull();
});

test('a table that is made later is filled as well, and a renamed column keeps its values', async () => {
  await db.sql(TABLE);
  millrace = await startMillrace(db, { sinks: [FILL] });
  await db.sql(
    'CREATE TABLE later (id int PRIMARY KEY, n int, body text); ALTER TABLE later ALTER body SET STORAGE EXTERNAL',
  );
  await db.sql('INSERT INTO later VALUES (1, 0, $1)', [big('xy')]);
  await db.sql('UPDATE later SET n = 1');
  await db.sql('ALTER TABLE later RENAME body TO text');
  await db.sql('UPDATE later SET n = 2');
  const messages = await millrace.atLeast(3, 'filled');
  expect(messages.map(({ record }) => (record.body ?? record.text) === big('xy'))).toEqual([true, true, true]);
});

test('columns whose names are exchanged right after a row keep their own values', async () => {
  await db.sql(`CREATE TABLE docs (id int PRIMARY KEY, n int, body text, title text);
    ALTER TABLE docs ALTER body SET STORAGE EXTERNAL, ALTER title SET STORAGE EXTERNAL`);
  await db.sql('INSERT INTO docs VALUES (1, 0, $1, $2)', [big('body'), big('title')]);
  millrace = await startMillrace(db, { sinks: [FILL] });
  await eventually('the index has read the table', () => millrace!.server.pipelines[0]!.rowIndex!.filled);
  // The catalog is asked about the first row when the transaction is over, and speaks of how the table is then.
  await db.sql(`BEGIN; UPDATE docs SET n = 1; ALTER TABLE docs RENAME body TO old; ALTER TABLE docs RENAME title TO body;
    ALTER TABLE docs RENAME old TO title; COMMIT`);
  await db.sql('UPDATE docs SET n = 2');
  const messages = await millrace.atLeast(2, 'filled');
  expect(messages.map(({ record }) => [record.body, record.title])).toEqual([
    [big('body'), big('title')],
    [big('title'), big('body')],
  ]);
});

test('where it cannot be told which column had a name, none is filled in with the value of another', async () => {
  // In a table that has lost a column, places do not tell.
  await db.sql(`CREATE TABLE docs (id int PRIMARY KEY, gone int, n int, body text, title text);
    ALTER TABLE docs DROP gone, ALTER body SET STORAGE EXTERNAL, ALTER title SET STORAGE EXTERNAL`);
  await db.sql('INSERT INTO docs VALUES (1, 0, $1, $2)', [big('body'), big('title')]);
  millrace = await startMillrace(db, { sinks: [FILL] });
  await eventually('the index has read the table', () => millrace!.server.pipelines[0]!.rowIndex!.filled);
  await db.sql(`BEGIN; UPDATE docs SET n = 1; ALTER TABLE docs RENAME body TO old; ALTER TABLE docs RENAME title TO body;
    COMMIT`);
  await db.sql('UPDATE docs SET n = 2');
  const messages = await millrace.atLeast(2, 'filled');
  expect(messages.map(({ record }) => [record.body, record.title])).toEqual([
    [big('body'), big('title')],
    [undefined, undefined],
  ]);
  expect(messages[1]!.metadata['unchanged_columns']).toEqual(['old', 'body']);
});

test('columns of partitions that are published by themselves keep their values under other names', async () => {
  const external = (name: string) =>
    `ALTER TABLE ${name} ALTER body SET STORAGE EXTERNAL, ALTER title SET STORAGE EXTERNAL`;
  await db.sql(`CREATE TABLE docs (id int PRIMARY KEY, n int, title text, body text) PARTITION BY RANGE (id);
    CREATE TABLE first PARTITION OF docs FOR VALUES FROM (0) TO (10); ${external('first')};
    CREATE TABLE second (body text, title text, n int, id int PRIMARY KEY); ${external('second')};
    ALTER TABLE docs ATTACH PARTITION second FOR VALUES FROM (10) TO (20);
    CREATE PUBLICATION leaves FOR TABLE docs WITH (publish_via_partition_root = false)`);
  await db.sql('INSERT INTO docs SELECT id, 0, $1, $2 FROM (VALUES (1), (11)) AS ids (id)', [
    big('title'),
    big('body'),
  ]);
  millrace = await startMillrace(db, {
    publication: { name: 'leaves' },
    sinks: [FILL],
    database: { audit: { enabled: true } },
  });
  await eventually('the index has read the table', () => millrace!.server.pipelines[0]!.rowIndex!.filled);
  const verify = async () =>
    await millrace!.server.pipelines[0]!.verifier.index({ rowsPerSecond: 0, signal: AbortSignal.timeout(20_000) });
  await db.sql('UPDATE docs SET n = 1');
  await db.sql('ALTER TABLE docs RENAME title TO heading; ALTER TABLE docs RENAME body TO title');
  expect(await verify()).toMatchObject({ rowsCompared: 2, drift: 0 });
  await db.sql('UPDATE docs SET n = 2');
  const messages = await millrace.atLeast(4, 'filled');
  expect(messages.map(({ record }) => [record.heading, record.title, record.body])).toEqual([
    ...[1, 11].map(() => [undefined, big('title'), big('body')]),
    ...[1, 11].map(() => [big('title'), big('body'), undefined]),
  ]);
  expect(await verify()).toMatchObject({ rowsCompared: 2, drift: 0 });
});

/** Postgres decides what lies out of line; short texts of dense types, and rows that it shrinks far, are the hard part. */
test(`whatever Postgres leaves out is filled in, of every type and in rows of any length (seed ${seed})`, async () => {
  const random = seededRandom(seed);
  await db.sql(`CREATE TYPE pair AS (a bigint, b name);
    CREATE TABLE t (id int PRIMARY KEY, n int, te text, nu numeric, jb jsonb, ia bigint[], na name[], by bytea, pa pair, ra int8multirange,
      a1 name, a2 name, a3 name, a4 name, a5 name, a6 name) WITH (toast_tuple_target = 128);
    ALTER TABLE t ALTER te SET STORAGE EXTERNAL, ALTER jb SET STORAGE EXTERNAL, ALTER ia SET STORAGE EXTERNAL, ALTER na SET STORAGE EXTERNAL,
      ALTER by SET STORAGE EXTERNAL, ALTER nu SET STORAGE EXTERNAL, ALTER pa SET STORAGE EXTERNAL`);
  millrace = await startMillrace(db, { sinks: [FILL] });
  await eventually('the index is filled', () => millrace!.server.pipelines[0]!.rowIndex!.filled);
  const size = () => random.pick([0, 1, 3, 9, 30, 90, 300]);
  const values: Record<string, () => string> = {
    te: () => `repeat('t', ${size() * 10})`,
    nu: () => `(repeat('7', ${size() * 5 + 1}))::numeric`,
    jb: () => `(SELECT jsonb_agg(i % 10) FROM generate_series(0, ${size()}) i)`,
    ia: () => `(SELECT array_agg(i % 10) FROM generate_series(0, ${size()}) i)`,
    na: () => `(SELECT array_agg('x'::name) FROM generate_series(1, ${Math.min(40, size() + 1)}) i)`,
    by: () => `decode(repeat('ab', ${size() * 4}), 'hex')`,
    pa: () => `ROW(${random.integer(10)}, 'y')::pair`,
    ra: () => `(SELECT range_agg(int8range(i * 3, i * 3 + 1)) FROM generate_series(0, ${size()}) i)`,
    a1: () => `'${'z'.repeat(random.integer(3))}'`,
  };
  const names = Object.keys(values);
  let statements = 0;
  for (let id = 0; id < 12; id++) {
    await db.sql(
      `INSERT INTO t (id, n, ${names.join(', ')}) VALUES (${id}, 0, ${names.map((name) => values[name]!()).join(', ')})`,
    );
    statements++;
    for (let change = 0; change < 8; change++) {
      const set = names.filter(() => random.chance(0.25)).map((name) => `${name} = ${values[name]!()}`);
      await db.sql(`UPDATE t SET ${['n = n + 1', ...set].join(', ')} WHERE id = ${id}`);
      statements++;
    }
  }
  const messages = await millrace.atLeast(statements, 'filled');
  expect(messages.filter(({ metadata }) => 'unchanged_columns' in metadata)).toEqual([]);
  // Complete, and right: the source is asked by the one who trusts nothing but the stream.
  const last = new Map(messages.map(({ record }) => [record.id, record]));
  for (const row of await db.sql<Record<string, unknown>>(
    'SELECT id, n, te, nu::text AS nu, jb, ia::int[] AS ia FROM t',
  )) {
    expect(last.get(row.id)).toMatchObject(row);
  }
}, 60_000);

test('a key that lies out of line itself is known as well', async () => {
  await db.sql(`CREATE TABLE t (k text PRIMARY KEY, n int, body text);
    ALTER TABLE t ALTER k SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL`);
  millrace = await startMillrace(db, { sinks: [FILL], database: { audit: { enabled: true } } });
  await db.sql('INSERT INTO t VALUES ($1, 0, $2)', [big('k', 2400), big('b')]);
  await db.sql('UPDATE t SET n = 1');
  const messages = await millrace.atLeast(2, 'filled');
  expect(messages.map(({ record }) => record)).toEqual([
    { k: big('k', 2400), n: 0, body: big('b') },
    { k: big('k', 2400), n: 1, body: big('b') },
  ]);
  const request = { rowsPerSecond: 0, signal: AbortSignal.timeout(20_000) };
  expect(await millrace.server.pipelines[0]!.verifier.index(request)).toMatchObject({ rowsCompared: 1, drift: 0 });
});

test('a value that changed while no sink asked for its table is not filled in', async () => {
  await db.sql(`${TABLE}; CREATE TABLE other (id int PRIMARY KEY)`);
  const other = { ...FILL, name: 'other', source: { include_tables: ['other'] } };
  const asking = (name: string) => [{ ...FILL, name, source: { include_tables: ['docs'] } }, other];
  const reached = async () => await millrace!.server.pipelines[0]!.rowIndex!.reach(0n, AbortSignal.timeout(20_000));
  millrace = await startMillrace(db, { sinks: asking('first') });
  const { dataDir } = millrace;
  await db.sql('INSERT INTO docs (id, n, body) VALUES (1, 0, $1)', [big('a1')]);
  await millrace.atLeast(1, 'first');
  await reached();
  await millrace.stop();
  millrace = await startMillrace(db, { dataDir, sinks: [other] });
  await db.sql('DELETE FROM docs');
  await db.sql('INSERT INTO docs (id, n, body) VALUES (1, 0, $1)', [big('b2')]);
  await db.sql('INSERT INTO other VALUES (1)');
  await millrace.atLeast(1, 'other');
  await reached();
  await millrace.stop();
  millrace = await startMillrace(db, { dataDir, sinks: asking('second') });
  await eventually('the index is filled', () => millrace!.server.pipelines[0]!.rowIndex!.filled);
  await db.sql('UPDATE docs SET n = 1');
  expect(bodies(await millrace.atLeast(1, 'second'))).toEqual(['b2']);
});

test('a value from before a table had no key for a while is not filled in', async () => {
  await db.sql(TABLE);
  millrace = await startMillrace(db, { sinks: [FILL] });
  await db.sql('INSERT INTO docs (id, n, body) VALUES (1, 0, $1)', [big('a1')]);
  await db.sql('ALTER TABLE docs DROP CONSTRAINT docs_pkey; TRUNCATE docs');
  await db.sql('INSERT INTO docs (id, n, body) VALUES (1, 0, $1)', [big('b2')]);
  await db.sql('ALTER TABLE docs ADD PRIMARY KEY (id)');
  await db.sql('UPDATE docs SET n = 1');
  const [first, second, third] = bodies(await millrace.atLeast(3, 'filled'));
  expect([first, second]).toEqual(['a1', 'b2']);
  // Left out where the index has read the table anew only after it.
  expect(['b2', undefined]).toContain(third);
});

test('a partition whose replica identity is not that of its root costs its table alone the values', async () => {
  await db.sql(`${TABLE}; CREATE TABLE parted (id int, n int NOT NULL, body text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (9); CREATE UNIQUE INDEX part_n ON part (n);
    ALTER TABLE part ALTER body SET STORAGE EXTERNAL; ALTER TABLE part REPLICA IDENTITY USING INDEX part_n`);
  await db.sql('INSERT INTO docs (id, n, body) VALUES (1, 0, $1)', [big('a1')]);
  await db.sql('INSERT INTO parted VALUES (1, 1, $1), (2, 2, $1)', [big('p1')]);
  millrace = await startMillrace(db, { sinks: [FILL] });
  const index = () => millrace!.server.pipelines[0]!.rowIndex!;
  await eventually('the index has read the tables', () => index().filled);
  await db.sql('DELETE FROM parted WHERE id = 2');
  await db.sql('UPDATE docs SET body = $1', [big('b2')]);
  await db.sql('UPDATE docs SET n = 1');
  expect(bodies(await millrace.atLeast(3, 'filled'))).toEqual([undefined, 'b2', 'b2']);
  await db.sql('UPDATE parted SET n = 5');
  await db.sql('UPDATE docs SET n = 2');
  const messages = await millrace.atLeast(5, 'filled');
  expect(messages[3]!.metadata['unchanged_columns']).toEqual(['body']);
  expect(bodies(messages)[4]).toBe('b2');
  expect(index().keyless).toEqual(['public.parted']);
  expect(millrace.lines.join()).toContain('public.parted is left out');
  expect(index().delivery.state.kind).toBe('running');
});

test('a table that is dropped before its first fill is not waited for', async () => {
  await db.sql(`${TABLE}; CREATE TABLE gone (id int PRIMARY KEY)`);
  const { publishedTables } = BackfillSource.prototype;
  const listing = vi.spyOn(BackfillSource.prototype, 'publishedTables').mockImplementation(async function (
    this: BackfillSource,
    signal,
  ) {
    listing.mockRestore();
    await db.sql('DROP TABLE gone');
    return await publishedTables.call(this, signal);
  });
  millrace = await startMillrace(db, { sinks: [FILL] });
  await db.sql('INSERT INTO docs (id, n, body) VALUES (1, 0, $1)', [big('a1')]);
  await db.sql('UPDATE docs SET n = 1');
  expect(bodies(await millrace.atLeast(2, 'filled'))).toEqual(['a1', 'a1']);
});

test('what a table had is filled in also where the index has forgotten another one of its name', async () => {
  await db.sql(TABLE);
  await db.sql('INSERT INTO docs VALUES (1, 0, $1)', [big('old')]);
  millrace = await startMillrace(db, { sinks: [FILL] });
  const { rowIndex, schemas } = millrace.server.pipelines[0]!;
  await eventually('the index has read the table', () => rowIndex!.filled);
  await db.sql('UPDATE docs SET n = 1');
  await millrace.atLeast(1, 'filled');
  const oids = rowIndex!.oids();
  expect(oids).toHaveLength(1);
  await db.sql('DROP TABLE docs');
  await rowIndex!.forget(oids);
  await schemas.forget(oids[0]!);
  expect(rowIndex!.table('public', 'docs')).toBeNull();
  // No change tells of its row.
  await db.sql(TABLE.replace('TABLE', 'UNLOGGED TABLE'));
  await db.sql('INSERT INTO docs VALUES (1, 0, $1)', [big('new')]);
  await db.sql('ALTER TABLE docs SET LOGGED');
  await db.sql('UPDATE docs SET n = 2');
  const messages = await millrace.atLeast(2, 'filled');
  expect(bodies(messages)).toEqual(['ol', 'ne']);
});

test('a table that became a partition, and is one no more, has the values of its rows, not those from before', async () => {
  await db.sql(TABLE);
  await db.sql(`CREATE TABLE parted (LIKE docs INCLUDING STORAGE, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE PUBLICATION millrace FOR ALL TABLES`);
  await db.sql('INSERT INTO docs VALUES (1, 0, $1), (2, 0, $1)', [big('a1')]);
  millrace = await startMillrace(db, { sinks: [FILL], publication: { create_if_not_exists: false } });
  const index = () => millrace!.server.pipelines[0]!.rowIndex!;
  await eventually('the index has read the tables', () => index().filled);
  await db.sql('UPDATE docs SET n = 1 WHERE id = 1');
  await millrace.atLeast(1, 'filled');
  await db.sql('ALTER TABLE parted ATTACH PARTITION docs FOR VALUES FROM (0) TO (9)');
  await db.sql('UPDATE docs SET body = $1 WHERE id = 1', [big('b2')]);
  await db.sql('UPDATE docs SET n = 2 WHERE id = 1');
  await millrace.atLeast(3, 'filled');
  await db.sql('ALTER TABLE parted DETACH PARTITION docs');
  await db.sql('UPDATE docs SET n = 3 WHERE id = 1');
  const messages = await millrace.atLeast(4, 'filled');
  expect(bodies(messages)).toEqual(['a1', 'b2', 'b2', 'b2']);
  expect(messages.map(({ metadata }) => metadata.table_name)).toEqual(['docs', 'parted', 'parted', 'docs']);
});
