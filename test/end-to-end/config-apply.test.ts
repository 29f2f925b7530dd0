// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${VAR} is the syntax under test.

/** A configuration that is planned, applied and exported over the management API, while changes flow. */
import { readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Plan } from '@millrace/api/applied/plan';
import { type Server, startServer } from '@millrace/server/main';
import { createDatabase, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { stringify } from 'yaml';
import { bodiesOf } from '../stream-bodies.ts';
import { BASIN, eventually } from './millrace.ts';

let db: TestDatabase;
let server: Server;
let token: string;
let dataDir: string;
const lines: string[] = [];

beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
  dataDir = testDirectory('applied');
  lines.length = 0;
  server = await start();
  token = server.firstRootToken!;
  await server.store.ensureBasin(BASIN, {
    defaultStreamConfig: {},
    streamCipher: null,
    createStreamOnAppend: true,
    createStreamOnRead: true,
  });
});

afterEach(async () => {
  await server.stop();
  rmSync(dataDir, { recursive: true, force: true });
  await db.drop();
});

async function start(): Promise<Server> {
  const log = (line: string) => void lines.push(line);
  return await startServer({ config: null, dataDir, host: '127.0.0.1', port: 0, log });
}

// biome-ignore lint/suspicious/noExplicitAny: whatever the route answers.
type Answer = { status: number; body: any };

async function ask(method: string, path: string, body?: unknown): Promise<Answer> {
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
  const answer = await fetch(`${server.url}/api${path}`, {
    method,
    headers,
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  return { status: answer.status, body: await answer.json() };
}

/** Its password is a reference. */
function database(rest: object = {}) {
  const { host, port, user, database: name } = db.config;
  return {
    name: 'shop',
    hostname: host,
    port,
    database: name,
    username: user,
    password: '${PW}',
    ssl: false,
    slot: { name: db.name, create_if_not_exists: true },
    publication: { name: 'millrace', create_if_not_exists: true },
    await_database: { timeout_ms: 2000 },
    ...rest,
  };
}

function sink(name: string, rest: object = {}) {
  return { name, database: 'shop', destination: { type: 's2', basin: BASIN, stream: name }, ...rest };
}

const variables = () => ({ PW: db.config.password });
const file = (document: object, rest: object = {}) => ({ yaml: stringify(document), variables: variables(), ...rest });

async function apply(document: object, rest: object = {}): Promise<Plan> {
  const { status, body } = await ask('POST', '/config/apply', file(document, rest));
  expect(body).not.toHaveProperty('summary');
  expect(status).toBe(200);
  return body;
}

async function ids(stream: string): Promise<number[]> {
  const target = await server.store.openStream(BASIN, stream, 'read');
  const found: number[] = [];
  for await (const body of bodiesOf(target)) found.push(JSON.parse(body).record.id);
  return found;
}

const to = (last: number, first = 1) => Array.from({ length: last - first + 1 }, (_, i) => first + i);
const deliveryOf = (name: string) => server.pipelines[0]?.deliveries.find((one) => one.name === name);

test('applying what changes one sink leaves the other alone; nothing is lost or doubled in either; plan said so', async () => {
  const before = { databases: [database()], sinks: [sink('a'), sink('b')] };
  expect((await apply(before)).actions.map(({ type }) => type)).toEqual([
    'create_publication',
    'create_slot',
    'start_database',
    'start_sink',
    'start_sink',
  ]);
  await eventually('it runs', () => deliveryOf('b')?.state.kind === 'running');
  let enough = false;
  const writing = (async () => {
    let id = 0;
    while (!enough) await db.sql(`INSERT INTO t VALUES (${++id}, 'v')`);
    return id;
  })();
  await eventually('both deliver', async () => (await ids('b')).length > 10 && (await ids('a')).length > 10);
  const untouched = deliveryOf('a')!;
  const old = deliveryOf('b')!;
  const states = new Set<string>();
  const watching = setInterval(() => states.add(untouched.state.kind), 1);

  const after = { sinks: [sink('b', { annotations: { team: 'x' } })] };
  const plan = (await ask('POST', '/config/plan', file(after))).body as Plan;
  expect(plan.changes).toEqual([
    { action: 'update', kind: 'sink', name: 'b', keys: [{ key: 'annotations.team', new: 'x' }] },
  ]);
  expect(plan.actions).toEqual([{ type: 'restart_sink', name: 'b', text: 'start sink "b" anew, from where it is' }]);
  expect(plan.kept).toEqual([
    { kind: 'database', name: 'shop' },
    { kind: 'sink', name: 'a' },
  ]);
  const messages = untouched.delivered.messages;
  expect(await apply(after, { fingerprint: plan.fingerprint })).toMatchObject(plan);
  expect(deliveryOf('a')).toBe(untouched);
  expect(deliveryOf('b')).not.toBe(old);
  const seen = (await ids('b')).length;
  await eventually('both go on', async () => (await ids('b')).length > seen + 10);
  enough = true;
  const last = await writing;
  await eventually('all is there', async () => (await ids('a')).length >= last && (await ids('b')).length >= last);
  clearInterval(watching);
  expect(untouched.delivered.messages).toBeGreaterThan(messages);
  expect([...states]).toEqual(['running']);
  expect(await ids('a')).toEqual(to(last));
  expect(await ids('b')).toEqual(to(last));
});

test('what is applied runs again after a restart without a file, and its secrets are nowhere on disk', async () => {
  const secret = 'basin-token-that-nobody-may-see';
  const remote = { type: 's2', basin: BASIN, stream: 'r', access_token: secret, endpoint: 'http://127.0.0.1:9' };
  await apply({ databases: [database()], sinks: [sink('a'), sink('r', { status: 'disabled', destination: remote })] });
  await eventually('it runs', () => deliveryOf('a')?.state.kind === 'running');
  await db.sql("INSERT INTO t VALUES (1, 'v')");
  await eventually('it delivers', async () => (await ids('a')).length === 1);
  await server.stop();
  expect(statSync(join(dataDir, 'secret.key')).mode & 0o777).toBe(0o600);
  const { stdout } = await import('node:child_process').then(({ spawnSync }) =>
    spawnSync('grep', ['-rlaF', '-e', secret, dataDir], { encoding: 'utf8' }),
  );
  expect(stdout).toBe('');
  await db.sql("INSERT INTO t VALUES (2, 'v')");
  server = await start();
  await eventually('it goes on', async () => (await ids('a')).length === 2);
  const exported = (await ask('GET', '/config/export')).body.yaml as string;
  expect(exported).toContain('password: ${PW}');
  expect(exported).toContain('access_token: ${kept:sinks/r/destination.access_token}');
  expect(exported).not.toContain(secret);
  expect((await ask('GET', '/config/export?show-sensitive=true')).body.yaml).toContain(secret);
  // Neither variables nor files come with it: what it refers to is as it was.
  const again = (await ask('POST', '/config/plan', { yaml: exported, prune: true })).body;
  expect(again).toMatchObject({ changes: [], actions: [], kept: [] });
});

test('without --prune what a file lacks stays, and with it goes; the slot stays on the server', async () => {
  await apply({ databases: [database()], sinks: [sink('a'), sink('b')] });
  const less = { databases: [database()], sinks: [sink('a')] };
  expect(await apply(less)).toMatchObject({ changes: [], kept: [{ kind: 'sink', name: 'b' }] });
  expect(server.databases[0]!.sinks).toHaveLength(2);
  expect(await apply(less, { prune: true })).toMatchObject({
    changes: [{ action: 'delete', kind: 'sink', name: 'b' }],
    actions: [{ type: 'stop_sink', name: 'b' }],
    kept: [],
  });
  expect(server.databases[0]!.sinks.map(({ name }) => name)).toEqual(['a']);
  await eventually('it runs', () => server.databases[0]!.state.kind === 'running');
  const plan = await apply({ sinks: [] }, { prune: true });
  expect(plan.actions.map(({ type }) => type)).toEqual(['stop_database', 'stop_sink']);
  expect(server.databases).toEqual([]);
  expect(await db.sql('SELECT active FROM pg_replication_slots WHERE slot_name = $1', [db.name])).toEqual([
    { active: false },
  ]);
});

test('a sink for a table that was made a moment ago is well from the start, and is looked at', async () => {
  await apply({ databases: [database()], sinks: [sink('a')] });
  const tablesOf = async (name: string) => {
    const { checks } = (await ask('GET', `/sinks/${name}`)).body.health;
    return checks.find(({ slug }: { slug: string }) => slug === 'sink_configuration');
  };
  await eventually('it runs', () => deliveryOf('a')?.state.kind === 'running');
  const { monitor } = server.databases[0]!;
  monitor.report();
  await monitor.refresh();
  await db.sql('CREATE TABLE young (id int PRIMARY KEY)');
  await apply({ sinks: [sink('y', { source: { include_tables: ['young'] } })] });
  await eventually('it runs', () => deliveryOf('y')?.state.kind === 'running');
  expect(await tablesOf('y')).toMatchObject({ status: 'healthy', findings: [] });
  // A publication FOR ALL TABLES: there is nothing to be added to it.
  await db.sql('DROP TABLE young');
  await monitor.refresh();
  const { findings } = await tablesOf('y');
  expect(findings).toEqual([expect.objectContaining({ slug: 'table_not_in_publication', severity: 'error' })]);
  expect(findings[0].fix).not.toContain('ADD TABLE');
});

test('a plan that is no longer true is not applied, and neither is what a source refuses', async () => {
  await apply({ databases: [database()], sinks: [sink('a')] });
  const plan = (await ask('POST', '/config/plan', file({ sinks: [sink('b')] }))).body as Plan;
  await apply({ sinks: [sink('c')] });
  const stale = await ask('POST', '/config/apply', file({ sinks: [sink('b')] }, { fingerprint: plan.fingerprint }));
  expect(stale).toMatchObject({ status: 409, body: { code: 'config_stale', hint: expect.any(String) } });
  await eventually('it runs', () => server.databases[0]!.state.kind === 'running');
  const missing = sink('m', { source: { include_tables: ['missing'] } });
  const refused = await ask('POST', '/config/apply', file({ sinks: [missing, sink('d')] }));
  expect(refused).toMatchObject({ status: 422, body: { code: 'pg_table_missing' } });
  // Only the database knows that id is the key that an enrichment would look up by.
  const loud = { name: 'loud', type: 'enrichment', code: 'SELECT id, upper(v) AS v FROM t WHERE id = ANY($1)' };
  const masked = sink('d', { enrichment: 'loud', columns: { mask: ['v', 'id'] } });
  expect(await ask('POST', '/config/apply', file({ functions: [loud], sinks: [masked] }))).toMatchObject({
    status: 422,
    body: {
      code: 'enrichment_failed',
      summary: expect.stringContaining(
        'column "id" of the primary key of "public"."t" is kept from messages by columns.mask',
      ),
    },
  });
  // Nor does anybody else know what its SQL is worth.
  for (const [code, said] of [
    ['DELETE FROM t WHERE id = ANY($1) RETURNING id', 'syntax error at or near "FROM"'],
    ['SELECT id, w FROM t WHERE id = ANY($1)', 'column "w" does not exist'],
    ['SELECT v FROM t WHERE id = ANY($1)', 'does not return "id" of the primary key'],
    ['WITH gone AS (DELETE FROM t RETURNING id) SELECT id FROM gone', 'SQLSTATE 0A000'],
  ]) {
    const poor = { name: 'poor', type: 'enrichment', code };
    const refusal = await ask(
      'POST',
      '/config/apply',
      file({ functions: [poor], sinks: [sink('d', { enrichment: 'poor' })] }),
    );
    expect(refusal).toMatchObject({
      status: 422,
      body: { code: 'enrichment_failed', summary: expect.stringContaining('Function "poor": ') },
    });
    expect(refusal.body.summary).toContain(said);
  }
  const broken = await ask('POST', '/config/apply', file({ sinks: [sink('d'), { name: 'e', databse: 'shop' }] }));
  expect(broken).toMatchObject({
    status: 422,
    body: {
      code: 'validation_failed',
      validation_errors: {
        'sinks[1].databse': ['line 9: unknown key (did you mean "database"?)'],
        'sinks[1].database': [expect.stringContaining('is required')],
      },
    },
  });
  expect(server.config.applied.config.sinks.map(({ name }) => name)).toEqual(['a', 'c']);
});

test('another password reaches the database, and the plan does not show it', async () => {
  await apply({ databases: [database({ password: 'wrong-0ne' })], sinks: [sink('a')] });
  const plan = await apply({ databases: [database()] });
  expect(plan.changes).toEqual([
    {
      action: 'update',
      kind: 'database',
      name: 'shop',
      keys: [{ key: 'password', old: '(redacted)', new: '${PW}' }],
    },
  ]);
  expect(plan.actions.at(-1)!.type).toBe('restart_database');
  await eventually('it runs', () => server.databases[0]!.state.kind === 'running');
  expect(JSON.stringify(plan)).not.toContain('wrong-0ne');
  expect(lines.join('\n')).not.toContain('wrong-0ne');
  expect(readFileSync(join(dataDir, 'secret.key'), 'utf8')).toMatch(/^\S{44}\n$/);
});
