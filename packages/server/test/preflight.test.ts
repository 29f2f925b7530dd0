/** The preflight check against real servers; each SQL it shows is run and takes its finding away. */

import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { loadConfig } from '@millrace/api/config';
import { type PreflightReport, preflight } from '@millrace/server/preflight/preflight';
import { createDatabase, startOwnPostgres, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { chosenMajor } from '@millrace/testkit/postgres-majors';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { stringify } from 'yaml';

let db: TestDatabase;

beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await db.drop();
});

interface Wanted {
  readonly url?: string;
  readonly database?: object;
  readonly sink?: object;
  readonly functions?: readonly object[];
  readonly now?: () => number;
  readonly dataDir?: string;
  readonly changeLogBytesMax?: number;
}

async function check({
  url = db.url,
  database,
  sink,
  functions = [],
  now,
  dataDir,
  changeLogBytesMax = 1,
}: Wanted = {}) {
  const text = stringify({
    databases: [{ name: 'shop', url, slot: { name: db.name }, publication: { name: 'mine' }, ...database }],
    sinks: [
      { name: 'out', database: 'shop', destination: { type: 's2', basin: 'basin-of-test', stream: 's' }, ...sink },
    ],
    functions,
  });
  const config = loadConfig(text, { file: 'millrace.yaml', env: {} });
  return await preflight({ config, dataDir, changeLogBytesMax, ...(now && { now }) });
}

function findings(report: PreflightReport, level?: string) {
  return report.checked
    .flatMap((one) => one.findings)
    .filter(({ severity }) => level === undefined || severity === level);
}

const slugs = (report: PreflightReport, level?: string) =>
  findings(report, level)
    .map(({ slug }) => slug)
    .sort();

test('a role without rights is told each of them, and the SQL that is shown gives them', async () => {
  const role = `role_${db.name}`;
  await db.sql(`CREATE TABLE items (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)`);
  await db.sql(`ALTER TABLE items ENABLE ROW LEVEL SECURITY`);
  await db.sql(`REVOKE USAGE ON SCHEMA public FROM PUBLIC`);
  await db.sql(`CREATE ROLE ${role} LOGIN PASSWORD 'hunter2'`);
  try {
    const url = db.url.replace(/\/\/[^@]+@/, `//${role}:hunter2@`);
    const sink = { source: { include_tables: ['items'] }, initial_backfill: true };
    const bare = await check({ url, sink });
    expect(bare.ok).toBe(false);
    expect(slugs(bare, 'error')).toEqual([
      'publication_not_recognized',
      'replication_right',
      'replication_slot_missing',
    ]);
    expect(JSON.stringify(bare)).not.toContain('hunter2');

    await db.sql(`CREATE PUBLICATION mine FOR TABLE other`);
    const named = await check({ url, sink });
    expect(slugs(named, 'error')).toContain('table_not_in_publication');
    for (let round = 0; round < 4; round++) {
      const open = findings(await check({ url, sink })).filter(({ severity }) => severity !== 'notice');
      for (const { fix } of open) {
        for (const line of fix!.split('\n')) if (!line.startsWith('--') && /;\s*$/.test(line)) await db.sql(line);
      }
    }
    const mended = await check({ url, sink });
    expect(findings(mended).filter(({ severity }) => severity !== 'notice')).toEqual([]);
    expect(mended.ok).toBe(true);
  } finally {
    await db.drop();
    const admin = await createDatabase();
    await admin.sql(`DROP ROLE ${role}`);
    await admin.drop();
  }
});

test('before there is a publication, all that is missing is told at once, of the tables of the sinks too', async () => {
  const role = `newcomer_${db.name}`;
  await db.sql(`CREATE ROLE ${role} LOGIN PASSWORD 'secret';
    CREATE TABLE items (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY); CREATE UNLOGGED TABLE scratch (id int)`);
  const url = db.url.replace(/\/\/[^@]+@/, `//${role}:secret@`);
  const database = {
    slot: { name: db.name, create_if_not_exists: true },
    publication: { name: 'mine', create_if_not_exists: true },
  };
  const sink = { source: { include_tables: ['items'] }, initial_backfill: true };
  try {
    const report = await check({ url, database, sink });
    expect(slugs(report, 'error')).toEqual(['publication_right', 'replication_right', 'select_right']);
    expect(findings(report, 'notice').map(({ text }) => text)).toContainEqual(expect.stringContaining('public.items'));
    const typo = { source: { include_tables: ['itmes', 'scratch'] } };
    const [missing] = findings(await check({ url, database, sink: typo }), 'error').filter(
      ({ slug }) => slug === 'table_not_in_publication',
    );
    expect(missing!.text).toContain('public.itmes, public.scratch do not exist, or Postgres cannot publish them');
    // One round of what is shown is enough.
    for (const { fix } of findings(report, 'error')) {
      for (const line of fix!.split('\n')) if (!line.startsWith('--')) await db.sql(line);
    }
    expect(findings(await check({ url, database, sink })).filter(({ severity }) => severity !== 'notice')).toEqual([]);
    expect(await db.sql(`SELECT tablename FROM pg_publication_tables WHERE pubname = 'mine'`)).toEqual([
      { tablename: 'items' },
    ]);
  } finally {
    await db.sql(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  }
});

test('what the role cannot read is an error for all that reads it, and row security only where it applies to the role', async () => {
  const role = `reader_${db.name}`;
  await db.sql(`CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'secret'; GRANT CREATE ON SCHEMA public TO ${role};
    CREATE TABLE denied (id int PRIMARY KEY); CREATE TABLE hidden (id int PRIMARY KEY); CREATE TABLE own (id int PRIMARY KEY);
    GRANT SELECT ON hidden TO ${role}; ALTER TABLE own OWNER TO ${role}; CREATE PUBLICATION mine FOR ALL TABLES;
    ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE own ENABLE ROW LEVEL SECURITY`);
  const url = db.url.replace(/\/\/[^@]+@/, `//${role}:secret@`);
  const database = { slot: { name: db.name, create_if_not_exists: true } };
  const unread = (report: Awaited<ReturnType<typeof check>>) =>
    findings(report, 'error').map(({ slug, text }) => `${slug} ${/public\.\w+(, public\.\w+)*/.exec(text)?.[0]}`);
  const both = ['row_security public.hidden', 'select_right public.denied'];
  try {
    expect(unread(await check({ url, database }))).toEqual([]);
    expect(unread(await check({ url, database, sink: { initial_backfill: true } })).sort()).toEqual(both);
    expect(unread(await check({ url, database, sink: { fill_unchanged: true } })).sort()).toEqual(both);
    expect(unread(await check({ url, database: { ...database, audit: { enabled: true } } })).sort()).toEqual(both);
    const repair = { slot: { ...database.slot, on_loss: 'repair' } };
    expect(unread(await check({ url, database: repair })).sort()).toEqual(both);
    // Postgres agrees.
    const as = (table: string) => `SET LOCAL ROLE ${role}; SET LOCAL row_security = off; TABLE ${table}`;
    await db.sql(as('own'));
    await expect(db.sql(as('hidden'))).rejects.toThrow('row-level security');
  } finally {
    await db.sql(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  }
});

test('tables of an initial backfill that are not there are told', async () => {
  await db.sql('CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION mine FOR TABLE items');
  const sink = {
    source: { include_tables: ['items', 'itmes'] },
    initial_backfill: [{ table: 'items' }, { table: 'itmes' }],
  };
  for (const one of [sink, { initial_backfill: sink.initial_backfill }]) {
    const told = findings(await check({ sink: one }), 'error');
    expect(told.filter(({ slug }) => slug === 'table_not_in_publication')).toMatchObject([
      { text: 'public.itmes is not in publication "mine", or does not exist.' },
    ]);
  }
});

test('a publication for all tables that is still to be made tells of the tables it would break', async () => {
  await db.sql(
    `CREATE TABLE keyed (id int PRIMARY KEY); CREATE TABLE keyless (a int); CREATE TABLE quiet (id int PRIMARY KEY)`,
  );
  await db.sql(`ALTER TABLE quiet REPLICA IDENTITY NOTHING`);
  const database = {
    slot: { name: db.name, create_if_not_exists: true },
    publication: { name: 'mine', create_if_not_exists: true },
  };
  const report = await check({ database });
  expect(report.ok).toBe(true);
  const [missing] = findings(report, 'warning');
  expect(missing).toMatchObject({
    slug: 'replica_identity_missing',
    text: expect.stringContaining('public.keyless, public.quiet'),
  });
  expect(missing!.text).not.toContain('keyed');
  // Postgres agrees.
  await db.sql(`CREATE PUBLICATION mine FOR ALL TABLES`);
  await db.sql(`INSERT INTO keyless VALUES (1)`);
  await expect(db.sql(`UPDATE keyless SET a = 2`)).rejects.toThrow('replica identity');
  for (const line of missing!.fix!.split('\n')) await db.sql(line);
  await db.sql(`UPDATE keyless SET a = 2`);
});

test('a DEFERRABLE primary key is no replica identity: said before the publication is made, and after', async () => {
  await db.sql(`CREATE TABLE late (id int PRIMARY KEY DEFERRABLE, v text)`);
  await db.sql(`CREATE TABLE p (id int PRIMARY KEY DEFERRABLE) PARTITION BY RANGE (id)`);
  await db.sql(`CREATE TABLE p_1 PARTITION OF p DEFAULT; INSERT INTO late VALUES (1, 'a'); INSERT INTO p VALUES (1)`);
  const database = {
    slot: { name: db.name, create_if_not_exists: true },
    publication: { name: 'mine', create_if_not_exists: true },
  };
  const [before] = findings(await check({ database }), 'warning');
  expect(before).toMatchObject({
    slug: 'replica_identity_missing',
    text: expect.stringContaining('From then on UPDATE and DELETE fail in Postgres for public.late, public.p:'),
  });
  await db.sql(`CREATE PUBLICATION mine FOR ALL TABLES WITH (publish_via_partition_root = true)`);
  await expect(db.sql(`UPDATE late SET v = 'b'`)).rejects.toThrow('does not have a replica identity');
  const [after] = findings(await check({ database }), 'warning');
  expect(after).toMatchObject({ slug: 'replica_identity_missing', text: expect.stringContaining('public.late') });
  expect(after!.text).toContain('public.p');
  // A partitioned table has leaves to mend: its own identity does not count.
  for (const line of after!.fix!.split('\n')) await db.sql(line);
  await db.sql(`UPDATE late SET v = 'b'; UPDATE p SET id = 2`);
  expect(slugs(await check({ database }), 'warning')).toEqual([]);
});

test('actions that a sink takes and the publication does not publish are told, and the SQL publishes them', async () => {
  await db.sql(
    `CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION mine FOR TABLE items WITH (publish = 'insert')`,
  );
  const open = async (sink?: object) => findings(await check(sink && { sink }), 'warning');
  expect(await open({ actions: ['insert'] })).toEqual([]);
  const [rows] = await open();
  expect(rows).toMatchObject({ slug: 'action_not_published', text: expect.stringContaining('update, delete,') });
  await db.sql(rows!.fix!);
  expect(await open()).toEqual([]);
  const [truncates] = await open({ actions: ['delete', 'truncate'] });
  expect(truncates).toMatchObject({ slug: 'action_not_published', text: expect.stringContaining('publish truncate,') });
  await db.sql(truncates!.fix!);
  expect(await open({ actions: ['insert', 'update', 'delete', 'truncate'] })).toEqual([]);
});

test('what cannot be reached, or lets nobody in, is one finding with the reason', async () => {
  const refused = await check({ url: db.url.replace(/:\d+\//, ':1/') });
  expect(findings(refused)).toMatchObject([{ slug: 'reachable', code: 'pg_unreachable', severity: 'error' }]);
  const denied = await check({ url: db.url.replace(/\/\/[^@]+@/, '//postgres:wrong-password@') });
  expect(findings(denied)).toMatchObject([{ slug: 'reachable', code: 'pg_auth_failed' }]);
  expect(JSON.stringify(denied)).not.toContain('wrong-password');
});

test('a clock that is off, an encoding that is not UTF-8 and a disk that is small are told', async () => {
  await db.sql(`CREATE PUBLICATION mine FOR ALL TABLES`);
  const at = await check({ now: () => Date.now() + 3_600_000 });
  expect(findings(at, 'warning')).toMatchObject([
    { slug: 'clock_skew', text: expect.stringMatching(/3[56]\d\d s behind/) },
  ]);
  expect(slugs(await check(), 'warning')).toEqual([]);

  const latin = `${db.name}_latin`;
  await db.sql(`CREATE DATABASE ${latin} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`);
  try {
    const report = await check({ url: db.url.replace(db.name, latin) });
    expect(findings(report, 'notice')).toContainEqual(
      expect.objectContaining({ slug: 'server_encoding', text: expect.stringContaining('LATIN1') }),
    );
  } finally {
    await db.sql(`DROP DATABASE ${latin}`);
  }

  const dir = testDirectory('data');
  const dataDir = `${dir}/not/yet/there`;
  expect(slugs(await check({ dataDir }))).not.toContain('disk_space');
  expect(findings(await check({ dataDir, changeLogBytesMax: 2 ** 60 }))).toContainEqual(
    expect.objectContaining({
      slug: 'disk_space',
      severity: 'warning',
      fix: expect.stringContaining('--change-log-max'),
    }),
  );
});

test('a slot of another plugin or database, and one that is read by somebody, are told', async () => {
  await db.sql(`CREATE PUBLICATION mine FOR ALL TABLES`);
  await db.sql(`SELECT pg_create_logical_replication_slot($1, 'test_decoding')`, [db.name]).catch(() => {});
  const report = await check();
  const [{ count }] = await db.sql(`SELECT count(*)::int AS count FROM pg_replication_slots WHERE slot_name = $1`, [
    db.name,
  ]);
  // test_decoding is a contrib module that not every build has.
  expect(slugs(report)).toContain(count === 1 ? 'replication_slot_checked' : 'replication_slot_missing');
});

test('of a slot that waits for its first reader, the tables are named that were altered since it was made', async () => {
  await db.sql(
    'CREATE TABLE calm (id int PRIMARY KEY); CREATE TABLE altered (id int PRIMARY KEY) PARTITION BY LIST (id)',
  );
  await db.sql('CREATE TABLE part PARTITION OF altered DEFAULT');
  await db.sql('CREATE PUBLICATION mine FOR TABLE calm, altered WITH (publish_via_partition_root = true)');
  await db.sql(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [db.name]);
  const unsound = async () =>
    (await check()).checked.flatMap(({ findings }) => findings.filter(({ slug }) => slug === 'slot_unsound'));
  await db.sql('ALTER TABLE part ADD CHECK (id > 0)');
  expect(await unsound()).toMatchObject([
    { severity: 'notice', text: expect.stringMatching(/^public\.altered\b.*: made or altered/) },
  ]);
  // Read once by anybody, it is past its beginning.
  await db.sql('INSERT INTO calm VALUES (1)');
  await db.sql(
    `SELECT FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', 'mine')`,
    [db.name],
  );
  await vi.waitFor(async () => expect(await unsound()).toEqual([]), { timeout: 30_000, interval: 100 });
});

describe('of the server', { timeout: 60_000 }, () => {
  test('every setting that stands in the way is told', async () => {
    const postgres = await startOwnPostgres({
      wal_level: 'replica',
      max_replication_slots: '1',
      max_slot_wal_keep_size: '64MB',
      wal_sender_timeout: '2s',
      logical_decoding_work_mem: '1MB',
    });
    try {
      const own = await postgres.createDatabase();
      await own.sql(`SELECT pg_create_physical_replication_slot('taken')`);
      const report = await check({ url: own.url, database: { slot: { name: 'mine', create_if_not_exists: true } } });
      expect(report.ok).toBe(false);
      expect(slugs(report, 'error')).toEqual(['max_replication_slots', 'publication_not_recognized', 'wal_level']);
      expect(slugs(report, 'warning')).toEqual(['max_slot_wal_keep_size', 'wal_sender_timeout']);
      expect(slugs(report, 'notice')).toEqual(['logical_decoding_work_mem']);
      for (const { fix } of findings(report)) expect(fix).toMatch(/ALTER SYSTEM|CREATE PUBLICATION/);
    } finally {
      await postgres.remove();
    }
  });
});

/** A pooler as far as its handshake goes: the process number it announces is its own. */
async function startPooler(target: { host: string; port: number }) {
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(target.port, target.host);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        client.destroy();
        upstream.destroy();
      });
    }
    client.pipe(upstream);
    upstream.on('data', (data) => {
      const at = data.indexOf(Buffer.from([0x4b, 0, 0, 0, 12]));
      if (at >= 0) data.writeInt32BE(data.readInt32BE(at + 5) + 1_000_000, at + 5);
      client.write(data);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  return {
    port,
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

test('a pooler in between is told, whatever it calls itself', async () => {
  await db.sql(`CREATE PUBLICATION mine FOR ALL TABLES`);
  const pooler = await startPooler(db.config);
  try {
    const url = db.url.replace(/:\d+\//, `:${pooler.port}/`);
    expect(slugs(await check({ url }), 'error')).toContain('endpoint_pooled');
    expect(slugs(await check(), 'error')).not.toContain('endpoint_pooled');
  } finally {
    await pooler.close();
  }
});

test('rules that fit no table, or look at what Postgres does not send, are told', async () => {
  await db.sql(
    `CREATE TABLE items (id int PRIMARY KEY, price numeric, note text); CREATE PUBLICATION mine FOR TABLE items`,
  );
  const where = [{ column: 'price', operator: '<', value: 5 }];
  const rules = async (sink: object) =>
    slugs(await check({ sink })).filter((slug) => /rule|filter|group|hash|push/.test(slug));
  expect(await rules({ where, columns: { mask: ['node'], hash: ['note'] } })).toEqual([
    'filter_needs_full_identity',
    'hash_key_missing',
    'rule_column_missing',
  ]);
  expect(await rules({ where: [{ column: 'price', value: 'cheap' }] })).toContain('rule_invalid');
});

test('what Postgres could leave out by itself is told, with the SQL where it has row filters', async () => {
  await db.sql(
    `CREATE TABLE items (id int PRIMARY KEY, price numeric, note text); CREATE PUBLICATION mine FOR TABLE items`,
  );
  const where = [{ column: 'price', operator: '<', value: 5 }];
  const pushed = await check({
    sink: { where, columns: { include: ['price'] }, push_down: true, actions: ['insert'] },
  });
  const [plan] = findings(pushed).filter(({ slug }) => slug === 'push_down');
  if (chosenMajor() < 15) {
    expect(plan).toMatchObject({ severity: 'notice', text: expect.stringContaining('from version 15 on') });
    expect(plan!.fix).toBeUndefined();
    return;
  }
  expect(plan!.fix).toContain('ALTER PUBLICATION "mine" ADD TABLE ONLY "public"."items" ("id", "price");');
  await db.sql(plan!.fix!);
  const again = await check({ sink: { where, columns: { include: ['price'] }, push_down: true, actions: ['insert'] } });
  expect(slugs(again)).not.toContain('push_down');
  expect(pushed.ok).toBe((await check()).ok);
});

test('an enrichment whose SQL cannot be asked, or lacks the key, is told with what Postgres says; it is not run', async () => {
  await db.sql(
    `CREATE TABLE items (id int PRIMARY KEY, price int); CREATE PUBLICATION mine FOR TABLE items;
     CREATE FUNCTION run() RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''it ran''; END'`,
  );
  const told = async (code: string) =>
    findings(await check({ sink: { enrichment: 'add' }, functions: [{ name: 'add', type: 'enrichment', code }] }))
      .filter(({ slug }) => slug === 'enrichment_failed')
      .map(({ severity, text }) => `${severity}: ${text}`);
  expect(await told('SELECT id, price, run() FROM items WHERE id = ANY($1)')).toEqual([]);
  expect(await told('-- table: other\nSELECT nothing')).toEqual([]);
  for (const [code, said] of [
    ['DELETE FROM items WHERE id = ANY($1) RETURNING id', 'syntax error at or near "FROM"'],
    ['SELECT id, cost FROM items WHERE id = ANY($1)', 'column "cost" does not exist'],
    ['SELECT price FROM items WHERE id = ANY($1)', 'does not return "id" of the primary key'],
    ['SELECT id FROM items WHERE id = ANY($2)', 'wrong number of parameters'],
  ] as const) {
    expect(await told(code)).toEqual([expect.stringContaining('error: Sink "out": ')]);
    expect((await told(code))[0]).toContain('Function "add": ');
    expect((await told(code))[0]).toContain(said);
  }
});
