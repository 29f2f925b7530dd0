import http from 'node:http';
import { describe, expect, it } from 'vitest';
import type { AccessTokenScope } from '../src/model.ts';
import { appendSession, encodeAppendInput, frame, recordsPath } from './s2s-client.ts';
import { type Ask, askHttp1, newBasin, serveForFile } from './serve.ts';

const served = await serveForFile({ auth: 'required' });
const all = { read: true, write: true };
const NOTHING: AccessTokenScope = {
  basins: null,
  streams: null,
  accessTokens: null,
  opGroups: {
    account: { read: false, write: false },
    basin: { read: false, write: false },
    stream: { read: false, write: false },
  },
  ops: [],
};
const EVERYTHING: AccessTokenScope = {
  basins: { prefix: '' },
  streams: { prefix: '' },
  accessTokens: { prefix: '' },
  opGroups: { account: all, basin: all, stream: all },
  ops: [],
};

let tokens = 0;

async function issue(
  scope: AccessTokenScope,
  more: { expiresAt?: number; autoPrefixStreams?: boolean } = {},
): Promise<string> {
  return served.store.issueAccessToken({
    id: `token-${++tokens}`,
    expiresAt: more.expiresAt ?? null,
    autoPrefixStreams: more.autoPrefixStreams ?? false,
    scope,
  });
}

const admin = await issue(EVERYTHING);

const ask = (secret: string, path: string, request: Ask = {}) =>
  askHttp1(served, path, { ...request, headers: { authorization: `Bearer ${secret}`, ...request.headers } });

const codeOf = async (answer: ReturnType<typeof ask>): Promise<string> => {
  const { status, text } = await answer;
  return status < 300 ? 'ok' : JSON.parse(text).code;
};

describe('a request', () => {
  it('without a valid token is refused with authn, wherever it goes', async () => {
    const expired = await issue(EVERYTHING, { expiresAt: Date.now() - 1 });
    for (const authorization of [
      undefined,
      'Bearer',
      'Bearer ',
      'Bearer nonsense',
      `Basic ${admin}`,
      admin,
      `Bearer ${expired}`,
    ]) {
      for (const path of ['/v1/basins', '/v1/streams', '/v1/nothing-here']) {
        const answer = await askHttp1(served, path, { headers: authorization === undefined ? {} : { authorization } });
        expect([answer.status, answer.json.code]).toEqual([401, 'authn']);
        expect(answer.text).not.toContain('nonsense');
      }
    }
  });

  it('for health or metrics needs no token', async () => {
    expect((await askHttp1(served, '/health')).status).toBe(200);
  });
});

describe('a token that may append to one basin', () => {
  it('appends there and does nothing else anywhere', async () => {
    const basin = await newBasin(served);
    const other = await newBasin(served);
    const secret = await issue({ ...NOTHING, basins: { exact: basin }, streams: { prefix: '' }, ops: ['append'] });
    const append = (to: string) =>
      codeOf(
        ask(secret, recordsPath('s'), {
          method: 'POST',
          headers: { 's2-basin': to },
          json: { records: [{ body: 'x' }] },
        }),
      );
    expect(await append(basin)).toBe('ok');
    expect(await append(other)).toBe('permission_denied');
    const headers = { 's2-basin': basin };
    const refused: [string, Ask][] = [
      [recordsPath('s', 'seq_num=0'), { headers }],
      [`${recordsPath('s')}/tail`, { headers }],
      ['/v1/streams', { headers }],
      ['/v1/streams', { method: 'POST', headers, json: { stream: 'made' } }],
      ['/v1/streams/s', { headers }],
      ['/v1/streams/s', { method: 'PUT', headers }],
      ['/v1/streams/s', { method: 'PATCH', headers, json: {} }],
      ['/v1/streams/s', { method: 'DELETE', headers }],
      ['/v1/basins', {}],
      ['/v1/basins', { method: 'POST', json: { basin: 'made-basin' } }],
      [`/v1/basins/${basin}`, {}],
      [`/v1/basins/${basin}`, { method: 'PUT' }],
      [`/v1/basins/${basin}`, { method: 'PATCH', json: {} }],
      [`/v1/basins/${basin}`, { method: 'DELETE' }],
      ['/v1/access-tokens', {}],
      ['/v1/access-tokens', { method: 'POST', json: { id: 'x', scope: { ops: ['append'] } } }],
      ['/v1/access-tokens/x', { method: 'DELETE' }],
    ];
    for (const [path, request] of refused)
      expect([path, await codeOf(ask(secret, path, request))]).toEqual([path, 'permission_denied']);
    expect(served.store.listBasins({ prefix: 'made' }).items).toEqual([]);
  });

  it('may not fence or trim, neither in a request nor in a session', async () => {
    const basin = await newBasin(served);
    const headers = { 's2-basin': basin };
    const secret = await issue({
      ...NOTHING,
      basins: { exact: basin },
      streams: { prefix: '' },
      ops: ['append', 'trim'],
    });
    const append = (name: string, body: string) =>
      codeOf(
        ask(secret, recordsPath('s'), {
          method: 'POST',
          headers,
          json: { records: [{ headers: [['', name]], body }] },
        }),
      );
    expect(await append('fence', 'me')).toBe('permission_denied');
    expect(await append('trim', '\0\0\0\0\0\0\0\0')).toBe('ok');
    const session = appendSession(served, basin, 's', { authorization: `Bearer ${secret}` });
    session.send(frame(encodeAppendInput({ records: [{ body: 'x' }] })));
    session.send(frame(encodeAppendInput({ records: [{ headers: [['', 'fence']], body: 'me' }] })));
    await session.until(() => session.ended);
    expect(session.acks).toHaveLength(1);
    expect(session.terminal).toMatchObject({ status: 403, body: { code: 'permission_denied' } });
  });
});

describe('listings', () => {
  it('show only what the scope covers', async () => {
    const basin = await newBasin(served);
    for (const stream of ['a/1', 'a/2', 'b/1']) await served.store.createStream(basin, stream, {});
    const headers = { 's2-basin': basin };
    const scope = { ...EVERYTHING, basins: { exact: basin }, streams: { prefix: 'a/' } };
    const secret = await issue(scope);
    const names = async (path: string, field: string, secret: string) =>
      (await ask(secret, path, { headers })).json[field].map(({ name }: { name: string }) => name);
    expect(await names('/v1/streams', 'streams', secret)).toEqual(['a/1', 'a/2']);
    expect(await names('/v1/streams?prefix=b', 'streams', secret)).toEqual([]);
    expect(await names('/v1/streams?prefix=a%2F2', 'streams', secret)).toEqual(['a/2']);
    expect(await names('/v1/basins', 'basins', secret)).toEqual([basin]);
    const exact = await issue({ ...scope, streams: { exact: 'a/1' } });
    expect(await names('/v1/streams', 'streams', exact)).toEqual(['a/1']);
    expect(await names('/v1/streams?start_after=a%2F1', 'streams', exact)).toEqual([]);
  });
});

describe('a token with auto_prefix_streams', () => {
  it('sees its streams without the prefix and no others', async () => {
    const basin = await newBasin(served);
    await served.store.createStream(basin, 'outside', {});
    const secret = await issue({ ...EVERYTHING, streams: { prefix: 'tenant/' } }, { autoPrefixStreams: true });
    const headers = { 's2-basin': basin };
    const made = await ask(secret, '/v1/streams', { method: 'POST', headers, json: { stream: 'mine' } });
    expect([made.status, made.json.name]).toEqual([201, 'mine']);
    const append = { method: 'POST', headers, json: { records: [{ body: 'x' }] } };
    expect((await ask(secret, recordsPath('mine'), append)).status).toBe(200);
    expect((await ask(admin, recordsPath('tenant/mine', 'seq_num=0'), { headers })).json.records).toHaveLength(1);
    const list = async (query: string) =>
      (await ask(secret, `/v1/streams?${query}`, { headers })).json.streams.map(({ name }: { name: string }) => name);
    expect(await list('')).toEqual(['mine']);
    expect(await list('prefix=mi')).toEqual(['mine']);
    expect(await list('prefix=tenant')).toEqual([]);
    expect(await list('start_after=mine')).toEqual([]);
    expect(await codeOf(ask(secret, '/v1/streams/outside', { headers }))).toBe('stream_not_found');
  });

  it('needs a prefix as its stream scope', async () => {
    const json = { id: 'no-prefix', auto_prefix_streams: true, scope: { streams: { exact: 'a' }, ops: ['read'] } };
    expect(await codeOf(ask(admin, '/v1/access-tokens', { method: 'POST', json }))).toBe('invalid');
  });
});

describe('issuing', () => {
  const issueOverHttp = (secret: string, json: unknown) => ask(secret, '/v1/access-tokens', { method: 'POST', json });

  it('gives a secret that works until it is revoked', async () => {
    const scope = { basins: { prefix: '' }, op_groups: { account: { read: true } } };
    const answer = await issueOverHttp(admin, { id: 'reader', scope });
    expect(answer.status).toBe(201);
    expect(Object.keys(answer.json)).toEqual(['access_token']);
    const secret = answer.json.access_token;
    expect((await ask(secret, '/v1/basins')).status).toBe(200);
    expect(await codeOf(issueOverHttp(admin, { id: 'reader', scope }))).toBe('resource_already_exists');
    const listed = (await ask(admin, '/v1/access-tokens?prefix=reader')).json.access_tokens;
    expect(listed).toEqual([
      {
        id: 'reader',
        expires_at: null,
        auto_prefix_streams: false,
        scope: {
          basins: { prefix: '' },
          streams: null,
          access_tokens: null,
          op_groups: {
            account: { read: true, write: false },
            basin: { read: false, write: false },
            stream: { read: false, write: false },
          },
          ops: [],
        },
      },
    ]);
    const revoked = await ask(admin, '/v1/access-tokens/reader', { method: 'DELETE' });
    expect([revoked.status, revoked.text, revoked.headers['content-type']]).toEqual([204, '', undefined]);
    expect((await ask(secret, '/v1/basins')).status).toBe(401);
    expect(await codeOf(ask(admin, '/v1/access-tokens/reader', { method: 'DELETE' }))).toBe('access_token_not_found');
  });

  it.each([
    ['an operation the requester lacks', { scope: { ops: ['delete-basin'] } }],
    ['more basins', { scope: { basins: { prefix: '' }, ops: ['append'] } }],
    ['other streams', { scope: { streams: { prefix: 'b' }, ops: ['append'] } }],
    ['a longer life', { expires_at: '2999-01-01T00:00:00Z', scope: { ops: ['append'] } }],
  ])('is refused for %s', async (_what, request) => {
    const limited = await issue(
      {
        ...NOTHING,
        basins: { exact: 'my-basin' },
        streams: { prefix: 'a' },
        accessTokens: { prefix: '' },
        ops: ['append', 'issue-access-token'],
      },
      { expiresAt: Date.now() + 60_000 },
    );
    expect(await codeOf(issueOverHttp(limited, { id: `wide-${++tokens}`, ...request }))).toBe('permission_denied');
    expect(
      await codeOf(
        issueOverHttp(limited, { id: `fine-${++tokens}`, scope: { streams: { prefix: 'ab' }, ops: ['append'] } }),
      ),
    ).toBe('ok');
  });

  it('is refused when the token it is asked with was revoked while the request was under way', async () => {
    const secret = await issue(EVERYTHING);
    const revoked = `token-${tokens}`;
    const body = JSON.stringify({ id: 'too-late', scope: { ops: ['read'] } });
    const status = await new Promise<number | undefined>((resolve, reject) => {
      const headers = {
        authorization: `Bearer ${secret}`,
        'content-type': 'application/json',
        'content-length': body.length,
        expect: '100-continue',
      };
      const options = { port: served.port, path: '/v1/access-tokens', method: 'POST', headers, agent: false };
      const request = http.request(options, (response) => {
        response.resume();
        response.on('end', () => resolve(response.statusCode));
      });
      request.on('error', reject);
      // By then the server has let the request in.
      request.on('continue', () => {
        void served.store.revokeAccessToken(revoked).then(() => request.end(body));
      });
      request.flushHeaders();
    });
    expect(status).toBe(401);
    expect(served.store.listAccessTokens({ prefix: 'too-late' }).items).toEqual([]);
  });

  it.each([
    ['a basin that cannot be', { basins: { exact: 'B' } }],
    ['a basin prefix that cannot be', { basins: { prefix: '-a' } }],
    ['a stream name that is too long', { streams: { exact: 'x'.repeat(513) } }],
    ['a stream prefix that is too long', { streams: { prefix: 'x'.repeat(513) } }],
    ['a token id that cannot be', { access_tokens: { exact: '..' } }],
    ['two sets in one', { streams: { exact: 'a', prefix: 'a' } }],
    ['an unknown operation', { ops: ['read', 'fly'] }],
  ])('is refused for %s', async (_what, part) => {
    const json = { id: `odd-${++tokens}`, scope: { ops: ['read'], ...part } };
    expect(await codeOf(issueOverHttp(admin, json))).toBe('bad_json');
  });

  it('keeps an operation once, however often it is named', async () => {
    const ops = Array.from({ length: 5000 }, (_, i) => (i % 2 === 0 ? 'read' : 'append'));
    await issueOverHttp(admin, { id: 'often', scope: { ops } });
    expect((await ask(admin, '/v1/access-tokens?prefix=often')).json.access_tokens[0].scope.ops).toEqual([
      'read',
      'append',
    ]);
  });

  it('lives as long as the requester when no expiry is given', async () => {
    const expiresAt = Math.floor(Date.now() / 1000) * 1000 + 60_000;
    const requester = await issue(EVERYTHING, { expiresAt });
    await issueOverHttp(requester, { id: 'child', scope: { ops: ['append'] } });
    const listed = (await ask(admin, '/v1/access-tokens?prefix=child')).json.access_tokens;
    expect(listed[0].expires_at).toBe(new Date(expiresAt).toISOString());
  });

  it('is refused without any operation, and with a time that is none', async () => {
    expect(await codeOf(issueOverHttp(admin, { id: 'empty', scope: {} }))).toBe('invalid');
    expect(await codeOf(issueOverHttp(admin, { id: 'when', expires_at: 'soon', scope: { ops: ['read'] } }))).toBe(
      'bad_json',
    );
  });
});
