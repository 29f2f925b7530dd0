import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
import { AppendInput, AppendRecord, S2, S2Endpoints } from '@s2-dev/streamstore';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { run } from '../../packages/cli/test/cli-process.ts';
import { BASIN, eventually, type Millrace, type MillraceOptions, startMillrace } from './millrace.ts';

const seed = Number(process.env.MILLRACE_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));
const WHOLE = { initial_backfill: true, actions: ['insert', 'update', 'delete', 'truncate'] };
const AUDITED: MillraceOptions = {
  database: { audit: { enabled: true, rows_per_second: 1_000_000, pause_minutes: 0 } },
};

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

function pipeline() {
  return millrace!.server.pipelines[0]!;
}

async function complete(sink = 'sink'): Promise<void> {
  await eventually('the backfill is complete', () => {
    const jobs = pipeline().backfills.get(sink)!.list();
    return jobs.length > 0 && jobs.every(({ state }) => state === 'completed');
  });
}

function request(signal = AbortSignal.timeout(60_000)) {
  return { rowsPerSecond: 0, signal };
}

/** A record that a sink never wrote, among its own. */
async function forge(stream: string, change: (message: Record<string, unknown>) => unknown): Promise<void> {
  const { url, firstRootToken } = millrace!.server;
  const endpoints = new S2Endpoints({ account: url, basin: url });
  const s2 = new S2({ accessToken: firstRootToken!, endpoints });
  const target = s2.basin(BASIN).stream(stream);
  const { records } = await target.read({ start: { from: { seqNum: 0 } } });
  const { body, headers } = records[0]!;
  const record = AppendRecord.string({ body: JSON.stringify(change(JSON.parse(body))), headers: [...headers] });
  await target.append(AppendInput.create([record]));
}

test('a stream that lost, kept or changed a row is found out, and the keys are named to who asks', async () => {
  await db.sql(`CREATE TABLE t (a text COLLATE "C", id int, v jsonb, PRIMARY KEY (id, a));
    INSERT INTO t SELECT chr(97 + i % 5) || ' "x"', i, '{"n": 1.50}' FROM generate_series(1, 300) i;
    CREATE TABLE keyless (v int)`);
  millrace = await startMillrace(db, { sinks: [WHOLE] });
  await complete();
  await db.sql(`UPDATE t SET v = '[]' WHERE id < 50; DELETE FROM t WHERE id = 7`);
  const clean = await pipeline().verifier.sink('sink', request());
  expect(clean).toMatchObject({ rowsCompared: 299, drift: 0, undecided: 0 });
  expect(clean.tables.map(({ name, skipped, partial }) => [name, skipped, partial])).toEqual([
    ['keyless', 'it has no primary key', false],
    ['t', null, false],
  ]);
  const about = (pks: string[], record: unknown, action: string) => (message: Record<string, unknown>) => ({
    ...message,
    record,
    changes: null,
    action,
    metadata: { ...(message.metadata as object), record_pks: pks },
  });
  await forge('sink', about(['8', 'd "x"'], null, 'delete'));
  await forge('sink', about(['9', 'e "x"'], { a: 'e "x"', id: 9, v: { n: 1 } }, 'update'));
  await forge('sink', about(['7', 'c "x"'], { a: 'c "x"', id: 7, v: null }, 'insert'));
  const { tables, drift } = await pipeline().verifier.sink('sink', request());
  expect(drift).toBe(3);
  const report = tables.find(({ name }) => name === 't')!;
  expect(report).toMatchObject({ missing: 1, extra: 1, different: 1 });
  const env = { MILLRACE_ENDPOINT: millrace.server.url, S2_ACCESS_TOKEN: millrace.server.firstRootToken! };
  const quiet = await run(['verify', 'sink'], env);
  expect(quiet.code).toBe(1);
  expect(quiet.stdout).toMatch(
    /public\.keyless +not compared: it has no primary key\npublic\.t +\d+ rows {2}1 missing, 1 different, 1 no longer/,
  );
  expect(quiet.stdout).not.toMatch(/missing +\[/);
  const shown = await run(['verify', 'sink', '--show-keys'], env);
  expect(shown.stdout).toContain(`missing    ${JSON.stringify(['8', 'd "x"'])}`);
  const pinned = millrace.server.databases[0]!.monitor.notices.of({ sink: 'sink' });
  expect(pinned.filter(({ slug }) => slug === 'drift')).toMatchObject([{ severity: 'error' }]);
  expect(await run(['verify', 'nothing'], env)).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('verify_impossible'),
  });
  expect([...report.drifts].sort((a, b) => a.kind.localeCompare(b.kind))).toEqual([
    { kind: 'different', key: ['9', 'e "x"'] },
    { kind: 'extra', key: ['7', 'c "x"'] },
    { kind: 'missing', key: ['8', 'd "x"'] },
  ]);
});

test('of a stream without a backfill only the rows it tells of are compared, and it says so', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, i FROM generate_series(1, 100) i`);
  millrace = await startMillrace(db, { sinks: [{}] });
  await db.sql('UPDATE t SET v = -v WHERE id <= 10; DELETE FROM t WHERE id = 1');
  await millrace.atLeast(11);
  const { tables, drift } = await pipeline().verifier.sink('sink', request());
  expect(drift).toBe(0);
  expect(tables).toMatchObject([{ name: 't', partial: true, missing: 0 }]);
  await forge('sink', (message) => ({
    ...message,
    record: { id: 2, v: 77 },
    metadata: { ...(message.metadata as object), record_pks: ['2'] },
  }));
  expect((await pipeline().verifier.sink('sink', request())).tables).toMatchObject([
    { different: 1, extra: 0, missing: 0 },
  ]);
});

test('a paused sink is not verified, and neither is a table without an index', async () => {
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
  millrace = await startMillrace(db, { sinks: [{ status: 'paused' }] });
  await expect(pipeline().verifier.sink('sink', request())).rejects.toMatchObject({ code: 'verify_impossible' });
  await expect(pipeline().verifier.sink('other', request())).rejects.toMatchObject({ code: 'verify_impossible' });
  await expect(pipeline().verifier.index(request())).rejects.toMatchObject({ code: 'verify_impossible' });
});

test('the auditor finds what capture was not shown, says so, and that it is mended', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY);
    INSERT INTO t SELECT i, 'secret' FROM generate_series(1, 200) i; CREATE PUBLICATION millrace FOR TABLE t, u`);
  millrace = await startMillrace(db, { ...AUDITED, publication: { create_if_not_exists: false } });
  await eventually('a first pass is over', () => pipeline().auditor!.status.lastFullPassAt !== null);
  expect(pipeline().auditor!.status).toMatchObject({ drift: 0 });
  expect(pipeline().auditor!.status.rowsCompared).toBeGreaterThanOrEqual(200);
  await db.sql('ALTER PUBLICATION millrace DROP TABLE t');
  await db.sql(
    `UPDATE t SET v = 'changed' WHERE id = 5; DELETE FROM t WHERE id = 6; INSERT INTO t VALUES (999, 'new')`,
  );
  await db.sql('ALTER PUBLICATION millrace ADD TABLE t');
  const line = () => millrace!.lines.find((text) => text.includes('has drifted'));
  await eventually('the auditor has found it', () => line() !== undefined);
  expect(line()).toMatch(/1 are missing .* 1 were captured with other values, 1 were captured and are not/);
  expect(millrace.lines.join()).not.toMatch(/secret|changed|999/);
  expect(pipeline().auditor!.status.drift).toBe(3);
  expect(await (await fetch(`${millrace.server.url}/metrics`)).text()).toContain(
    'millrace_source_audit_drift_rows{database="shop"} 3',
  );
  const drift = () =>
    millrace!.server.databases[0]!.monitor.notices.of('database').filter(({ slug }) => slug === 'drift');
  expect(drift()).toMatchObject([{ slug: 'drift', severity: 'error', fix: 'millrace verify public.t --show-keys' }]);
  // Touched, the rows are captured as they are; the one that is gone has to come back and go.
  await db.sql(`UPDATE t SET v = v; INSERT INTO t VALUES (6, ''); DELETE FROM t WHERE id = 6`);
  await eventually('it agrees again', () =>
    millrace!.lines.some((text) => text.includes('agrees with the source again')),
  );
  expect(drift()).toEqual([]);
});

test('after a restart the auditor goes on where it was in a table', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 900)`);
  const slow = { database: { audit: { enabled: true, rows_per_second: 100, pause_minutes: 60 } } };
  millrace = await startMillrace(db, slow);
  const { dataDir } = millrace;
  const place = () => {
    const stored = millrace!.server.store.state.get('source/shop/audit');
    return stored === undefined ? null : JSON.parse(Buffer.from(stored).toString()).at?.place.after;
  };
  await eventually('a first chunk is compared', () => place() !== null && place() !== undefined);
  expect(place()).toEqual(['200']);
  await millrace.stop();
  millrace = await startMillrace(db, {
    dataDir,
    ...AUDITED,
    database: { audit: { enabled: true, rows_per_second: 1_000_000, pause_minutes: 60 } },
  });
  await eventually('the pass is over', () => pipeline().auditor!.status.lastFullPassAt !== null);
  expect(pipeline().auditor!.status).toMatchObject({ rowsCompared: 700, drift: 0 });
});

test(`no false alarm under load: large values, moved keys, truncates, DDL (seed ${seed})`, async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v int, big text, tags text[]); CREATE TABLE s (id text PRIMARY KEY, n numeric);
    ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
    INSERT INTO t SELECT i, 0, repeat('x', 3000), '{a,b}' FROM generate_series(1, 400) i;
    CREATE TABLE p (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
    INSERT INTO p SELECT i, 1 + i % 2, 'v' FROM generate_series(1, 200) i`);
  millrace = await startMillrace(db, {
    ...AUDITED,
    sinks: [WHOLE, { ...WHOLE, name: 'marked', unchanged_toast: 'marker' }],
  });
  await Promise.all([complete('sink'), complete('marked')]);
  const random = seededRandom(seed);
  let writing = true;
  let statements = 0;
  // Two writers meet: the same key, a column that is gone, a deadlock, a row that moved to another partition.
  const ignored = new Set(['23505', '42701', '42703', '40P01', '40001']);
  const write = async (sql: string) => {
    statements++;
    await new Promise((resolve) => setTimeout(resolve, 5));
    await db.sql(sql).catch((error: { code?: string }) => {
      if (!ignored.has(error.code ?? '')) throw error;
    });
  };
  const writer = async () => {
    while (writing) {
      const id = random.integer(500);
      const roll = random.integer(100);
      if (roll < 40) await write(`UPDATE t SET v = v + 1 WHERE id % 50 = ${id % 50}`);
      else if (roll < 50) await write(`UPDATE t SET big = repeat('${id % 10}', ${2500 + id}) WHERE id = ${id}`);
      else if (roll < 60) await write(`UPDATE t SET id = id + 500 WHERE id = ${id}`);
      else if (roll < 68) await write(`UPDATE t SET id = id - 500 WHERE id = ${id + 500}`);
      else if (roll < 74) await write(`DELETE FROM t WHERE id = ${id}`);
      else if (roll < 84)
        await write(`INSERT INTO t (id, v, big) VALUES (${id}, 0, repeat('n', 3000)) ON CONFLICT DO NOTHING`);
      else if (roll < 86) await write('TRUNCATE s');
      else if (roll < 92)
        await write(`INSERT INTO s VALUES ('k${id % 40}', ${id}.50) ON CONFLICT (id) DO UPDATE SET n = s.n + 1`);
      else await write(`UPDATE p SET k = 3 - k, v = 'w${id}' WHERE id = ${id % 200}`);
    }
  };
  const ddl = async () => {
    for (let i = 0; writing && i < 8; i++) {
      await new Promise((resolve) => setTimeout(resolve, 400));
      await write(`ALTER TABLE t ADD COLUMN c${i} int DEFAULT ${i}`);
      await write(`ALTER TABLE t RENAME c${i} TO d${i}`);
      await write(`ALTER TABLE t ALTER d${i} TYPE text`);
      await write(`ALTER TABLE s ALTER n TYPE numeric(${12 + i}, ${2 + (i % 3)})`);
      if (i % 2 === 0) await write(`ALTER TABLE t DROP COLUMN d${i}`);
    }
  };
  const load = Promise.all([writer(), writer(), ddl()]);
  try {
    for (const name of ['sink', 'marked', 'index']) {
      const report =
        name === 'index' ? await pipeline().verifier.index(request()) : await pipeline().verifier.sink(name, request());
      expect(report.tables.filter((table) => table.missing + table.extra + table.different > 0)).toEqual([]);
      expect(report.rowsCompared).toBeGreaterThan(200);
    }
  } finally {
    writing = false;
    await load;
  }
  expect(statements).toBeGreaterThan(20);
  expect(millrace.lines.filter((line) => line.includes('drifted'))).toEqual([]);
  const calm = await pipeline().verifier.sink('sink', request());
  expect(calm).toMatchObject({ drift: 0, undecided: 0 });
  expect(calm.tables.map(({ skipped }) => skipped)).toEqual([null, null, null]);
}, 60_000);

test('rows of a table that was without a key, or left out of the index, are read again', async () => {
  await db.sql(`CREATE TABLE keyless (id int NOT NULL); INSERT INTO keyless SELECT generate_series(1, 10);
    CREATE TABLE left_out (id int PRIMARY KEY); INSERT INTO left_out VALUES (1); CREATE TABLE t (id int PRIMARY KEY)`);
  const fills = { fill_unchanged: true, source: { include_tables: ['t'] } };
  const audited = { ...AUDITED, sinks: [fills] };
  millrace = await startMillrace(db, audited);
  const { dataDir } = millrace;
  await eventually('the index is filled', () => pipeline().rowIndex!.filled);
  await db.sql('ALTER TABLE keyless ADD PRIMARY KEY (id); INSERT INTO keyless VALUES (11)');
  await expect
    .poll(async () => (await pipeline().verifier.index(request())).tables.map((table) => [table.name, table.skipped]))
    .toEqual(['keyless', 'left_out', 't'].map((name) => [name, null]));
  expect(await pipeline().verifier.index(request())).toMatchObject({ drift: 0, rowsCompared: 12 });
  await millrace.stop();
  millrace = await startMillrace(db, { dataDir, sinks: [fills] });
  await db.sql('UPDATE left_out SET id = 2; INSERT INTO left_out VALUES (3); INSERT INTO t VALUES (1)');
  await millrace.atLeast(1);
  await pipeline().rowIndex!.reach(0n, request().signal);
  await millrace.stop();
  millrace = await startMillrace(db, { ...audited, dataDir });
  await eventually('the index is filled', () => pipeline().rowIndex!.filled);
  expect(await pipeline().verifier.index(request())).toMatchObject({ drift: 0, rowsCompared: 14 });
});

test('tables that exchanged their names, or took one over, are not compared with the rows of the other', async () => {
  await db.sql(`CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text);
    INSERT INTO a SELECT i, 'a' FROM generate_series(1, 10) AS i; INSERT INTO b SELECT i, 'b' FROM generate_series(6, 20) AS i`);
  millrace = await startMillrace(db, AUDITED);
  await eventually('the index is filled', () => pipeline().rowIndex!.filled);
  const compared = async () => {
    const { drift, tables } = await pipeline().verifier.index(request());
    return { drift, compared: tables.filter(({ skipped }) => skipped === null).map(({ name }) => name) };
  };
  await db.sql(`INSERT INTO a VALUES (30, 'a'); INSERT INTO b VALUES (30, 'b')`);
  expect(await compared()).toEqual({ drift: 0, compared: ['a', 'b'] });
  await db.sql('BEGIN; ALTER TABLE a RENAME TO c; ALTER TABLE b RENAME TO a; ALTER TABLE c RENAME TO b; COMMIT');
  expect(await compared()).toEqual({ drift: 0, compared: [] });
  await db.sql(`UPDATE a SET v = 'x' WHERE id = 10; UPDATE b SET v = 'x' WHERE id = 10`);
  await expect.poll(compared).toEqual({ drift: 0, compared: ['a', 'b'] });
  await db.sql(`ALTER TABLE a RENAME TO c; UPDATE c SET v = 'y' WHERE id = 10`);
  await expect.poll(compared).toEqual({ drift: 0, compared: ['b', 'c'] });
  await db.sql('ALTER TABLE c RENAME TO a');
  expect(await compared()).toEqual({ drift: 0, compared: ['b'] });
  await db.sql('DROP TABLE a; CREATE TABLE a (id int PRIMARY KEY, v text)');
  expect(await compared()).toEqual({ drift: 0, compared: ['b'] });
});

test('of a sink that takes no inserts only the rows it tells of are compared', async () => {
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0)');
  millrace = await startMillrace(db, { sinks: [{ ...WHOLE, actions: ['update', 'delete'] }] });
  await complete();
  await db.sql('INSERT INTO t VALUES (3, 0); UPDATE t SET v = 1 WHERE id = 2');
  await millrace.atLeast(3);
  expect(await pipeline().verifier.sink('sink', request())).toMatchObject({ drift: 0 });
});

test('an index whose file is damaged where only readers look is made anew', async () => {
  await db.sql('CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 5000)');
  millrace = await startMillrace(db, AUDITED);
  const { dataDir } = millrace;
  await eventually('a first pass is over', () => pipeline().auditor!.status.lastFullPassAt !== null);
  await millrace.stop();
  const rows = join(dataDir, 'rows');
  const file = join(rows, (await readdir(rows)).find((name) => name.endsWith('.db'))!);
  const written = new DatabaseSync(file);
  written.exec('PRAGMA wal_checkpoint = TRUNCATE');
  written.close();
  const { size } = await stat(file);
  const damaged = await open(file, 'r+');
  const from = Math.ceil(size / 2);
  await damaged.write(Buffer.alloc(size - from, 0xff), 0, size - from, from);
  await damaged.close();
  millrace = await startMillrace(db, { ...AUDITED, dataDir });
  await expect
    .poll(async () => await pipeline().verifier.index(request()).catch(String), { timeout: 20_000 })
    .toMatchObject({
      rowsCompared: 5000,
      drift: 0,
    });
});

test('tables that take over a name with rows of which no change tells are read, whatever became of the one before', async () => {
  await db.sql(`CREATE TABLE renamed (id int PRIMARY KEY, v text); CREATE TABLE dropped (id int PRIMARY KEY, v text);
    INSERT INTO renamed VALUES (1, 'a'), (2, 'a'); CREATE PUBLICATION millrace FOR TABLE renamed, dropped`);
  millrace = await startMillrace(db, { ...AUDITED, publication: { create_if_not_exists: false } });
  await eventually('the index is filled', () => pipeline().rowIndex!.filled);
  await db.sql(`ALTER TABLE renamed RENAME TO before; UPDATE before SET v = 'b' WHERE id = 1; DROP TABLE dropped`);
  for (const name of ['renamed', 'dropped']) {
    await db.sql(`CREATE TABLE ${name} (id int PRIMARY KEY, v text); INSERT INTO ${name} SELECT i, 'c' FROM generate_series(1, 9) i;
      ALTER PUBLICATION millrace ADD TABLE ${name}`);
    await db.sql(`UPDATE ${name} SET v = 'd' WHERE id = 5`);
  }
  const compared = async () => {
    const { drift, tables } = await pipeline().verifier.index(request());
    return { drift, tables: tables.map(({ name, skipped, rowsCompared }) => [name, skipped, rowsCompared]) };
  };
  await expect.poll(compared, { timeout: 20_000 }).toEqual({
    drift: 0,
    tables: [
      ['before', null, 2],
      ['dropped', null, 9],
      ['renamed', null, 9],
    ],
  });
});
