import { rmSync } from 'node:fs';
import http2 from 'node:http2';
import { json } from 'node:stream/consumers';
import { NO_CONFIG } from '@millrace/api/config';
import { type Server, startServer } from '@millrace/server/main';
import { testDirectory } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

let server: Server;
let dataDir: string;
const tokens = { root: '', narrow: '', wide: '' };

beforeAll(async () => {
  dataDir = testDirectory('management');
  const config = NO_CONFIG;
  server = await startServer({ config, dataDir, host: '127.0.0.1', port: 0, log: () => {} });
  tokens.root = server.firstRootToken!;
  tokens.wide = await issue('wide', { read: true, write: true });
  tokens.narrow = await issue('narrow', { read: true, write: false });
});

afterAll(async () => {
  await server.stop();
  rmSync(dataDir, { recursive: true, force: true });
});

async function issue(id: string, rights: { read: boolean; write: boolean }): Promise<string> {
  const every = { prefix: '' };
  const scope = { basins: every, streams: every, access_tokens: every };
  const op_groups = { account: rights, basin: rights, stream: rights };
  const answer = await fetch(`${server.url}/v1/access-tokens`, {
    method: 'POST',
    headers: { authorization: `Bearer ${tokens.root}`, 'content-type': 'application/json' },
    body: JSON.stringify({ id, scope: { ...scope, op_groups } }),
  });
  expect(answer.status).toBe(201);
  return ((await answer.json()) as { access_token: string }).access_token;
}

async function ask(path: string, init: RequestInit = {}, token: string | null = tokens.root) {
  const headers = { ...init.headers, ...(token !== null && { authorization: `Bearer ${token}` }) };
  const answer = await fetch(`${server.url}${path}`, { ...init, headers });
  return { status: answer.status, body: await answer.json() };
}

describe('the management API', () => {
  test('is alive without a token, under both of its paths', async () => {
    expect(await ask('/health', {}, null)).toEqual({ status: 200, body: { ok: true } });
    expect(await ask('/api/health', {}, null)).toEqual({ status: 200, body: { ok: true } });
  });

  test('takes a token that may do everything, and no other', async () => {
    const missing = await ask('/api/postgres_databases', {}, null);
    expect(missing).toMatchObject({ status: 401, body: { summary: expect.stringContaining('access token') } });
    expect(await ask('/api/postgres_databases', {}, 'wrong')).toMatchObject({ status: 401 });
    expect(await ask('/api/postgres_databases', {}, tokens.narrow)).toMatchObject({
      status: 403,
      body: { summary: expect.stringContaining('root token') },
    });
    for (const token of [tokens.root, tokens.wide]) {
      expect(await ask('/api/postgres_databases', {}, token)).toEqual({ status: 200, body: { data: [] } });
    }
    // What is not there is nobody's business without a token either.
    expect((await ask('/api/nothing', {}, null)).status).toBe(401);
    expect(await ask('/api/nothing')).toMatchObject({ status: 404, body: { summary: expect.any(String) } });
    expect((await ask('/api/status', { method: 'DELETE' })).status).toBe(404);
  });

  test('answers over HTTP/2 as over HTTP/1.1, with bodies both ways', async () => {
    const session = http2.connect(server.url);
    try {
      const over = async (path: string, method: string, body?: string) => {
        const stream = session.request({
          ':path': path,
          ':method': method,
          authorization: `Bearer ${tokens.root}`,
          'content-type': 'application/json',
        });
        stream.end(body);
        const headers = await new Promise<http2.IncomingHttpHeaders>((resolve) => stream.once('response', resolve));
        return { status: headers[':status'], body: await json(stream) };
      };
      expect(await over('/health', 'GET')).toEqual({ status: 200, body: { ok: true } });
      expect(await over('/api/sinks', 'GET')).toEqual({ status: 200, body: { data: [] } });
      const path = '/api/postgres_databases/none/test_connection';
      expect(await over(path, 'POST', '{}')).toMatchObject({ status: 404 });
      expect(await over(path, 'POST', '{"a":1}')).toEqual({
        status: 422,
        body: {
          summary: 'Validation failed.',
          validation_errors: { a: ['is not a known field'] },
          code: 'validation_failed',
        },
      });
      // Its neighbour on the port is as before.
      expect(await over('/v1/basins', 'GET')).toMatchObject({ status: 200, body: { basins: [] } });
    } finally {
      session.close();
    }
  });

  test('is neither alive nor ready once the store takes no writes', async () => {
    const dir = testDirectory('draining');
    const other = await startServer({
      config: NO_CONFIG,
      dataDir: dir,
      host: '127.0.0.1',
      port: 0,
      log: () => {},
    });
    // A connection that is open already still gets its answers.
    const session = http2.connect(other.url);
    const ask = async (path: string) => {
      const stream = session.request({ ':path': path });
      stream.resume();
      const headers = await new Promise<http2.IncomingHttpHeaders>((resolve) => stream.once('response', resolve));
      return headers[':status'];
    };
    try {
      expect(await ask('/ready')).toBe(200);
      await other.store.close();
      expect(await ask('/ready')).toBe(503);
      expect(await ask('/health')).toBe(500);
    } finally {
      session.destroy();
      await other.stop();
      rmSync(dir, { recursive: true, force: true });
    }
  });

  test('takes an empty body under application/json, and still no key that is a way to a prototype', async () => {
    const headers = { 'content-type': 'application/json' };
    const nothing = { status: 404, body: { summary: expect.stringContaining('Not found') } };
    const path = '/api/postgres_databases/none';
    for (const method of ['POST', 'DELETE']) {
      const at = method === 'POST' ? `${path}/test_connection` : path;
      expect(await ask(at, { method, headers })).toMatchObject(nothing);
      expect(await ask(at, { method, headers, body: '' })).toMatchObject(nothing);
    }
    const session = http2.connect(server.url);
    const authorization = `Bearer ${tokens.root}`;
    const stream = session.request({ ':path': path, ':method': 'DELETE', authorization, ...headers });
    stream.end();
    expect(await json(stream)).toMatchObject(nothing.body);
    session.close();
    const post = (body: string) => ask(`${path}/test_connection`, { method: 'POST', headers, body });
    expect((await post('{"__proto__":{"x":1}}')).status).toBe(400);
    expect((await post('{"constructor":{"prototype":{"x":1}}}')).status).toBe(400);
    expect((await post(' ')).status).toBe(400);
  });

  test('refuses bodies that are no JSON, of another type, or too large, and shows nothing of them', async () => {
    const path = '/api/postgres_databases/none/test_connection';
    const post = (body: string, type = 'application/json') =>
      ask(path, { method: 'POST', body, headers: { 'content-type': type } });
    const broken = await post('{"secret": hunter2');
    expect(broken).toEqual({ status: 400, body: { summary: 'The body is not valid JSON.' } });
    expect((await post('a=1', 'text/csv')).status).toBe(415);
    expect((await post(`"${'x'.repeat(5 * 2 ** 20)}"`)).status).toBe(413);
    expect((await ask('/health', {}, null)).status).toBe(200);
  });
});
