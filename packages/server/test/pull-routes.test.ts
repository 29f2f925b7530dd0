/** What a worker of a `sequin_stream` sink sees: Sequin's routes and bodies, and what ours do beyond them. */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import http2 from 'node:http2';
import { join } from 'node:path';
import { json } from 'node:stream/consumers';
import { loadConfig } from '@millrace/api/config';
import { MillraceError } from '@millrace/core/error';
import { sinkKey } from '@millrace/core/sink-key';
import { type Server, startServer } from '@millrace/server/main';
import { LocalStateTable } from '@millrace/stream-store/state-table';
import { createDatabase, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { stringify } from 'yaml';

let db: TestDatabase;
let server: Server;
let dataDir: string;
let token: string;
let id = 0;

beforeAll(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE jobs (id int PRIMARY KEY, v text); CREATE TABLE made (id int PRIMARY KEY, of int)');
  dataDir = testDirectory('pull-routes');
  await start();
  token = server.firstRootToken!;
});

afterAll(async () => {
  await server?.stop();
  await db?.drop();
  rmSync(dataDir, { recursive: true, force: true });
});

async function start(): Promise<void> {
  const config = stringify({
    databases: [
      {
        name: 'shop',
        url: db.url,
        slot: { name: db.name, create_if_not_exists: true },
        publication: { name: 'millrace', create_if_not_exists: true },
      },
    ],
    functions: [
      { name: 'not-7', type: 'filter', code: '(action, record) => record.of !== 7' },
      {
        name: 'many',
        type: 'transform',
        code: `(action, { id, of }) => {
          if (of === 9) throw new Error('nine');
          return messages(Array.from({ length: of }, (_, n) => ({ id, n })));
        }`,
      },
    ],
    sinks: [
      {
        name: 'jobs',
        database: 'shop',
        source: { include_tables: ['jobs'] },
        destination: { type: 'sequin_stream', max_waiting: 2 },
      },
      {
        name: 'made',
        database: 'shop',
        source: { include_tables: ['made'] },
        filter: 'not-7',
        transform: 'many',
        destination: { type: 'sequin_stream' },
      },
      { name: 'paused', database: 'shop', status: 'paused', destination: { type: 'sequin_stream' } },
      {
        name: 'other',
        database: 'shop',
        status: 'paused',
        destination: { type: 's2', basin: 'some-basin', stream: 'other' },
      },
    ],
  });
  server = await startServer({
    config: loadConfig(config, { file: 'millrace.yaml', env: {} }),
    dataDir,
    host: '127.0.0.1',
    port: 0,
    log: () => {},
  });
}

interface Received {
  readonly ack_id: string;
  readonly deliver_count: number;
  readonly data: { readonly record: { readonly id: number }; readonly action: string };
}

async function ask(path: string, body?: object, method = 'POST') {
  const answer = await fetch(`${server.url}/api/${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body !== undefined && { 'content-type': 'application/json' }) },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const said = (await answer.json()) as { readonly data: readonly Received[]; readonly [key: string]: unknown };
  return { status: answer.status, body: said, headers: answer.headers };
}

async function receive(size = 1, wait: number | string = '20s') {
  // Until the sink runs it is not there.
  for (;;) {
    const { status, body } = await ask('sequin_streams/jobs/receive', { max_batch_size: size, wait_for: wait });
    if (status !== 503) return body.data;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function insert(count = 1): Promise<void> {
  for (let n = 0; n < count; n++) await db.sql(`INSERT INTO jobs VALUES (${++id}, 'v')`);
}

const ack = (messages: readonly Received[]) =>
  ask('sequin_streams/jobs/ack', { ack_ids: messages.map(({ ack_id }) => ack_id) });

test('a worker receives messages as Sequin has them, and acknowledges them', async () => {
  await insert();
  const [message] = await receive(10);
  expect(message).toEqual({
    ack_id: expect.stringMatching(/^[\da-f-]{36}$/),
    deliver_count: 1,
    data: {
      record: { id, v: 'v' },
      changes: null,
      action: 'insert',
      metadata: expect.objectContaining({ commit_idx: 0 }),
    },
  });
  expect(await ack([message!])).toMatchObject({ status: 200, body: { success: true } });
  expect(await receive(10, 0)).toEqual([]);
});

test('the older path, GET, and the id of the sink do the same', async () => {
  await insert(3);
  const first = await ask('http_pull_consumers/jobs/receive?batch_size=2&wait_for=20000', undefined, 'GET');
  const { body: sink } = await ask('sinks/jobs', undefined, 'GET');
  const second = await ask(
    `sequin_streams/${String(sink['id'])}/receive?max_batch_size=5&wait_for=20s`,
    undefined,
    'GET',
  );
  const all = [...first.body.data, ...second.body.data];
  const more = all.length === 3 ? [] : await receive(5);
  const ids = [...all, ...more].map(({ ack_id }) => ack_id);
  expect(ids).toHaveLength(3);
  expect((await ask('http_pull_consumers/jobs/ack', { ack_ids: ids })).body).toEqual({ success: true });
});

test('what is not with a worker of this sink is named', async () => {
  await insert();
  const [message] = await receive();
  const ids = [message!.ack_id, 'unknown'];
  const answer = { success: false, not_found: ['unknown'] };
  expect((await ask('sequin_streams/jobs/extend', { ack_ids: ids, ms: '1m' })).body).toEqual(answer);
  expect((await ask('sequin_streams/jobs/ack', { ack_ids: ids })).body).toEqual(answer);
  // The answer may have been lost.
  expect((await ack([message!])).body).toEqual({ success: true });
  expect((await ask('sequin_streams/jobs/nack', { ack_ids: ids })).body).toEqual({ success: false, not_found: ids });
});

test('a message that was given back comes again, after the delay that was asked for', async () => {
  await insert();
  let [message] = await receive();
  expect((await ask('sequin_streams/jobs/nack', { ack_ids: [message!.ack_id] })).body).toEqual({ success: true });
  [message] = await receive();
  expect(message).toMatchObject({ deliver_count: 2, data: { record: { id } } });
  const begin = performance.now();
  await ask('sequin_streams/jobs/nack', { ack_ids: [message!.ack_id], delay_ms: 300 });
  [message] = await receive();
  expect(performance.now() - begin).toBeGreaterThan(290);
  expect(message).toMatchObject({ deliver_count: 3, data: { record: { id } } });
  await ack([message!]);
});

test('no more workers wait than may', async () => {
  const waiting = [receive(1), receive(1)];
  let status = 200;
  let retryAfter: string | null = null;
  while (status !== 429) {
    const answer = await ask('sequin_streams/jobs/receive', { wait_for: 20 });
    status = answer.status;
    retryAfter = answer.headers.get('retry-after');
  }
  expect(retryAfter).toBe('1');
  await insert(2);
  for (const messages of await Promise.all(waiting)) await ack(messages);
});

test('a worker that goes away while it waits, or before it has the answer, has nothing of it', async () => {
  const options = { method: 'POST', headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' } };
  let leaving: ClientRequest;
  const send = () => {
    leaving = request(`${server.url}/api/sequin_streams/jobs/receive`, options);
    leaving
      .on('error', () => {})
      .on('response', (answer) => {
        answer.resume();
        // The other two were there first.
        if (answer.statusCode === 429) send();
      });
    leaving.end('{"wait_for":60000,"max_batch_size":100}');
  };
  send();
  // It waits when another one is refused for it.
  const other = receive(1);
  while ((await ask('sequin_streams/jobs/receive', { wait_for: 20 })).status !== 429);
  leaving!.destroy();
  await insert();
  const [message] = await other;
  expect(message).toMatchObject({ deliver_count: 1, data: { record: { id } } });
  await ack([message!]);
  // A huge answer to somebody who takes none of it.
  await db.sql(`INSERT INTO jobs VALUES (${++id}, repeat('x', 12000000))`);
  const deaf = request(`${server.url}/api/sequin_streams/jobs/receive`, options);
  deaf.on('error', () => {});
  deaf.end('{"wait_for":60000}');
  const [response] = (await once(deaf, 'response')) as [IncomingMessage];
  response.on('error', () => {});
  deaf.destroy();
  const [again] = await receive();
  expect(again).toMatchObject({ deliver_count: 1, data: { record: { id } } });
  await ack([again!]);
}, 60_000);

test('over HTTP/2 it is the same, and nobody gets a message twice', async () => {
  const session = http2.connect(server.url);
  const over = async (path: string, body: object) => {
    const stream = session.request({
      ':path': `/api/sequin_streams/jobs/${path}`,
      ':method': 'POST',
      authorization: `Bearer ${token}`,
      'content-type': 'application/json',
    });
    stream.end(JSON.stringify(body));
    const said = (await json(stream)) as { readonly data: readonly Received[] };
    if (!stream.closed) await once(stream, 'close');
    return said;
  };
  try {
    await insert();
    const { data } = await over('receive', { wait_for: '20s' });
    expect(data).toMatchObject([{ deliver_count: 1, data: { record: { id } } }]);
    expect((await over('receive', { wait_for: 100 })).data).toEqual([]);
    expect(await over('ack', { ack_ids: data.map(({ ack_id }) => ack_id) })).toEqual({ success: true });
  } finally {
    session.close();
  }
});

interface Event {
  readonly type: string;
  readonly id: string;
  readonly data: string;
}

/** As an EventSource has them; `id` is the last one seen. */
async function* events(query: string, headers: Record<string, string> = {}, sink = 'jobs'): AsyncGenerator<Event> {
  const answer = await fetch(`${server.url}/api/sequin_streams/${sink}/sse${query}`, {
    headers: { authorization: `Bearer ${token}`, ...headers },
  });
  expect([answer.status, answer.headers.get('content-type')]).toEqual([200, 'text/event-stream']);
  let rest = '';
  let id = '';
  for await (const chunk of answer.body!.pipeThrough(new TextDecoderStream())) {
    const blocks = (rest + chunk).split('\n\n');
    rest = blocks.pop()!;
    for (const block of blocks) {
      const fields = block.split('\n').map((line) => /^(\w*): ?(.*)$/.exec(line) ?? []);
      const textOf = (name: string) => fields.filter(([, field]) => field === name).map(([, , value]) => value ?? '');
      id = textOf('id')[0] ?? id;
      const data = textOf('data');
      if (data.length > 0) yield { type: textOf('event')[0] ?? 'message', id, data: data.join('\n') };
    }
  }
}

async function some(count: number, from: AsyncGenerator<Event>): Promise<Event[]> {
  const found: Event[] = [];
  for await (const event of from) if (found.push(event) === count) break;
  return found;
}

const rowOf = ({ data }: Event) => (JSON.parse(data) as Received['data']).record.id;

test('events are read along, from any place, by anybody, and nothing is taken away', async () => {
  await insert(2);
  const waiting = await receive(10);
  const more = waiting.length === 2 ? [] : await receive(10);
  const all = await some(2, events('?after=oldest'));
  expect(all.map(rowOf)).toEqual([id - 1, id]);
  expect(all.map(({ type }) => type)).toEqual(['message', 'message']);
  // A client that lost its connection goes on after what it saw; a new one may say it in the query.
  const live = events('', { 'last-event-id': all[0]!.id });
  const other = events(`?after=${encodeURIComponent(all[1]!.id)}`);
  const [again] = await some(1, live);
  expect(again).toEqual(all[1]);
  const next = some(1, other);
  await insert();
  expect((await next).map(rowOf)).toEqual([id]);
  expect((await ack([...waiting, ...more, ...(await receive(1))])).body).toEqual({ success: true });
});

test('events of what functions make are resumed exactly: after none, one, or some of several of a change', async () => {
  // As many of each as its number says; 7 is filtered, 9 fails.
  const rows = [0, 3, 7, 1, 0, 9, 2, 7, 0, 2, 7];
  const values = rows.map((of, n) => `(${n}, ${of})`);
  await db.sql(`INSERT INTO made VALUES ${values.slice(0, 6)}`);
  await db.sql(`INSERT INTO made VALUES ${values.slice(6)}`);
  const expected = rows.flatMap((of, row) =>
    of === 7 ? [] : of === 9 ? ['function_failed'] : Array.from({ length: of }, (_, n) => `${row}.${n}`),
  );
  const said = ({ type, data }: Event) => {
    const value = JSON.parse(data) as { id: number; n: number; code: string };
    return type === 'error' ? value.code : `${value.id}.${value.n}`;
  };
  const all = await some(expected.length, events('?after=oldest', {}, 'made'));
  expect(all.map(said)).toEqual(expected);
  expect(new Set(all.map((event) => event.id)).size).toBe(all.length);
  for (const [at, { id }] of all.slice(0, -1).entries()) {
    const rest = await some(all.length - at - 1, events('', { 'last-event-id': id }, 'made'));
    expect([id, rest]).toEqual([id, all.slice(at + 1)]);
  }
  // What is filtered takes a client along: it need not read it again.
  const through = await fetch(`${server.url}/api/sequin_streams/made/sse`, {
    headers: { authorization: `Bearer ${token}`, 'last-event-id': all.at(-1)!.id },
  });
  const reader = through.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  while (!/^id: (.*)\n\n/m.test(text)) text += (await reader.read()).value;
  await reader.cancel();
  expect(text).not.toContain('data');
  const next = some(1, events('', { 'last-event-id': /^id: (.*)$/m.exec(text)![1]! }, 'made'));
  await db.sql('INSERT INTO made VALUES (100, 1)');
  expect((await next).map(said)).toEqual(['100.0']);
}, 60_000);

test('no more clients read events than may; one that leaves makes room for another', async () => {
  const sessions = [1, 2, 3].map(() => http2.connect(server.url));
  const headers = { ':path': '/api/sequin_streams/jobs/sse', authorization: `Bearer ${token}` };
  const statusOf = async (stream: http2.ClientHttp2Stream) =>
    Number(((await once(stream, 'response')) as [http2.IncomingHttpHeaders])[0][':status']);
  try {
    const streams: http2.ClientHttp2Stream[] = [];
    let refused = 0;
    // Those of other tests may not be over yet.
    for (let n = 0; n < 225; n += 25) {
      const more = Array.from({ length: 25 }, (_, i) => sessions[(n + i) % 3]!.request(headers));
      const statuses = await Promise.all(more.map(statusOf));
      refused += statuses.filter((status) => status === 429).length;
      streams.push(...more.filter((_, i) => statuses[i] === 200));
    }
    expect([streams.length, refused]).toEqual([200, 25]);
    // All of them are served.
    const row = ++id;
    const seen = streams.map(async (stream) => {
      for await (const chunk of stream) if (String(chunk).includes(`"id":${row},`)) return;
      throw new Error('it ended');
    });
    await db.sql(`INSERT INTO jobs VALUES (${row}, 'for all')`);
    await Promise.all(seen);
    sessions[0]!.destroy();
    for (let status = 429; status !== 200; ) {
      const one = sessions[1]!.request(headers);
      status = await statusOf(one);
      one.destroy();
    }
    await ack(await receive(10));
  } finally {
    for (const session of sessions) session.destroy();
  }
}, 60_000);

test('an id that is none is refused', async () => {
  const at = (query: string, headers = {}) =>
    fetch(`${server.url}/api/sequin_streams/jobs/sse${query}`, {
      headers: { authorization: `Bearer ${token}`, ...headers },
    });
  expect((await at('?after=yesterday')).status).toBe(400);
  expect((await at('', { 'last-event-id': 'x' })).status).toBe(400);
  const { status } = await ask('sequin_streams/nothing/sse', undefined, 'GET');
  expect(status).toBe(404);
});

test('what cannot be is refused by name', async () => {
  expect((await ask('sequin_streams/nothing/receive', {})).status).toBe(404);
  expect(await ask('sequin_streams/other/receive', {})).toMatchObject({
    status: 404,
    body: { summary: expect.stringMatching(/"other" is of type \w+; only those of type sequin_stream/) },
  });
  const { status, headers } = await ask('sequin_streams/paused/receive', {});
  expect([status, headers.get('retry-after')]).toEqual([503, '1']);
  const wrong: [string, object, string][] = [
    ['receive', { max_batch_size: 0 }, 'max_batch_size'],
    ['receive', { batch_size: 1001 }, 'batch_size'],
    ['receive', { wait_for: 'soon' }, 'wait_for'],
    ['receive', { wait_for: '6m' }, 'wait_for'],
    ['receive', { size: 1 }, 'size'],
    ['ack', {}, 'ack_ids'],
    ['ack', { ack_ids: [] }, 'ack_ids'],
    ['nack', { ack_ids: ['a'], delay_ms: -1 }, 'delay_ms'],
    ['extend', { ack_ids: ['a'], ms: 'x' }, 'ms'],
  ];
  for (const [path, body, field] of wrong) {
    const answer = await ask(`sequin_streams/jobs/${path}`, body);
    expect([answer.status, Object.keys(answer.body['validation_errors'] as object)]).toEqual([422, [field]]);
  }
  expect((await ask('sequin_streams/jobs/receive?wait_for=x', undefined, 'GET')).status).toBe(422);
});

async function consumeToken(body: object): Promise<string> {
  const answer = await ask('consume_tokens', body);
  expect(answer.status).toBe(200);
  return answer.body['token'] as string;
}

/** With another token, and whatever it is answered. */
async function askAs(bearer: string, path: string, { method = 'POST', body }: { method?: string; body?: object } = {}) {
  const answer = await fetch(`${server.url}${path}`, {
    method,
    headers: { authorization: `Bearer ${bearer}`, ...(body !== undefined && { 'content-type': 'application/json' }) },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const said = (await answer.json().catch(() => ({}))) as { data: readonly Received[]; [key: string]: unknown };
  return Object.assign(said, { status: answer.status });
}

test('a consume token works on the messages of its sinks, and does nothing else anywhere', async () => {
  const bearer = await consumeToken({ id: 'worker', sinks: ['jobs', 'gone'] });
  await insert();
  const { body: sink } = await ask('sinks/jobs', undefined, 'GET');
  const path = `/api/sequin_streams/${String(sink['id'])}`;
  const received = await askAs(bearer, `${path}/receive`, { body: { wait_for: '20s' } });
  expect(received.data[0]!.data.record.id).toBe(id);
  const ids = { ack_ids: [received.data[0]!.ack_id] };
  for (const verb of ['extend', 'nack'])
    expect(await askAs(bearer, `${path}/${verb}`, { body: ids })).toMatchObject({ success: true });
  const again = await askAs(bearer, '/api/http_pull_consumers/jobs/receive?wait_for=20s', { method: 'GET' });
  expect(await askAs(bearer, `${path}/ack`, { body: { ack_ids: [again.data[0]!.ack_id] } })).toMatchObject({
    success: true,
  });
  // Whether a sink is there it is told only of its own.
  expect(await askAs(bearer, '/api/sequin_streams/gone/receive', { body: {} })).toMatchObject({ status: 404 });
  const forbidden = { status: 403, code: 'permission_denied' };
  const { body: other } = await ask('sinks/made', undefined, 'GET');
  for (const name of ['made', String(other['id']), 'nothing', 'jobs2', '']) {
    for (const verb of ['receive', 'ack', 'nack', 'extend']) {
      const answer = await askAs(bearer, `/api/sequin_streams/${name}/${verb}`, { body: { ack_ids: ['a'] } });
      expect([name, verb, answer]).toEqual([name, verb, expect.objectContaining(forbidden)]);
    }
    const sse = await askAs(bearer, `/api/sequin_streams/${name}/sse`, { method: 'GET' });
    expect([name, sse]).toEqual([name, expect.objectContaining(forbidden)]);
  }
  // Every other route there is, whatever comes to be one.
  const others = server.management.routes.filter(
    (route) =>
      !/ \/(api\/)?(health|ready)$/.test(route) && !/ \/api\/(sequin_streams|http_pull_consumers)\//.test(route),
  );
  expect(others.length).toBeGreaterThan(50);
  for (const route of [...others, 'GET /api/nothing', 'DELETE /api/sequin_streams/jobs/receive']) {
    const [method, path] = route.split(' ') as [string, string];
    const url = path.replaceAll(/:\w+/g, 'jobs');
    const answer = await askAs(bearer, url, { method, ...(method !== 'GET' && { body: {} }) });
    expect([route, answer]).toEqual([route, expect.objectContaining(forbidden)]);
  }
  const basin = { id: 'x', scope: { ops: ['read'], basins: { prefix: '' }, streams: { prefix: '' } } };
  const s2: [string, string, object?][] = [
    ['GET', 'basins'],
    ['POST', 'basins', { basin: 'some-basin' }],
    ['GET', 'streams'],
    ['GET', 'streams/a/records'],
    ['POST', 'streams/a/records', { records: [] }],
    ['GET', 'streams/a/records/tail'],
    ['GET', 'access-tokens'],
    ['POST', 'access-tokens', basin],
    ['DELETE', 'access-tokens/worker'],
    ['GET', 'metrics?set=active-basins'],
  ];
  for (const [method, path, body] of s2) {
    const answer = await fetch(`${server.url}/v1/${path}`, {
      method,
      headers: { authorization: `Bearer ${bearer}`, 's2-basin': 'some-basin', 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    const said = (await answer.json()) as { code: string };
    expect([method, path, answer.status, said.code]).toEqual([method, path, 403, 'permission_denied']);
  }
});

test('consume tokens are listed without their secrets, run out, and end at once when they are revoked', async () => {
  const later = new Date(Date.now() + 3_600_000).toISOString();
  const bearer = await consumeToken({ id: 'one', sinks: ['jobs'] });
  const all = await consumeToken({ id: 'all', sink_prefixes: ['ma', 'jo'], expires_at: later });
  const soon = await consumeToken({
    id: 'soon',
    sink_prefixes: [''],
    expires_at: new Date(Date.now() + 150).toISOString(),
  });
  const { body } = await ask('consume_tokens', undefined, 'GET');
  expect(body.data).toContainEqual({ id: 'one', sinks: ['jobs'], sink_prefixes: [], expires_at: null });
  expect(body.data).toContainEqual({ id: 'all', sinks: [], sink_prefixes: ['ma', 'jo'], expires_at: later });
  for (const secret of [bearer, all, soon]) expect(JSON.stringify(body)).not.toContain(secret);
  expect((await ask('consume_tokens', { id: 'one', sinks: ['jobs'] })).body['validation_errors']).toHaveProperty('id');
  for (const sink of ['jobs', 'made']) {
    expect(await askAs(all, `/api/sequin_streams/${sink}/receive`, { body: {} })).toMatchObject({ status: 200 });
  }
  // S2's list has it, as it has every token: without any right there.
  const listed = await askAs(token, '/v1/access-tokens?prefix=one', { method: 'GET' });
  expect(listed['access_tokens']).toMatchObject([{ id: 'one', scope: { ops: [], basins: null, streams: null } }]);

  const stream = await fetch(`${server.url}/api/sequin_streams/jobs/sse`, {
    headers: { authorization: `Bearer ${bearer}` },
  });
  const waiting = askAs(bearer, '/api/sequin_streams/jobs/receive', { body: { wait_for: '60s' } });
  const other = receive(1, '60s');
  while ((await ask('sequin_streams/jobs/receive', { wait_for: 20 })).status !== 429);
  expect((await ask('consume_tokens/one', undefined, 'DELETE')).body).toEqual({ id: 'one', deleted: true });
  expect(await askAs(bearer, '/api/sequin_streams/jobs/receive', { body: {} })).toMatchObject({
    status: 401,
    code: 'authn',
  });
  expect((await ask('consume_tokens/one', undefined, 'DELETE')).status).toBe(404);
  expect((await ask('consume_tokens/root', undefined, 'DELETE')).status).toBe(404);
  await insert();
  // Who waits gets nothing any more, and what it would have got goes to the next one, as if nothing had happened.
  expect(await waiting).toMatchObject({ status: 401, code: 'authn' });
  const [message] = await other;
  expect(message).toMatchObject({ deliver_count: 1, data: { record: { id } } });
  await ack([message!]);
  const text = await stream.text();
  expect(text).toMatch(/event: error\ndata: \{"code":"authn"\}\n\n$/);
  expect(text).not.toContain('"record"');
  await expect.poll(() => askAs(soon, '/api/sequin_streams/jobs/receive', { body: {} })).toMatchObject({ status: 401 });
}, 60_000);

test('a consume token is made from a token that may do everything, for what it says, and lives no longer', async () => {
  const until = Date.now() + 3_600_000;
  const every = { prefix: '' };
  const both = { read: true, write: true };
  const op_groups = { account: both, basin: both, stream: both };
  const issued = await askAs(token, '/v1/access-tokens', {
    body: {
      id: 'for an hour',
      expires_at: new Date(until).toISOString(),
      scope: { basins: every, streams: every, access_tokens: every, op_groups },
    },
  });
  const hour = String(issued['access_token']);
  const made = await askAs(hour, '/api/consume_tokens', { body: { id: 'short', sinks: ['jobs'] } });
  expect(Date.parse(String(made['expires_at']))).toBe(until);
  const longer = { id: 'longer', sinks: ['jobs'], expires_at: new Date(until + 1_000).toISOString() };
  expect(await askAs(hour, '/api/consume_tokens', { body: longer })).toMatchObject({ status: 403 });
  const wrong: [object, string][] = [
    [{ sinks: ['jobs'] }, 'id'],
    [{ id: '', sinks: ['jobs'] }, 'id'],
    [{ id: 'x' }, 'sinks'],
    [{ id: 'x', sinks: 'jobs' }, 'sinks'],
    [{ id: 'x', sinks: [''] }, 'sinks.0'],
    [{ id: 'x', sink_prefixes: Array(101).fill('a') }, 'sink_prefixes'],
    [{ id: 'x', sinks: ['jobs'], expires_at: 'soon' }, 'expires_at'],
    [{ id: 'x', sinks: ['jobs'], ops: ['read'] }, 'ops'],
  ];
  for (const [body, field] of wrong) {
    const { status, body: said } = await ask('consume_tokens', body);
    expect([status, Object.keys(said['validation_errors'] as object)]).toEqual([422, [field]]);
  }
});

test('the end of the process lets a waiting worker go, and what it had not acknowledged comes again, and nothing else', async () => {
  const kept = await consumeToken({ id: 'kept', sinks: ['jobs'] });
  await insert(2);
  const [done] = await receive(1);
  const [open] = await receive(1);
  expect((await ack([done!])).body).toEqual({ success: true });
  const waiting = receive(1, '5m');
  await Promise.all([server.stop(), waiting.then((messages) => expect(messages).toEqual([]))]);
  await start();
  const again = await receive(10);
  expect(again.map(({ data }) => data.record.id)).toEqual([open!.data.record.id]);
  expect((await ack(again)).body).toEqual({ success: true });
  // A consume token is on record, as a hash.
  expect(await askAs(kept, '/api/sequin_streams/jobs/receive', { body: {} })).toMatchObject({ status: 200, data: [] });
  const files = (await readdir(dataDir, { recursive: true, withFileTypes: true })).filter((file) => file.isFile());
  for (const { parentPath, name } of files) {
    expect((await readFile(join(parentPath, name))).includes(kept.slice(3))).toBe(false);
  }
}, 60_000);

test('an ack that cannot be put on record is answered with the reason, and what it was for comes again', async () => {
  await insert();
  const [message] = await receive();
  const { put } = LocalStateTable.prototype;
  const cursor = sinkKey('jobs', 'cursor');
  const full = vi.spyOn(LocalStateTable.prototype, 'put').mockImplementation(function (
    this: LocalStateTable,
    key,
    value,
  ) {
    return key === cursor ? Promise.reject(new MillraceError('storage_full')) : put.call(this, key, value);
  });
  try {
    const over = expect(server.done).rejects.toMatchObject({ code: 'storage_full' });
    expect(await ack([message!])).toMatchObject({ status: 500, body: { code: 'storage_full' } });
    await over;
    await server.stop();
  } finally {
    full.mockRestore();
  }
  await start();
  const again = await receive();
  expect(again.map(({ data }) => data.record.id)).toEqual([message!.data.record.id]);
  expect((await ack(again)).body).toEqual({ success: true });
}, 60_000);

test('events that the log has forgotten are gone', async () => {
  await insert();
  const [seen] = await some(1, events('?after=oldest'));
  await ack(await receive(1));
  // The log can be forgotten from places on that come every mebibyte.
  for (let n = 0; n < 3; n++) {
    await db.sql(`INSERT INTO jobs VALUES (${++id}, repeat('x', 2000000))`);
    await ack(await receive(1));
  }
  expect(await server.pipelines[0]!.log.trimToBytes(1)).toBe(true);
  const answer = await fetch(`${server.url}/api/sequin_streams/jobs/sse`, {
    headers: { authorization: `Bearer ${token}`, 'last-event-id': seen!.id },
  });
  expect([answer.status, await answer.json()]).toEqual([410, { summary: expect.stringContaining('after=oldest') }]);
}, 60_000);
