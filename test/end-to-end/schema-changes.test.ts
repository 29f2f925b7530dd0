/** What a sink with schema_changes is told of the shapes of its tables, and when. */
import { sinkKey } from '@millrace/core/sink-key';
import { cursorStore } from '@millrace/engine/deliver/cursor-store';
import { DDL_TRIGGER_REMOVAL_SQL, DDL_TRIGGER_SQL } from '@millrace/postgres/ddl-trigger';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Message, type Millrace, startMillrace } from './millrace.ts';

let db: TestDatabase;
let millrace: Millrace | undefined;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await db.drop();
});

const SINKS = [{ schema_changes: true }];
const seen = (messages: readonly Message[]) =>
  messages.map((m) => (m.action === 'schema' ? `v${m.record['version']}` : `${m.action} ${Object.keys(m.record)}`));

test("a table's shape comes before its first row, and what changed before the first row of another shape", async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, name varchar(20) NOT NULL, price numeric(10,2))`);
  millrace = await startMillrace(db, { sinks: SINKS });
  await db.sql(`INSERT INTO t VALUES (1, 'a', 1); INSERT INTO t VALUES (2, 'b', 2)`);
  const [first] = await millrace.atLeast(3);
  expect(first).toMatchObject({
    action: 'schema',
    changes: null,
    record: {
      version: 1,
      columns: [
        { name: 'id', type: 'integer', nullable: false },
        { name: 'name', type: 'character varying(20)', nullable: false },
        { name: 'price', type: 'numeric(10,2)', nullable: true },
      ],
      primary_key: ['id'],
      replica_identity: 'default',
    },
    metadata: { table_schema: 'public', table_name: 't', commit_idx: -1, record_pks: [] },
  });
  await db.sql(`ALTER TABLE t RENAME name TO title; ALTER TABLE t ADD at date; ALTER TABLE t ALTER price TYPE text`);
  await db.sql(`INSERT INTO t VALUES (3, 'c', 'x')`);
  await millrace.atLeast(5);
  await db.sql(`ALTER TABLE t DROP at; ALTER TABLE t ALTER title DROP NOT NULL; ALTER TABLE t REPLICA IDENTITY FULL`);
  await db.sql(`INSERT INTO t VALUES (4, 'c', 'x')`);
  const messages = await millrace.atLeast(7);
  expect(seen(messages)).toEqual([
    ...['v1', 'insert id,name,price', 'insert id,name,price', 'v2', 'insert id,title,price,at'],
    ...['v3', 'insert id,title,price'],
  ]);
  expect(messages[3]!.changes).toEqual({
    version: 1,
    added: [{ name: 'at', type: 'date', nullable: true }],
    renamed: [{ from: 'name', to: 'title' }],
    altered: [{ name: 'price', type: 'numeric(10,2)', nullable: true }],
  });
  expect(messages[5]!.changes).toEqual({
    version: 2,
    dropped: [{ name: 'at', type: 'date', nullable: true }],
    altered: [{ name: 'title', type: 'character varying(20)', nullable: false }],
    replica_identity: 'default',
  });
  const keys = messages.map((m) => m.metadata.idempotency_key);
  expect(new Set(keys).size).toBe(keys.length);
});

test('a restart neither loses a shape nor sends it again, and a new sink is told of its own', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
  millrace = await startMillrace(db, { sinks: SINKS });
  await db.sql(`INSERT INTO t VALUES (1)`);
  await millrace.atLeast(2);
  const { dataDir } = millrace;
  await millrace.stop();
  await db.sql(`INSERT INTO t VALUES (2)`);
  await db.sql(`ALTER TABLE t ADD v text; INSERT INTO t VALUES (3, 'x')`);
  millrace = await startMillrace(db, { dataDir, sinks: [...SINKS, { name: 'new', schema_changes: true }] });
  expect(seen(await millrace.atLeast(5, 'sink'))).toEqual(['v1', 'insert id', 'insert id', 'v2', 'insert id,v']);
  await millrace.atLeast(1, 'new');
  await db.sql(`INSERT INTO t VALUES (4, 'y')`);
  expect(seen(await millrace.atLeast(6, 'sink')).at(-1)).toBe('insert id,v');
});

test.each(['DEFAULT', 'FULL'])(
  'a key whose columns are renamed right after a row is that of the row, under %s',
  async (identity) => {
    await db.sql(
      `CREATE TABLE t (a int, b int, v text, PRIMARY KEY (b, a)); ALTER TABLE t REPLICA IDENTITY ${identity}`,
    );
    millrace = await startMillrace(db);
    // The catalog is asked about the first row when the transaction is over, and speaks of how the table is then.
    await db.sql(
      `BEGIN; INSERT INTO t VALUES (1, 2); ALTER TABLE t RENAME b TO c; INSERT INTO t VALUES (3, 4); COMMIT`,
    );
    await db.sql(`BEGIN; INSERT INTO t VALUES (5, 6); ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME c TO a;
    ALTER TABLE t RENAME x TO c; INSERT INTO t VALUES (7, 8); COMMIT`);
    const messages = await millrace.atLeast(4);
    expect(messages.map((m) => m.metadata.record_pks)).toEqual([
      ['2', '1'],
      ['4', '3'],
      ['6', '5'],
      ['8', '7'],
    ]);
  },
);

test('rows of the time when every sink was stopped are read by the shape of that time', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE gone (k text, id int PRIMARY KEY)`);
  const paused = [{ status: 'paused', schema_changes: true }];
  millrace = await startMillrace(db, { sinks: paused });
  await db.sql(`INSERT INTO t VALUES (1, '17'); INSERT INTO gone VALUES ('x', 1)`);
  // The catalog is asked while the shape is that of the rows, although nobody reads them.
  const state = () => [...millrace!.server.store.state.list('source/shop/schema/')].length;
  await expect.poll(state).toBe(2);
  await db.sql(`ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (v, id); ALTER TABLE t RENAME TO u;
    ALTER TABLE u ALTER v TYPE int USING v::int; INSERT INTO u VALUES (2, 18); DROP TABLE gone`);
  await expect.poll(state).toBe(3);
  const { dataDir } = millrace;
  await millrace.stop();
  millrace = await startMillrace(db, { dataDir, sinks: SINKS });
  const messages = (await millrace.atLeast(6)).filter((m) => m.action === 'insert');
  expect(messages.map((m) => [m.metadata.table_name, m.record, m.metadata.record_pks])).toEqual([
    ['t', { id: 1, v: '17' }, ['1']],
    ['gone', { k: 'x', id: 1 }, ['1']],
    ['u', { id: 2, v: 18 }, ['18', '2']],
  ]);
});

test.each([
  ['exchanged', 'RENAME a TO t; RENAME b TO a; RENAME t TO b', 'a, b'],
  ['renamed', 'RENAME a TO x', 'b, x'],
])(
  'the order of a key whose columns were %s is known where the table is dropped right after the row',
  async (_, alter, key) => {
    await db.sql('CREATE TABLE t (a int, b int, v text, PRIMARY KEY (b, a))');
    millrace = await startMillrace(db);
    await db.sql(`INSERT INTO t (b, a) VALUES (1, 2)`);
    await millrace.atLeast(1);
    const alters = alter.split('; ').map((one) => `ALTER TABLE t ${one}`);
    await db.sql(`BEGIN; ${alters.join('; ')}; INSERT INTO t (${key}) VALUES (3, 4); DROP TABLE t; COMMIT`);
    const messages = await millrace.atLeast(2);
    expect(messages.map((m) => m.metadata.record_pks)).toEqual([
      ['1', '2'],
      ['3', '4'],
    ]);
  },
);

test('a row is read by the types of its time, also where they are gone before it is read again', async () => {
  await db.sql(`CREATE DOMAIN amount AS int; CREATE TYPE mood AS ENUM ('low', 'high');
    CREATE TABLE t (id int PRIMARY KEY, v amount, m mood[])`);
  const sinks = [{ schema_changes: true, where: [{ column: 'v', operator: '>', value: 3 }] }];
  millrace = await startMillrace(db, { sinks });
  await db.sql(`INSERT INTO t VALUES (1, 5, '{low,high}')`);
  await millrace.atLeast(2);
  const { dataDir } = millrace;
  await millrace.stop();
  await db.sql(`INSERT INTO t VALUES (2, 6, '{high}');
    ALTER TABLE t ADD w int; INSERT INTO t VALUES (3, 7, '{low}', 1);
    ALTER TYPE mood RENAME TO mood_old; CREATE TYPE mood AS ENUM ('low', 'middle', 'high');
    ALTER TABLE t ALTER m TYPE mood[] USING m::text[]::mood[], ALTER v TYPE bigint; DROP TYPE mood_old; DROP DOMAIN amount;
    INSERT INTO t VALUES (4, 8, '{middle}', 2)`);
  millrace = await startMillrace(db, { dataDir, sinks });
  const messages = await millrace.atLeast(7);
  expect(messages.filter((m) => m.action === 'insert').map((m) => m.record)).toEqual([
    { id: 1, v: 5, m: ['low', 'high'] },
    { id: 2, v: 6, m: ['high'] },
    { id: 3, v: 7, m: ['low'], w: 1 },
    { id: 4, v: 8, m: ['middle'], w: 2 },
  ]);
});

test('a transaction so large that Postgres streams it before its end says the same, in the same places', async () => {
  await db.sql(
    `ALTER DATABASE "${db.name}" SET logical_decoding_work_mem = '64kB'; CREATE TABLE t (id int PRIMARY KEY, v text)`,
  );
  millrace = await startMillrace(db, {
    sinks: [{ schema_changes: true, logical_messages: true, actions: ['insert', 'truncate'] }],
  });
  const rows = (from: number) => `INSERT INTO t (id) SELECT generate_series(${from}, ${from + 1999})`;
  await db.sql(`BEGIN; ${rows(0)}; SAVEPOINT s; TRUNCATE t; ALTER TABLE t ADD w int; ${rows(9000)};
    SELECT pg_logical_emit_message(true, 'm', 'gone'); ROLLBACK TO s; ALTER TABLE t DROP v; ${rows(2000)};
    SELECT pg_logical_emit_message(true, 'm', 'kept'); TRUNCATE t; ${rows(4000)}; COMMIT`);
  const messages = await millrace.atLeast(6_004);
  const runs: string[] = [];
  for (const m of messages) {
    const run = m.action === 'insert' ? `insert ${Object.keys(m.record)}` : m.action;
    if (runs.at(-1) !== run) runs.push(run);
  }
  expect(runs).toEqual(['schema', 'insert id,v', 'schema', 'insert id', 'message', 'truncate', 'insert id']);
  const changes = messages.filter((m) => m.action !== 'schema');
  expect(changes.map((m) => m.metadata.commit_idx)).toEqual([...Array(6_002).keys()]);
  expect(changes.filter((m) => m.action === 'insert').map((m) => m.record['id'])).toEqual([...Array(6_000).keys()]);
});

test('DDL comes as messages where the event triggers are, in its place, and never fails', async () => {
  await db.sql(DDL_TRIGGER_SQL);
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY);
    CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)`);
  millrace = await startMillrace(db, {
    sinks: [...SINKS, { name: 'only-t', schema_changes: true, source: { include_tables: ['t'] } }, { name: 'none' }],
  });
  await db.sql(`BEGIN; INSERT INTO t VALUES (1); ALTER TABLE t ADD v text; INSERT INTO t VALUES (2, 'x'); COMMIT`);
  await db.sql(`CREATE INDEX other_id ON other (id)`);
  await db.sql(`CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)`);
  await db.sql(`ALTER TABLE t DROP v; DROP TABLE other; CREATE TEMP TABLE scratch (id int)`);
  await db.sql(`INSERT INTO t VALUES (3)`);
  const messages = await millrace.atLeast(11, 'sink');
  const ddl = (m: Message) => `${m.record['command_tag']} ${m.record['object_type']} ${m.record['identity']}`;
  const shown = (all: readonly Message[]) => all.map((m) => (m.action === 'ddl' ? ddl(m) : seen([m])[0]));
  const ofT = ['v1', 'insert id', 'ALTER TABLE table public.t', 'v2', 'insert id,v'];
  const end = ['v3', 'insert id'];
  expect(shown(messages)).toEqual([
    ...ofT,
    'CREATE INDEX index public.other_id',
    'CREATE TABLE table public.p1',
    'ALTER TABLE table column public.t.v',
    'ALTER TABLE table public.t',
    'DROP TABLE table public.other',
    ...end,
  ]);
  expect(messages[6]!.metadata).toMatchObject({ table_schema: 'public', table_name: 'p', commit_idx: 0 });
  expect(shown(await millrace.atLeast(9, 'only-t'))).toEqual([
    ...ofT,
    'ALTER TABLE table column public.t.v',
    'ALTER TABLE table public.t',
    ...end,
  ]);
  expect(seen(await millrace.atLeast(3, 'none'))).toEqual(['insert id', 'insert id,v', 'insert id']);
  await db.sql(DDL_TRIGGER_REMOVAL_SQL);
  const left = await db.sql(
    `SELECT evtname FROM pg_event_trigger UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'millrace'`,
  );
  expect(left).toEqual([]);
});

test("a sink's cursor keeps no mark of a table that was forgotten", async () => {
  await db.sql('CREATE TABLE stays (id int PRIMARY KEY); CREATE TABLE goes (id int PRIMARY KEY)');
  millrace = await startMillrace(db, { sinks: SINKS });
  await db.sql('INSERT INTO stays VALUES (1); INSERT INTO goes VALUES (1)');
  await millrace.atLeast(4);
  const [{ stays, goes }] = await db.sql(`SELECT 'stays'::regclass::oid AS stays, 'goes'::regclass::oid AS goes`);
  const { store, pipelines } = millrace.server;
  const marks = () => [...cursorStore(store.state, sinkKey('sink', 'cursor')).load()!.backfills.keys()].sort();
  await expect.poll(marks).toEqual([`schema/${stays}`, `schema/${goes}`]);
  await db.sql('DROP TABLE goes');
  await pipelines[0]!.schemas.forget(Number(goes));
  await db.sql('INSERT INTO stays VALUES (2)');
  await expect.poll(marks).toEqual([`schema/${stays}`]);
  expect(seen(await millrace.atLeast(5))).toEqual(['v1', 'insert id', 'v1', 'insert id', 'insert id']);
});
