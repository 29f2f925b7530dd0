/** Column lists in the publication for sinks that ask for them: nothing is missing, whatever changes while changes flow. */
import { loadConfig } from '@millrace/api/config';
import { preflight } from '@millrace/server/preflight/preflight';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { configText, eventually, type Message, type Millrace, type SinkOptions, startMillrace } from './millrace.ts';

let db: TestDatabase;
const running: Millrace[] = [];
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  for (const one of running.splice(0)) await one.remove();
  await db.drop();
});

async function start(options: Parameters<typeof startMillrace>[1], database = db): Promise<Millrace> {
  const millrace = await startMillrace(database, options);
  running.push(millrace);
  return millrace;
}

async function apply(millrace: Millrace, sinks: readonly SinkOptions[]): Promise<void> {
  const config = loadConfig(configText(db, { sinks, ...ON_MINE }), { file: 'millrace.yaml', env: {} });
  await millrace.server.databases[0]!.applySinks(config.sinks);
}

/** Names of the listed columns by table; null: there is no list. */
async function lists(publication: string): Promise<Record<string, string[] | null>> {
  const rows = await db.sql(
    `SELECT r.prrelid::regclass::text AS name, (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute AS a
        WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs)) AS columns
       FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid WHERE p.pubname = $1`,
    [publication],
  );
  return Object.fromEntries(rows.map(({ name, columns }) => [name, columns]));
}

const comment = async () =>
  (await db.sql(`SELECT obj_description(oid, 'pg_publication') AS text FROM pg_publication WHERE pubname = 'mine'`))[0]
    .text;
const ON_MINE = { publication: { name: 'mine', create_if_not_exists: false } };
const records = (messages: readonly Message[]) => messages.map(({ record }) => record);
const to = (last: number, first = 1) => Array.from({ length: last - first + 1 }, (_, i) => first + i);

test('a stream is the same to the byte with it and without it, and what no sink takes is not sent', async () => {
  await db.sql(`CREATE TABLE people (id int PRIMARY KEY, name text, secret text, doc text, team int, picture text);
    ALTER TABLE people ALTER doc SET STORAGE EXTERNAL, ALTER picture SET STORAGE EXTERNAL;
    CREATE TABLE teams (a int, b int NOT NULL, title text, secret text);
    CREATE UNIQUE INDEX by_b ON teams (b); ALTER TABLE teams REPLICA IDENTITY USING INDEX by_b;
    CREATE TABLE whole (id int PRIMARY KEY, secret text); ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE parts (id int PRIMARY KEY, secret text) PARTITION BY RANGE (id);
    CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE own (id int PRIMARY KEY, title text, secret text, hidden text);
    CREATE PUBLICATION plain FOR TABLE people, teams, whole, parts, own (id, title, secret);
    CREATE PUBLICATION mine FOR TABLE people, teams, whole, parts, own (id, title, secret);
    COMMENT ON PUBLICATION mine IS 'whose it is'`);
  const included: Record<string, string[]> = {
    people: ['name', 'id', 'doc'],
    teams: ['title'],
    whole: ['id'],
    parts: ['id'],
    own: ['title'],
  };
  const sink = {
    name: 'sink',
    actions: ['insert', 'update', 'delete', 'truncate'],
    source: { include_tables: Object.keys(included) },
    tables: Object.entries(included).map(([name, include]) => ({
      ...{ name, columns: { include } },
      ...(name === 'people' && { group_column_names: ['team'] }),
    })),
  };
  const [plain, pushed] = await Promise.all([
    start({ sinks: [sink], publication: { name: 'plain' }, slot: { name: `${db.name}_plain` } }),
    start({ sinks: [{ ...sink, push_down: true }], ...ON_MINE }),
  ]);
  expect(await lists('mine')).toEqual({
    people: ['id', 'name', 'doc', 'team'],
    teams: ['b', 'title'],
    whole: null,
    parts: null,
    own: ['id', 'title', 'secret'],
  });
  expect(await comment()).toMatch(/^whose it is\nmillrace push_down /);
  await db.sql(`SELECT pg_create_logical_replication_slot('${db.name}_wire', 'pgoutput')`);
  const changes = [
    `INSERT INTO people SELECT i, 'n' || i, 'SECRET', repeat('x', 9000), i, repeat('SECRET', 2000) FROM generate_series(1, 3) AS i`,
    `UPDATE people SET secret = 'SECRET2' WHERE id = 1`,
    `UPDATE people SET name = NULL, picture = repeat('SECRET', 2001) WHERE id = 2`,
    `UPDATE people SET id = 4, doc = 'short' WHERE id = 3`,
    `INSERT INTO teams VALUES (1, 2, 't', 'SECRET'); UPDATE teams SET b = 3; UPDATE teams SET secret = 'SECRET3'; DELETE FROM teams`,
    `INSERT INTO whole VALUES (1, 's'); UPDATE whole SET secret = 't'; INSERT INTO parts VALUES (1, 's'); DELETE FROM parts`,
    `INSERT INTO own VALUES (1, 'o', 's', 'h')`,
    'DELETE FROM people WHERE id = 1; TRUNCATE people, teams',
    `ALTER TABLE people ADD later text; INSERT INTO people (id, name, later) VALUES (9, 'nine', 'SECRET')`,
  ];
  for (const text of changes) await db.sql(text);
  const bodies = await Promise.all([plain.atLeast(19), pushed.atLeast(19)]).then(() =>
    Promise.all([plain.bodies(), pushed.bodies()]),
  );
  expect(bodies[1]).toEqual(bodies[0]);
  expect(bodies[0]).toHaveLength(19);

  const wire = async (publication: string) => {
    const rows = await db.sql(
      `SELECT data FROM pg_logical_slot_peek_binary_changes('${db.name}_wire', NULL, NULL, 'proto_version', '1', 'publication_names', $1)`,
      [publication],
    );
    return Buffer.concat(rows.map(({ data }) => data));
  };
  expect((await wire('plain')).includes('SECRET')).toBe(true);
  expect((await wire('mine')).includes('SECRET')).toBe(false);
  expect((await wire('mine')).includes('nine')).toBe(true);
});

const narrow = { name: 'a', columns: { include: ['id', 'v'] }, push_down: true };

test('sinks that need more are added and changed while writers run, one of them long before; nothing is lost', async () => {
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text, w text); CREATE PUBLICATION mine FOR TABLE t');
  const millrace = await start({ sinks: [narrow, { ...narrow, name: 'b' }], ...ON_MINE });
  expect(await lists('mine')).toEqual({ t: ['id', 'v'] });
  let enough = false;
  const writing = (async () => {
    let id = 0;
    while (!enough) await db.sql(`INSERT INTO t VALUES (${++id}, 'v', 'w')`);
    return id;
  })();
  const early = new pg.Client(db.url);
  await early.connect();
  try {
    await millrace.atLeast(10, 'a');
    const untouched = millrace.server.pipelines[0]!.deliveries.find(({ name }) => name === 'b');
    await early.query("BEGIN; INSERT INTO t VALUES (-1, 'v', 'w')");
    const applied = apply(millrace, [
      { ...narrow, columns: { include: ['id', 'v', 'w'] } },
      { ...narrow, name: 'b' },
      { name: 'c' },
    ]);
    await eventually('it is widened', async () => (await lists('mine'))['t'] === null);
    // Nobody begins in the wider form while this one goes on.
    await early.query("INSERT INTO t VALUES (-2, 'v', 'w')");
    const meanwhile = (await millrace.messages('b')).length;
    await millrace.atLeast(meanwhile + 100, 'b');
    expect(millrace.server.pipelines[0]!.deliveries.map(({ name }) => name)).toEqual(['a', 'b']);
    await early.query('COMMIT');
    await applied;
    expect(millrace.server.pipelines[0]!.deliveries.find(({ name }) => name === 'b')).toBe(untouched);
    const seen = (await millrace.messages('a')).length;
    await millrace.atLeast(seen + 20, 'a');
    await millrace.atLeast(20, 'c');
    enough = true;
    const last = await writing;
    await Promise.all(['a', 'b'].map((name) => millrace.atLeast(last + 2, name)));
    await eventually('c has the last one', async () => (await millrace.messages('c')).at(-1)!.record['id'] === last);
    for (const name of ['a', 'b']) {
      const ids = records(await millrace.messages(name)).map(({ id }) => id as number);
      expect(ids.filter((id) => id > 0)).toEqual(to(last));
    }
    const c = records(await millrace.messages('c'));
    expect(c).toEqual(to(last, c[0]!['id'] as number).map((id) => ({ id, v: 'v', w: 'w' })));
    const a = records(await millrace.messages('a'));
    const from = a.findIndex((record) => 'w' in record);
    expect(from).toBeGreaterThan(10);
    expect(a.slice(from)).toEqual(a.slice(from).map(({ id }) => ({ id, v: 'v', w: 'w' })));
    expect(millrace.lines.filter((line) => line.includes('columns_left_out'))).toEqual([]);

    await apply(millrace, [narrow, { ...narrow, name: 'b' }]);
    expect(await lists('mine')).toEqual({ t: ['id', 'v'] });
    await apply(millrace, [{ name: 'a' }, { ...narrow, name: 'b' }]);
    expect(await lists('mine')).toEqual({ t: null });
    expect(await comment()).toBeNull();
  } finally {
    enough = true;
    await early.end();
    await writing;
  }
});

test('what was captured without a column is refused to a sink that takes it now, and a new one begins behind it', async () => {
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text, w text); CREATE PUBLICATION mine FOR TABLE t');
  let millrace = await start({ sinks: [narrow], ...ON_MINE });
  const { dataDir } = millrace;
  const restart = async (sinks: readonly SinkOptions[]) => {
    await millrace.stop();
    running.pop();
    millrace = await start({ sinks, ...ON_MINE, dataDir });
  };
  await db.sql("INSERT INTO t VALUES (1, 'v', 'w')");
  await millrace.atLeast(1, 'a');
  await millrace.stop();
  await db.sql("INSERT INTO t VALUES (2, 'v', 'w')");
  const wide = { ...narrow, columns: { include: ['id', 'v', 'w'] } };
  await restart([wide, { name: 'new' }]);
  expect(await lists('mine')).toEqual({ t: null });
  await db.sql("INSERT INTO t VALUES (3, 'v', 'w')");
  expect(records(await millrace.atLeast(1, 'new'))).toEqual([{ id: 3, v: 'v', w: 'w' }]);
  await eventually('it says why it stops', () => millrace.lines.some((line) => line.includes('columns_left_out')));
  expect(await millrace.messages('a')).toHaveLength(1);
  await apply(millrace, [narrow, { name: 'new' }]);
  expect(records(await millrace.atLeast(3, 'a'))).toEqual(to(3).map((id) => ({ id, v: 'v' })));
  await apply(millrace, [wide, { name: 'new' }]);
  await db.sql("INSERT INTO t VALUES (4, 'v', 'w')");
  expect(records(await millrace.atLeast(4, 'a')).at(-1)).toEqual({ id: 4, v: 'v', w: 'w' });

  // Another name under which a column is included now.
  await apply(millrace, [narrow]);
  expect(await lists('mine')).toEqual({ t: ['id', 'v'] });
  await db.sql("ALTER TABLE t RENAME v TO old; ALTER TABLE t RENAME w TO v; INSERT INTO t VALUES (5, 'v', 'w')");
  await eventually(
    'it says why it stops',
    () => millrace.lines.filter((line) => line.includes('columns_left_out')).length === 2,
  );
  expect(await millrace.messages('a')).toHaveLength(4);
});

test('who does not own the publication is told, starts all the same, and a sink that would lack columns waits', async () => {
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text, w text); CREATE PUBLICATION mine FOR TABLE t');
  const role = `role_${db.name}`;
  await db.sql(`CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'hunter2'`);
  const guest = { ...db, url: db.url.replace(/\/\/[^@]+@/, `//${role}:hunter2@`) };
  try {
    const config = (sinks: readonly SinkOptions[]) =>
      loadConfig(configText(guest, { sinks, ...ON_MINE }), { file: 'millrace.yaml', env: {} });
    const found = async () => {
      const { checked } = await preflight({ config: config([narrow]), changeLogBytesMax: 1 });
      return checked.flatMap(({ findings }) => findings).filter(({ slug }) => slug === 'push_down');
    };
    expect(await found()).toMatchObject([{ severity: 'warning', code: 'push_down_refused' }]);
    const millrace = await start({ sinks: [narrow], ...ON_MINE }, guest);
    const pinned = () => millrace.server.databases[0]!.monitor.notices.of('database');
    const [finding] = pinned().filter(({ slug }) => slug === 'push_down');
    expect(finding).toMatchObject({ severity: 'warning', code: 'push_down_refused' });
    expect(await lists('mine')).toEqual({ t: null });
    await db.sql("INSERT INTO t VALUES (1, 'v', 'w')");
    await millrace.atLeast(1, 'a');
    await db.sql(finding!.fix!.slice(finding!.fix!.indexOf('BEGIN;')));
    expect(await lists('mine')).toEqual({ t: ['id', 'v'] });
    expect(await found()).toEqual([]);
    await apply(millrace, [narrow]);

    await millrace.stop();
    running.pop();
    const again = await start({ sinks: [{ name: 'a' }], ...ON_MINE, dataDir: millrace.dataDir }, guest);
    await db.sql("INSERT INTO t VALUES (2, 'v', 'w')");
    await eventually('the sink waits', () =>
      again.lines.some((line) => line.includes('a: ') && line.includes('push_down_refused')),
    );
    expect(await again.messages('a')).toHaveLength(1);
  } finally {
    for (const one of running.splice(0)) await one.remove();
    await db.sql(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  }
});
