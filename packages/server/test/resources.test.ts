// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${VAR} is the syntax under test.

/** Resources of the management API, one by one: each is an edit of what is applied. No database answers here. */
import { rmSync } from 'node:fs';
import { loadApplied } from '@millrace/api/applied/config-file';
import { type Server, startServer } from '@millrace/server/main';
import { testDirectory } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';

let server: Server;
let dataDir: string;

beforeAll(async () => {
  dataDir = testDirectory('resources');
  server = await startServer({ config: null, dataDir, host: '127.0.0.1', port: 0, log: () => {} });
});

afterAll(async () => {
  await server.stop();
  rmSync(dataDir, { recursive: true, force: true });
});

// biome-ignore lint/suspicious/noExplicitAny: whatever the route answers.
type Answer = { status: number; body: any };

async function ask(method: string, path: string, body?: unknown): Promise<Answer> {
  const answer = await fetch(`${server.url}/api${path}`, {
    method,
    headers: {
      authorization: `Bearer ${server.firstRootToken}`,
      ...(body !== undefined && { 'content-type': 'application/json' }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  return { status: answer.status, body: await answer.json() };
}

/** Nothing listens there. */
const DATABASE = {
  name: 'shop',
  hostname: '127.0.0.1',
  port: 9,
  database: 'shop',
  username: 'joe',
  password: 'hunter2',
  ssl: false,
  replication_slots: [{ slot_name: 'millrace', publication_name: 'millrace', status: 'active' }],
};
const REMOTE = { type: 's2', basin: 'some-basin', stream: 's', access_token: 't0ken', endpoint: 'http://127.0.0.1:9' };

beforeEach(async () => {
  await ask('POST', '/config/apply', { yaml: '{}', prune: true });
});

test("a database is made with the slot of Sequin's API, shown without its password, changed, and deleted", async () => {
  const made = await ask('POST', '/postgres_databases', DATABASE);
  expect(made).toMatchObject({
    status: 200,
    body: { id: expect.any(String), name: 'shop', password: '(redacted)', slot: { name: 'millrace' } },
  });
  expect((await ask('GET', '/postgres_databases/shop?show_sensitive=true')).body.password).toBe('hunter2');
  const changed = await ask('PUT', `/postgres_databases/${made.body.id}`, { ...made.body, pool_size: 3 });
  expect(changed).toMatchObject({ status: 200, body: { pool_size: 3, password: '(redacted)' } });
  expect(server.config.applied.config.databases[0]).toMatchObject({ password: 'hunter2', poolSize: 3 });
  expect(await ask('POST', '/postgres_databases', DATABASE)).toMatchObject({
    status: 422,
    body: { validation_errors: { name: ['has already been taken'] }, code: 'validation_failed' },
  });
  expect(await ask('PATCH', '/postgres_databases/shop', { name: 'other' })).toMatchObject({ status: 422 });
  expect(await ask('DELETE', '/postgres_databases/shop')).toEqual({
    status: 200,
    body: { success: true, id: made.body.id },
  });
  expect((await ask('GET', '/postgres_databases/shop')).status).toBe(404);
});

test('a sink is made, changed key by key, and deleted; a database that it reads is not deleted before it', async () => {
  await ask('POST', '/postgres_databases', DATABASE);
  const wrong = await ask('POST', '/sinks', { name: 'out', database: 'shop', destination: REMOTE, actoins: [] });
  expect(wrong).toMatchObject({
    status: 422,
    body: { validation_errors: { 'sinks[0].actoins': ['unknown key (did you mean "actions"?)'] } },
  });
  const body = { name: 'out', database: 'shop', actions: ['insert'], destination: REMOTE };
  const made = await ask('POST', '/sinks', body);
  expect(made).toMatchObject({
    status: 200,
    body: { ...body, destination: { ...REMOTE, access_token: '(redacted)' }, health: { name: 'out' } },
  });
  // What an answer shows can be sent back.
  const { status, body: changed } = await ask('PATCH', '/sinks/out', { ...made.body, status: 'paused', actions: null });
  expect(status).toBe(200);
  expect(changed).toMatchObject({ status: 'paused', actions: ['insert', 'update', 'delete'] });
  const [sink] = server.config.applied.config.sinks;
  expect(sink).toMatchObject({ status: 'paused', destination: { accessToken: 't0ken' } });
  expect(await ask('DELETE', '/postgres_databases/shop')).toMatchObject({
    status: 422,
    body: { validation_errors: { 'sinks[0].database': ['is not the name of one of the databases'] } },
  });
  expect(await ask('DELETE', '/sinks/out')).toMatchObject({ status: 200, body: { id: made.body.id, deleted: true } });
  expect(await ask('GET', '/sinks')).toEqual({ status: 200, body: { data: [] } });
  expect((await ask('DELETE', '/sinks/out')).status).toBe(404);
});

test('a mask never becomes a secret', async () => {
  const masked = await ask('POST', '/postgres_databases', { ...DATABASE, password: '(redacted)' });
  expect(masked).toMatchObject({
    status: 422,
    body: { validation_errors: { 'databases[0].password': [expect.stringContaining('give the secret')] } },
  });
  const yaml = `http_endpoints: [{ name: a, url: "https://x.example", encrypted_headers: { Token: "********" } }]`;
  expect(await ask('POST', '/config/plan', { yaml })).toMatchObject({
    status: 422,
    body: {
      validation_errors: { 'http_endpoints[0].encrypted_headers.Token': [expect.stringContaining('line 1:')] },
    },
  });
});

test('HTTP endpoints and functions are resources as well', async () => {
  const endpoint = {
    name: 'hook',
    url: 'https://u:p4ss@x.example',
    encrypted_headers: [{ key: 'Token', value: 'zz' }],
  };
  const made = await ask('POST', '/destinations/http_endpoints', endpoint);
  expect(made).toEqual({
    status: 200,
    body: {
      id: expect.any(String),
      name: 'hook',
      url: 'https://u:(redacted)@x.example',
      encrypted_headers: [{ key: 'Token', value: '(redacted)' }],
    },
  });
  const { body } = await ask('PUT', '/destinations/http_endpoints/hook', { ...made.body, headers: { A: 'b' } });
  expect(body.headers).toEqual({ A: 'b' });
  const shown = await ask('GET', `/destinations/http_endpoints/${made.body.id}?show_sensitive=true`);
  expect(shown.body).toMatchObject(endpoint);
  expect((await ask('GET', '/destinations/http_endpoints')).body.data).toHaveLength(1);
  expect(await ask('DELETE', '/destinations/http_endpoints/hook')).toMatchObject({ body: { deleted: true } });

  const code = 'export function filter(action, record) { return `${record.name}` !== ""; }';
  expect(await ask('POST', '/functions', { name: 'f', type: 'filter', code })).toMatchObject({ body: { code } });
  await ask('PATCH', '/functions/f', { description: 'named ones' });
  expect((await ask('GET', '/functions')).body.data).toMatchObject([{ name: 'f', description: 'named ones', code }]);
  expect(await ask('DELETE', '/functions/f')).toMatchObject({ status: 200 });
});

test('a destination is tried before and after it is configured', async () => {
  await ask('POST', '/postgres_databases', DATABASE);
  const away = await ask('POST', '/sinks/test_connection', { destination: REMOTE });
  expect(away).toMatchObject({ status: 200, body: { success: false, code: 'sink_unavailable' } });
  expect(JSON.stringify(away)).not.toContain('t0ken');
  const metadata = { ...REMOTE, endpoint: 'http://169.254.169.254' };
  const guarded = await ask('POST', '/sinks/test_connection', { destination: metadata });
  expect(guarded).toMatchObject({ status: 200, body: { success: false, code: 'sink_address_refused' } });
  const here = { type: 's2', basin: 'some-basin', stream: 's' };
  expect(await ask('POST', '/sinks/test_connection', { destination: here })).toEqual({
    status: 200,
    body: { success: true },
  });
  await ask('POST', '/sinks', { name: 'out', database: 'shop', destination: REMOTE });
  expect(await ask('POST', '/sinks/out/test_connection')).toMatchObject({ body: { success: false } });
  const redis = { type: 'redis_stream', host: '127.0.0.1', port: 9, stream_key: 'k' };
  const refused = await ask('POST', '/sinks/test_connection', { destination: redis });
  expect(refused).toMatchObject({ status: 200, body: { success: false, code: expect.stringMatching(/^sink_/) } });
  expect(server.config.applied.config.sinks.map(({ name }) => name)).toEqual(['out']);
});

test('a file whose sink reads another database than before makes it start anew, and says so', async () => {
  const dir = testDirectory('moved');
  const lines: string[] = [];
  const two = ['one', 'two'].map(
    (name) =>
      `{ name: ${name}, hostname: 127.0.0.1, port: 9, database: d, ssl: false, slot_name: ${name}, publication_name: p }`,
  );
  const file = (database: string) =>
    loadApplied(
      `databases: [${two}]\nsinks: [{ name: out, database: ${database}, destination: { type: sequin_stream } }]`,
      {
        file: 'x.yaml',
        env: {},
      },
    );
  const start = async (database: string) =>
    await startServer({
      config: file(database),
      dataDir: dir,
      host: '127.0.0.1',
      port: 0,
      log: (line) => void lines.push(line),
    });
  const known = 'sink/out/of-the-test';
  try {
    const first = await start('one');
    await first.store.state.put(known, Buffer.from('x'));
    await first.stop();
    const same = await start('one');
    expect(same.store.state.get(known)).toBeDefined();
    await same.stop();
    const moved = await start('two');
    expect(moved.store.state.get(known)).toBeUndefined();
    await moved.stop();
    expect(lines.filter((line) => line.includes('starts anew'))).toEqual([
      'configuration: sink "out" reads another database now: it starts anew',
    ]);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
