/** What a worker of a `sequin_stream` sink sees: Sequin's routes and bodies, and what ours do beyond them. */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import http2 from 'node:http2';
import { json } from 'node:stream/consumers';
import { loadConfig } from '@millrace/api/config';
import { type Server, startServer } from '@millrace/server/main';
import { createDatabase, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { stringify } from 'yaml';

let db: TestDatabase;
let server: Server;
let dataDir: string;
let token: string;
let id = 0;

beforeAll(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE jobs (id int PRIMARY KEY, v text)');
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
    sinks: [
      { name: 'jobs', database: 'shop', destination: { type: 'sequin_stream', max_waiting: 2 } },
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
async function* events(query: string, headers: Record<string, string> = {}): AsyncGenerator<Event> {
  const answer = await fetch(`${server.url}/api/sequin_streams/jobs/sse${query}`, {
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
  expect((await ask('sequin_streams/other/receive', {})).status).toBe(404);
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

test('the end of the process lets a waiting worker go, and what it had not acknowledged comes again, and nothing else', async () => {
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
