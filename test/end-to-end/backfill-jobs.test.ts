import { quoteIdentifier } from '@millrace/postgres/connection';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { chosenMajor } from '@millrace/testkit/postgres-majors';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { managerOf, settled } from './backfills.ts';
import { eventually, type Message, type Millrace, startMillrace } from './millrace.ts';

let db: TestDatabase;
let millrace: Millrace | undefined;
let token = '';
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await db.drop();
});

async function start(options: Parameters<typeof startMillrace>[1] = {}): Promise<Millrace> {
  millrace = await startMillrace(db, options);
  token = millrace.server.firstRootToken ?? token;
  return millrace;
}

async function ask(method: string, path: string, body?: unknown) {
  const answer = await fetch(`${millrace!.server.url}/api/sinks/${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body !== undefined && { 'content-type': 'application/json' }) },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  // biome-ignore lint/suspicious/noExplicitAny: the shape is what the test is about.
  return { status: answer.status, body: (await answer.json()) as any };
}

const reads = (messages: readonly Message[], table = 't') =>
  messages.filter(({ action, metadata }) => action === 'read' && metadata.table_name === table);
const ids = (messages: readonly Message[], table = 't') =>
  reads(messages, table)
    .map(({ record }) => record['id'])
    .sort((a, b) => Number(a) - Number(b));
const numbers = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

describe('the routes of Sequin', () => {
  test('start, list, show and end a backfill, and say what is wrong by field', async () => {
    await db.sql(
      `CREATE TABLE t (id bigint PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 50) i`,
    );
    await start();
    expect(await ask('GET', 'nobody/backfills')).toMatchObject({ status: 404, body: { summary: expect.any(String) } });
    expect(await ask('GET', 'sink/backfills')).toEqual({ status: 200, body: { data: [] } });
    expect(await ask('GET', 'sink/backfills/none')).toMatchObject({ status: 404 });
    const started = await ask('POST', 'sink/backfills', { table: 't', state: 'paused' });
    expect(started).toMatchObject({
      status: 201,
      body: {
        id: expect.any(String),
        sink_consumer: 'sink',
        state: 'paused',
        table: 'public.t',
        sort_column: null,
        rows_initial_count: 50,
        rows_processed_count: 0,
        rows_ingested_count: 0,
        completed_at: null,
        canceled_at: null,
        inserted_at: expect.any(String),
        updated_at: expect.any(String),
      },
    });
    const { id } = started.body;
    expect(await ask('POST', 'sink/backfills', { table: 't' })).toMatchObject({
      status: 422,
      body: { validation_errors: { table: [expect.stringContaining('cancel that one first')] } },
    });
    const wrong = [
      [{ table: 'nothing' }, 'table'],
      [{}, 'table'],
      [{ table: 't', bogus: 1 }, 'bogus'],
      [{ table: 't', state: 'completed' }, 'state'],
      [{ table: 't', start_position: 3 }, 'start_position'],
      [{ table: 't', sort_column: 'x' }, 'sort_column'],
      [{ table: 't', sort_column: 'id', start_position: 'three' }, 'start_position'],
      [{ table: 't', where: 'true); DROP TABLE t; --' }, 'where'],
      [{ table: 't', where: 'true -- \r); COMMIT; DROP TABLE t; SELECT (1' }, 'where'],
      [{ table: 't', where: `v = E'v'\n'\\' OR '); COMMIT; DROP TABLE t; SELECT (1 --'` }, 'where'],
      [{ table: 't', where: 'no_column > 3' }, 'where'],
      [{ table: 't', keys: [['1', '2']] }, 'keys'],
      [{ table: 't', keys: ['one'] }, 'keys'],
      // It would be another row's: as JSON it has the digits of the number before it.
      [{ table: 't', keys: [2 ** 53 + 2] }, 'keys.0'],
      [{ table: 't', sort_column: 'id', start_position: -(2 ** 53) }, 'start_position'],
    ] as const;
    for (const [body, field] of wrong) {
      const answer = await ask('POST', 'sink/backfills', body);
      expect(answer, JSON.stringify(body)).toMatchObject({
        status: 422,
        body: { validation_errors: { [field]: expect.any(Array) } },
      });
    }
    expect(await db.sql('SELECT count(*)::int AS n FROM t')).toEqual([{ n: 50 }]);
    expect(await ask('PATCH', `sink/backfills/${id}`, { state: 'completed' })).toMatchObject({ status: 422 });
    expect(await ask('PATCH', `sink/backfills/${id}`, { state: 'active' })).toMatchObject({
      status: 200,
      body: { state: 'active' },
    });
    await settled(millrace!);
    expect(await ask('GET', `sink/backfills/${id}`)).toMatchObject({
      body: {
        state: 'completed',
        rows_processed_count: 50,
        rows_ingested_count: 50,
        completed_at: expect.any(String),
        error: null,
      },
    });
    expect(await ask('PATCH', `sink/backfills/${id}`, { state: 'cancelled' })).toMatchObject({ status: 422 });
    expect(ids(await millrace!.messages())).toEqual(numbers(1, 50));
    const second = await ask('POST', 'sink/backfills', { table: 'public.t', state: 'paused' });
    expect(await ask('PUT', `sink/backfills/${second.body.id}`, { state: 'cancelled' })).toMatchObject({
      body: { state: 'cancelled', canceled_at: expect.any(String) },
    });
    expect((await ask('GET', 'sink/backfills')).body.data.map(({ state }: { state: string }) => state)).toEqual([
      'cancelled',
      'completed',
    ]);
    expect(await ask('DELETE', `sink/backfills/${second.body.id}`)).toEqual({
      status: 200,
      body: { id: second.body.id, deleted: true },
    });
    expect(await ask('DELETE', `sink/backfills/${second.body.id}`)).toMatchObject({ status: 404 });
  });

  test('a sink that names one table needs no table in the request, and several tables are one request', async () => {
    await db.sql(
      `CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (2)`,
    );
    await start({ sinks: [{ name: 'one', source: { include_tables: ['t'] } }, { name: 'all' }] });
    expect(await ask('POST', 'one/backfills', {})).toMatchObject({ status: 201, body: { table: 'public.t' } });
    expect(await ask('POST', 'one/backfills', { table: 'u' })).toMatchObject({ status: 422 });
    const both = await ask('POST', 'all/backfills', { tables: ['t', 'public.u'] });
    expect(both.body.data).toHaveLength(2);
    await settled(millrace!, 'all');
    expect([...ids(await millrace!.messages('all')), ...ids(await millrace!.messages('all'), 'u')]).toEqual([1, 2]);
  });
});

describe('which rows', () => {
  beforeEach(async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY, at int, v text);
      INSERT INTO t SELECT i, CASE WHEN i % 10 = 0 THEN NULL ELSE 1000 - i / 3 END, 'v' || i FROM generate_series(1, 3000) i`);
  });
  const all = async (range: object) => {
    await start();
    const answer = await ask('POST', 'sink/backfills', { table: 't', ...range });
    expect(answer.status).toBe(201);
    await settled(millrace!);
    const [job] = managerOf(millrace!).list();
    expect(job).toMatchObject({ state: 'completed', error: null });
    const messages = reads(await millrace!.messages());
    expect(job!.rowsInitial).toBe(messages.length);
    return messages;
  };

  test('from a position of a sort column to another, ties and all, and none that is NULL', async () => {
    const messages = await all({ sort_column: 'at', start_position: 400, end_position: 700 });
    const expected = await db.sql('SELECT id FROM t WHERE at BETWEEN 400 AND 700 ORDER BY at, id');
    expect(messages.map(({ record }) => record['id'])).toEqual(expected.map(({ id }) => id));
  });

  test('in the order of a sort column without a start: those that are NULL come last', async () => {
    const messages = await all({ sort_column: 'at' });
    const expected = await db.sql('SELECT id FROM t ORDER BY at, id');
    expect(messages.map(({ record }) => record['id'])).toEqual(expected.map(({ id }) => id));
  });

  test('a condition, with a comment at its end', async () => {
    const messages = await all({ where: `v LIKE '%7' -- sevens` });
    expect(ids(messages)).toEqual(numbers(1, 3000).filter((id) => id % 10 === 7));
  });

  test('a list of keys, of which some are not there', async () => {
    expect(ids(await all({ keys: [5, '17', 2999, 99999, 5] }))).toEqual([5, 17, 2999]);
  });

  test('an initial backfill of a part, once', async () => {
    const list = [{ table: 't', type: 'partial', sort_column: 'id', start_position: 2990 }];
    await start({ sinks: [{ initial_backfill: list }] });
    await settled(millrace!);
    expect(ids(await millrace!.messages())).toEqual(numbers(2990, 3000));
    const { dataDir } = millrace!;
    await millrace!.stop();
    await start({ dataDir, sinks: [{ initial_backfill: list }] });
    await db.sql(`INSERT INTO t VALUES (0, 0, 'end')`);
    expect((await millrace!.atLeast(12)).at(-1)).toMatchObject({ action: 'insert', record: { id: 0 } });
    expect(managerOf(millrace!).list()).toMatchObject([{ kind: 'initial', state: 'completed' }]);
  });
});

test('all tables of an initial backfill are listed before one is looked at; one that cannot be read fails alone', async () => {
  const names = ['a', 'b', 'c', 'd', 'e', 'f'];
  for (const name of names)
    await db.sql(`CREATE TABLE ${name} (id int PRIMARY KEY, at json); INSERT INTO ${name} VALUES (1, '1')`);
  const unsortable = { type: 'partial', sort_column: 'at', start_position: 1 };
  const list = names.map((table) => ({ table, ...(table === 'c' && unsortable) }));
  await start({ sinks: [{ initial_backfill: list }] });
  await settled(millrace!);
  const lines = millrace!.lines.filter((line) => line.includes('backfill of'));
  expect(lines.slice(0, 6)).toEqual(names.map((name) => `sink: backfill of public.${name} begins`));
  const manager = managerOf(millrace!);
  const job = () => manager.list().find(({ table }) => table.name === 'c')!;
  expect(job()).toMatchObject({ state: 'failed', error: { message: expect.stringContaining('has no order') } });
  expect(manager.list().filter(({ state }) => state === 'completed')).toHaveLength(5);
  // What failed is looked at again.
  await db.sql(`ALTER TABLE c ALTER at TYPE int USING 1`);
  await manager.resume(job().id);
  await settled(millrace!);
  expect(job()).toMatchObject({ state: 'completed', order: 'sort', error: null, rowsIngested: 1 });
});

describe('a running backfill', () => {
  const wide = `CREATE TABLE t (id int PRIMARY KEY, pad text); INSERT INTO t SELECT i, repeat('p', 500) FROM generate_series(1, 20000) i`;

  test('pauses, goes on where it was also after a restart, and is cancelled', async () => {
    await db.sql(wide);
    const sinks = [{ name: 'sink' }];
    const database = { backfill: { rows_per_second: 5000 } };
    await start({ sinks, database });
    const { body } = await ask('POST', 'sink/backfills', { table: 't' });
    await millrace!.atLeast(100);
    expect(await ask('PATCH', `sink/backfills/${body.id}`, { state: 'paused' })).toMatchObject({
      body: { state: 'paused' },
    });
    const held = (await millrace!.messages()).length;
    expect(held).toBeLessThan(20_000);
    const { dataDir } = millrace!;
    await millrace!.stop();
    await start({ dataDir, sinks });
    expect(managerOf(millrace!).get(body.id)).toMatchObject({ state: 'paused' });
    await db.sql('DELETE FROM t WHERE id = 20000');
    await millrace!.atLeast(held + 1);
    expect(reads(await millrace!.messages())).toHaveLength(held);
    await ask('PATCH', `sink/backfills/${body.id}`, { state: 'active' });
    await settled(millrace!);
    expect(ids(await millrace!.messages())).toEqual(numbers(1, 19_999));
    expect(managerOf(millrace!).get(body.id)).toMatchObject({ rowsProcessed: 19_999, rowsIngested: 19_999 });
    const second = await ask('POST', 'sink/backfills', { table: 't' });
    await ask('PATCH', `sink/backfills/${second.body.id}`, { state: 'cancelled' });
    expect(managerOf(millrace!).get(second.body.id)).toMatchObject({ state: 'cancelled' });
  }, 60_000);

  test('reads no faster than it may', async () => {
    await db.sql(wide);
    await start({ database: { backfill: { rows_per_second: 10_000, connections: 4 } } });
    const began = performance.now();
    await ask('POST', 'sink/backfills', { table: 't' });
    await settled(millrace!);
    expect(ids(await millrace!.messages())).toHaveLength(20_000);
    expect(performance.now() - began).toBeGreaterThan(1_000);
  });

  test('of a table that is dropped has failed; the sink goes on', async () => {
    await db.sql(`${wide}; CREATE TABLE other (id int PRIMARY KEY)`);
    await start({ database: { backfill: { rows_per_second: 2000 } } });
    const { body } = await ask('POST', 'sink/backfills', { table: 't' });
    await millrace!.atLeast(1);
    await db.sql('DROP TABLE t');
    await settled(millrace!);
    expect(managerOf(millrace!).get(body.id)).toMatchObject({ state: 'failed', error: { code: 'pg_table_missing' } });
    await db.sql('INSERT INTO other VALUES (1)');
    await eventually('a change arrives', async () => (await millrace!.messages()).at(-1)?.action === 'insert');
  }, 60_000);

  test('of a table that is renamed, altered and written anew goes on with the table as it is', async () => {
    await db.sql(wide);
    await start({ database: { backfill: { rows_per_second: 8000 } } });
    await ask('POST', 'sink/backfills', { table: 't' });
    await millrace!.atLeast(1);
    await db.sql(`ALTER TABLE t RENAME TO moved`);
    await db.sql(`ALTER TABLE moved ADD COLUMN more int DEFAULT 7`);
    await db.sql(`ALTER TABLE moved ALTER COLUMN id TYPE bigint`);
    await settled(millrace!);
    expect(managerOf(millrace!).list()).toMatchObject([{ state: 'completed' }]);
    const messages = (await millrace!.messages()).filter(({ action }) => action === 'read');
    expect(new Set(messages.map(({ record }) => record['id'])).size).toBe(20_000);
    const after = messages.filter(({ metadata }) => metadata.table_name === 'moved');
    expect(after.length).toBeGreaterThan(0);
    expect(after.at(-1)!.record).toMatchObject({ more: 7 });
  }, 60_000);

  test('a table that cannot be read into the row index is told in health, and tried again at the next start', async () => {
    const role = `reader_${db.name}`;
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'secret';
      GRANT SELECT ON t TO ${role}; ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE PUBLICATION millrace FOR TABLE t`);
    const url = new URL(db.url);
    url.username = role;
    url.password = 'secret';
    const as = { ...db, url: url.href };
    const options = { publication: { create_if_not_exists: false }, sinks: [{ fill_unchanged: true }] };
    const findings = () =>
      millrace!.server.databases[0]!.monitor.report().health.checks.flatMap(({ slug, findings: of }) =>
        slug === 'row_index' ? of : [],
      );
    const index = () => millrace!.server.pipelines[0]!.rowIndex!;
    try {
      millrace = await startMillrace(as, options);
      await eventually('it is told', () => findings().length > 0);
      expect(findings()).toMatchObject([{ slug: 'row_index_not_filled', severity: 'error', code: 'pg_privilege' }]);
      expect(index().complete('public', 't')).toBe(false);
      await db.sql(`ALTER ROLE ${role} BYPASSRLS`);
      await millrace.stop();
      millrace = await startMillrace(as, { ...options, dataDir: millrace.dataDir });
      await eventually('it is complete', () => index().complete('public', 't'));
      expect(findings()).toEqual([]);
      await millrace.remove();
      millrace = undefined;
    } finally {
      await db.sql(`DROP PUBLICATION millrace; DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  }, 60_000);

  test('of a table whose rows a policy hides is refused, not silently short', async () => {
    await db.sql(wide);
    const role = `reader_${db.name}`;
    await db.sql(`CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'secret'; GRANT SELECT ON t TO ${role};
      GRANT CREATE ON DATABASE ${db.name} TO ${role}; CREATE PUBLICATION millrace FOR ALL TABLES;
      ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON t TO ${role} USING (id < 10)`);
    try {
      const url = new URL(db.url);
      url.username = role;
      url.password = 'secret';
      const as = { ...db, url: url.href };
      millrace = await startMillrace(as, { sinks: [{ initial_backfill: true }] });
      await eventually('it has failed', () => managerOf(millrace!).list()[0]?.state === 'failed');
      expect(managerOf(millrace).list()[0]!.error).toMatchObject({
        code: 'pg_privilege',
        hint: expect.stringContaining('BYPASSRLS'),
      });
      await db.sql(`ALTER ROLE ${role} BYPASSRLS`);
      await managerOf(millrace).resume(managerOf(millrace).list()[0]!.id);
      await settled(millrace);
      expect(ids(await millrace.messages())).toHaveLength(20_000);
      await millrace.remove();
      millrace = undefined;
    } finally {
      await db.sql(`DROP PUBLICATION millrace; DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  }, 60_000);
});

describe('what the publication says', () => {
  // Publications have both from Postgres 15 on.
  test.skipIf(chosenMajor() < 15)(
    'row filters, column lists and generated columns hold for the rows that are read',
    async () => {
      await db.sql(`CREATE TABLE t (id int PRIMARY KEY, secret text, kept text, twice int GENERATED ALWAYS AS (id * 2) STORED);
      INSERT INTO t SELECT i, 'secret', 'kept' FROM generate_series(1, 100) i;
      CREATE PUBLICATION millrace FOR TABLE t (id, kept) WHERE (id > 90)`);
      for (const order of ['physical', 'key'] as const) {
        await start();
        await managerOf(millrace!).create([{ table: { schema: 'public', name: 't' }, order }]);
        await settled(millrace!);
        const messages = await millrace!.messages();
        expect(ids(messages)).toEqual(numbers(91, 100));
        expect(messages[0]!.record).toEqual({ id: expect.any(Number), kept: 'kept' });
        await millrace!.remove();
      }
    },
  );

  test('partitions are read as what they are published as: by root, one by one, some of them', async () => {
    await db.sql(`CREATE TABLE t (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
      CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
      CREATE TABLE t2 (v text, part int NOT NULL, id int NOT NULL); ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2);
      CREATE TABLE t3 PARTITION OF t FOR VALUES IN (3);
      INSERT INTO t SELECT i, 1 + i % 3, 'v' FROM generate_series(1, 300) i`);
    const publications = [
      ['FOR TABLE t WITH (publish_via_partition_root = true)', numbers(1, 300)],
      ['FOR TABLE t', numbers(1, 300)],
      ['FOR TABLE t2', numbers(1, 300).filter((i) => i % 3 === 1)],
      ['FOR TABLE t1 WHERE (id > 150), t3', numbers(1, 300).filter((i) => (i % 3 === 0 ? i > 150 : i % 3 === 2))],
    ] as const;
    for (const [definition, expected] of publications) {
      if (chosenMajor() < 15 && definition.includes('WHERE')) continue;
      await db.sql(`CREATE PUBLICATION millrace ${definition}`);
      for (const order of ['physical', 'key'] as const) {
        await start();
        await managerOf(millrace!).create([{ table: { schema: 'public', name: 't' }, order }]);
        await settled(millrace!);
        expect(ids(await millrace!.messages()), `${definition} by ${order}`).toEqual(expected);
        await millrace!.remove();
      }
      await db.sql('DROP PUBLICATION millrace');
    }
  }, 60_000);

  test('children of an inherited table are read as tables of their own', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (t);
      INSERT INTO t VALUES (1); INSERT INTO child VALUES (2)`);
    await start({ sinks: [{ initial_backfill: true }] });
    await millrace!.atLeast(2);
    await settled(millrace!);
    const messages = await millrace!.messages();
    expect([ids(messages), ids(messages, 'child')]).toEqual([[1], [2]]);
  });
});

test('names that hold quotes, dollars or SQL are names and nothing else', async () => {
  const role = `m${db.name.slice(-6)}`;
  // The first has what a role that may only create tables would like to be run.
  const names = [
    `$'::pg_catalog.char::int);END;ALTER ROLE ${role} SUPERUSER;--`,
    'a$$b',
    'a$&b',
    "a$'b",
    'a$`b',
    `a"b'c.d\\e`,
    'é b',
  ];
  await db.sql(`CREATE ROLE ${role}; GRANT CREATE ON SCHEMA public TO ${role}`);
  try {
    for (const [i, name] of names.entries()) {
      const schema = quoteIdentifier(i === 0 ? 'public' : name);
      const table = `${schema}.${quoteIdentifier(name)}`;
      await db.sql(`CREATE SCHEMA IF NOT EXISTS ${schema}; GRANT CREATE, USAGE ON SCHEMA ${schema} TO ${role}; SET ROLE ${role};
        CREATE TABLE ${table} (id int PRIMARY KEY, "i""d.x$$" int); INSERT INTO ${table} VALUES (${i}, ${i}); RESET ROLE`);
    }
    await start({ sinks: [{ initial_backfill: true }] });
    await eventually(
      'all were read',
      () =>
        managerOf(millrace!)
          .list()
          .filter(({ state }) => state === 'completed').length === names.length,
    );
    const messages = await millrace!.messages();
    expect(messages.map(({ metadata }) => metadata.table_name).sort()).toEqual([...names].sort());
    expect(await db.sql(`SELECT rolsuper FROM pg_roles WHERE rolname = '${role}'`)).toEqual([{ rolsuper: false }]);
    await millrace!.remove();
    millrace = undefined;
  } finally {
    await db.sql(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  }
});

test('a search_path that is empty, or has an empty name, or odd ones, is no hindrance', async () => {
  const role = `reader_${db.name}`;
  await db.sql(`CREATE SCHEMA "a,"",b"; CREATE TYPE "a,"",b".mood AS ENUM ('sad', 'glad');
    CREATE TABLE t (id int, mood "a,"",b".mood, kind regtype, PRIMARY KEY (id, mood)); INSERT INTO t VALUES (1, 'sad', '"a,"",b".mood');
    CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'secret'; GRANT SELECT ON t TO ${role};
    GRANT USAGE ON SCHEMA "a,"",b" TO ${role}; CREATE PUBLICATION millrace FOR TABLE t`);
  const url = new URL(db.url);
  url.username = role;
  url.password = 'secret';
  const publication = { create_if_not_exists: false };
  try {
    for (const path of [`''`, `'', public`, `"a,"",b", ''`]) {
      await db.sql(`ALTER ROLE ${role} SET search_path = ${path}`);
      millrace = await startMillrace({ ...db, url: url.href }, { publication, sinks: [{ initial_backfill: true }] });
      await settled(millrace);
      expect(managerOf(millrace).list(), path).toMatchObject([{ state: 'completed', error: null }]);
      await db.sql(`INSERT INTO t VALUES (2, 'sad', '"a,"",b".mood')`);
      const [read, insert] = await millrace.atLeast(2);
      expect(insert!.record).toEqual({ ...read!.record, id: 2 });
      await millrace.remove();
      millrace = undefined;
      await db.sql(`DELETE FROM t WHERE id = 2; SELECT pg_drop_replication_slot('${db.name}')`);
    }
  } finally {
    await db.sql(`DROP PUBLICATION millrace; DROP OWNED BY ${role}; DROP ROLE ${role}`);
  }
}, 60_000);

test('a row that is read has the key of its changes, also where the primary key is deferrable, or an index has more columns than its key', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v text); CREATE TABLE u (v text, id int PRIMARY KEY DEFERRABLE);
    ALTER TABLE u REPLICA IDENTITY FULL; CREATE TABLE w (a int, b int, PRIMARY KEY (b) INCLUDE (a));
    CREATE TABLE x (a int, b int NOT NULL); CREATE UNIQUE INDEX x_b ON x (b) INCLUDE (a); ALTER TABLE x REPLICA IDENTITY USING INDEX x_b;
    INSERT INTO t VALUES (1); INSERT INTO u VALUES ('u', 1); INSERT INTO w VALUES (7, 1); INSERT INTO x VALUES (7, 1)`);
  await start({ sinks: [{ initial_backfill: true }] });
  await millrace!.atLeast(4);
  await db.sql(
    `INSERT INTO t VALUES (2); INSERT INTO u VALUES ('u', 2); INSERT INTO w VALUES (7, 2); INSERT INTO x VALUES (7, 2)`,
  );
  const keys = (await millrace!.atLeast(8)).map(
    ({ action, metadata }) => `${metadata.table_name} ${action} ${metadata.record_pks}`,
  );
  expect(keys.sort()).toEqual([
    ...['t insert ', 't read ', 'u insert 2', 'u read 1', 'w insert 2', 'w read 1', 'x insert 2', 'x read 1'],
  ]);
});

describe('where updates can be held back from the sink, rows that they move on disk are read all the same:', () => {
  const held = `({ action, changes }) => action !== 'update' || 'status' in changes`;
  const cases = [
    ['by a rule', { where: [{ changed: ['status'] }] }, '', []],
    ['by a rule of the table', { tables: [{ name: 't', where: [{ changed: ['status'] }] }] }, '', []],
    ['by a function', { filter: 'held' }, '', [{ name: 'held', type: 'filter', code: held }]],
    ['by the publication', {}, `WITH (publish = 'insert, delete')`, []],
  ] as const;
  for (const [name, sink, publication, functions] of cases) {
    for (const order of [undefined, 'physical'] as const) {
      test(`${name}, ${order === undefined ? 'in the order of the key' : 'by place on disk and then by key'}`, async () => {
        await db.sql(`CREATE TABLE t (id int PRIMARY KEY, status text, note text); ALTER TABLE t REPLICA IDENTITY FULL;
          INSERT INTO t SELECT i, 'new', repeat('x', 200) FROM generate_series(1, 3000) i; CREATE PUBLICATION millrace FOR TABLE t ${publication}`);
        await start({
          sinks: [sink],
          functions,
          database: { backfill: { rows_per_second: 1000, connections: 1 } },
        });
        const request = { table: { schema: 'public', name: 't' } };
        await managerOf(millrace!).create([order === undefined ? request : { ...request, order }]);
        await millrace!.atLeast(500);
        await db.sql(`UPDATE t SET note = repeat('y', 200) WHERE id > 2000`);
        await settled(millrace!);
        expect(managerOf(millrace!).list()).toMatchObject([{ state: 'completed', order: order ?? 'key' }]);
        expect([...new Set(ids(await millrace!.messages()))]).toEqual(numbers(1, 3000));
      });
    }
  }
});

describe('tables without a primary key', () => {
  test('are read whole, each row once, by their place on disk', async () => {
    await db.sql(`CREATE TABLE t (id int, v text); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t SELECT i % 1000, 'v' FROM generate_series(1, 5000) i;
      CREATE TABLE u (id int NOT NULL, v text); CREATE UNIQUE INDEX u_id ON u (id); ALTER TABLE u REPLICA IDENTITY USING INDEX u_id;
      INSERT INTO u SELECT i, 'v' FROM generate_series(1, 500) i`);
    await start({ sinks: [{ initial_backfill: true }] });
    await eventually(
      'both are complete',
      () =>
        managerOf(millrace!)
          .list()
          .filter(({ state }) => state === 'completed').length === 2,
    );
    const messages = await millrace!.messages();
    expect(reads(messages)).toHaveLength(5000);
    expect(new Set(reads(messages).map(({ metadata }) => metadata.idempotency_key)).size).toBe(5000);
    expect(ids(messages, 'u')).toEqual(numbers(1, 500));
    expect(reads(messages, 'u')[0]!.metadata.record_pks).toHaveLength(1);
  });

  test('go on after a restart in the middle, without a row twice', async () => {
    await db.sql(
      `CREATE TABLE t (id int, pad text); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t SELECT i, repeat('p', 300) FROM generate_series(1, 20000) i`,
    );
    const sinks = [{ initial_backfill: true }];
    await start({ sinks });
    const { dataDir } = millrace!;
    for (let stops = 0; stops < 3; stops++) {
      const held = (await millrace!.messages()).length;
      if (held >= 20_000) break;
      await millrace!.atLeast(held + 1);
      await millrace!.stop();
      await start({ dataDir, sinks });
    }
    await settled(millrace!);
    expect(ids(await millrace!.messages())).toEqual(numbers(1, 20_000));
  }, 60_000);
});

test('any kind of key is read in its order, whatever its type and collation', async () => {
  await db.sql(`CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE DOMAIN code AS char(4) CHECK (value <> ''); CREATE TYPE mood AS ENUM ('sad', 'ok', 'glad');
    CREATE TABLE k1 (k text COLLATE ci PRIMARY KEY); INSERT INTO k1 SELECT chr(97 + i % 26) || upper(md5(i::text)) FROM generate_series(1, 3000) i;
    CREATE TABLE k2 (k code, n numeric, PRIMARY KEY (n, k)); INSERT INTO k2 SELECT chr(65 + i % 26), (i - 1500) / 7.0 FROM generate_series(1, 3000) i;
    CREATE TABLE k3 (k float8 PRIMARY KEY); INSERT INTO k3 SELECT i * 0.1 FROM generate_series(-1500, 1500) i WHERE i <> 0;
    INSERT INTO k3 VALUES ('NaN'), ('infinity'), ('-infinity'), ('-0');
    CREATE TABLE k4 (k timestamptz PRIMARY KEY); INSERT INTO k4 SELECT now() + i * interval '1 s' FROM generate_series(1, 2000) i;
    INSERT INTO k4 VALUES ('infinity'), ('-infinity'), ('0044-03-15 BC');
    CREATE TABLE k5 (k bytea PRIMARY KEY); INSERT INTO k5 SELECT decode(md5(i::text), 'hex') FROM generate_series(1, 2000) i;
    CREATE TABLE k6 (k int[] PRIMARY KEY); INSERT INTO k6 SELECT ARRAY[i % 7, -i] FROM generate_series(1, 2000) i;
    CREATE TABLE k7 (k mood, m bit(3), PRIMARY KEY (m, k)); INSERT INTO k7 SELECT m, b::bit(3) FROM unnest(enum_range(NULL::mood)) m, generate_series(0, 7) b;
    CREATE TABLE k8 (k int8range PRIMARY KEY); INSERT INTO k8 SELECT int8range(i, i + 5) FROM generate_series(-900, 900) i;
    CREATE TABLE k9 ("or""der" uuid, " " varchar(9), PRIMARY KEY (" ", "or""der")); INSERT INTO k9 SELECT gen_random_uuid(), i % 9 || '''\\' FROM generate_series(1, 2000) i`);
  await start();
  const tables = numbers(1, 9).map((i) => `k${i}`);
  await managerOf(millrace!).create(
    tables.map((name) => ({ table: { schema: 'public', name }, order: 'key' as const })),
  );
  await settled(millrace!);
  expect(
    managerOf(millrace!)
      .list()
      .filter(({ state }) => state !== 'completed'),
  ).toEqual([]);
  const messages = await millrace!.messages();
  for (const table of tables) {
    const [{ n }] = (await db.sql(`SELECT count(*)::int AS n FROM ${table}`)) as [{ n: number }];
    const read = reads(messages, table);
    expect([table, read.length, new Set(read.map(({ record }) => JSON.stringify(record))).size]).toEqual([table, n, n]);
  }
}, 60_000);
