import { AppendInput, AppendRecord, type S2 } from '@s2-dev/streamstore';
import { expect, it } from 'vitest';
import { appendSession, encodeAppendInput, frame, recordsPath } from '../s2s-client.ts';
import { askHttp1, eventually, newBasin, serveForFile } from '../serve.ts';
import { openStream, refusal, sdkFor, textInput } from './sdk-client.ts';

/** Rows 112 to 117: access tokens, issued and used through the SDK. */

const served = await serveForFile({ auth: 'required' });
const root = sdkFor(served, served.store.firstRootToken!);
type Scope = Parameters<S2['accessTokens']['issue']>[0]['scope'];
const ALL: Scope = {
  basins: { prefix: '' },
  streams: { prefix: '' },
  accessTokens: { prefix: '' },
  opGroups: {
    account: { read: true, write: true },
    basin: { read: true, write: true },
    stream: { read: true, write: true },
  },
};
let tokens = 0;
/** A client with a new token of this scope. */
async function clientWith(
  scope: Scope,
  more: { expiresAt?: Date; autoPrefixStreams?: boolean } = {},
  by: S2 = root,
): Promise<S2> {
  const { accessToken } = await by.accessTokens.issue({ id: `token-${++tokens}`, scope, ...more });
  return sdkFor(served, accessToken);
}
const codeOf = async (run: Promise<unknown>) => {
  const { status, code } = await refusal(run);
  return [status, code];
};
const DENIED = [403, 'permission_denied'];

it('row 112: a token is issued with the union of groups and ops, and expires as asked or with its issuer', async () => {
  const id = 'a-reader';
  const scope: Scope = {
    basins: { prefix: 'a' },
    opGroups: { account: { read: true } },
    ops: ['append', 'list-basins'],
  };
  const issued = await askHttp1(served, '/v1/access-tokens', {
    method: 'POST',
    headers: { authorization: `Bearer ${served.store.firstRootToken}` },
    json: {
      id,
      scope: { basins: { prefix: 'a' }, op_groups: { account: { read: true } }, ops: ['append', 'list-basins'] },
    },
  });
  expect([issued.status, Object.keys(issued.json)]).toEqual([201, ['access_token']]);
  const reader = sdkFor(served, issued.json.access_token);
  expect((await reader.basins.list()).basins).toEqual([]);
  expect(await codeOf(reader.basins.create({ basin: 'a-new-basin' }))).toEqual(DENIED);
  expect(await codeOf(root.accessTokens.issue({ id, scope }))).toEqual([409, 'resource_already_exists']);
  expect(await codeOf(root.accessTokens.issue({ id: 'nothing', scope: {} }))).toEqual([422, 'invalid']);
  const [listed] = (await root.accessTokens.list({ prefix: id })).accessTokens;
  expect(listed).toMatchObject({ id, autoPrefixStreams: false, scope });
  expect(listed!.expiresAt ?? null).toBeNull();
  const expiresAt = new Date(Date.now() + 3_600_000);
  const brief = await clientWith(ALL, { expiresAt });
  await brief.accessTokens.issue({ id: 'child', scope: { ops: ['append'] } });
  const [child] = (await root.accessTokens.list({ prefix: 'child' })).accessTokens;
  expect(child!.expiresAt).toEqual(expiresAt);
  const soon = await clientWith(ALL, { expiresAt: new Date(Date.now() + 1_500) });
  await soon.basins.list();
  await eventually(() =>
    soon.basins.list().then(
      () => 'fine',
      ({ code }) => code,
    ),
  ).toBe('authn');
});

it('row 113: tokens are listed in pages, revoked at once with 204, and unknown ones are 404', async () => {
  for (const id of ['page-c', 'page-a', 'page-b']) await root.accessTokens.issue({ id, scope: { ops: ['read'] } });
  const page = await root.accessTokens.list({ prefix: 'page-', startAfter: 'page-a', limit: 1 });
  expect([page.accessTokens.map(({ id }) => id), page.hasMore]).toEqual([['page-b'], true]);
  const { accessToken } = await root.accessTokens.issue({ id: 'page-d', scope: ALL });
  const client = sdkFor(served, accessToken);
  await client.basins.list();
  const revoked = await askHttp1(served, '/v1/access-tokens/page-d', {
    method: 'DELETE',
    headers: { authorization: `Bearer ${served.store.firstRootToken}` },
  });
  expect([revoked.status, revoked.body.length, revoked.headers['content-type']]).toEqual([204, 0, undefined]);
  expect(await codeOf(client.basins.list())).toEqual([401, 'authn']);
  expect(await codeOf(root.accessTokens.revoke({ id: 'page-d' }))).toEqual([404, 'access_token_not_found']);
  await root.accessTokens.revoke({ id: 'page-a' });
});

it('row 114: nobody issues a token that may do more, reach further or live longer than his own', async () => {
  const limited = await clientWith(
    {
      basins: { prefix: 'mine-' },
      streams: { prefix: 'a' },
      accessTokens: { prefix: 'sub-' },
      ops: ['append', 'issue-access-token'],
    },
    { expiresAt: new Date(Date.now() + 60_000) },
  );
  const issue = (id: string, scope: Scope, expiresAt?: Date) =>
    limited.accessTokens.issue({ id, scope, ...(expiresAt === undefined ? {} : { expiresAt }) });
  for (const [id, scope, expiresAt] of [
    ['sub-1', { ops: ['read'] }],
    ['sub-1', { opGroups: { stream: { write: true } } }],
    ['sub-1', { basins: { prefix: '' }, ops: ['append'] }],
    ['sub-1', { basins: { exact: 'yours-basin' }, ops: ['append'] }],
    ['sub-1', { streams: { prefix: 'b' }, ops: ['append'] }],
    ['sub-1', { ops: ['append'] }, new Date(Date.now() + 120_000)],
    ['other-1', { ops: ['append'] }],
  ] as [string, Scope, Date?][]) {
    expect(await codeOf(issue(id, scope, expiresAt))).toEqual(DENIED);
  }
  await issue(
    'sub-1',
    { basins: { prefix: 'mine-2' }, streams: { exact: 'ab' }, ops: ['append'] },
    new Date(Date.now() + 30_000),
  );
});

it('row 115: auto_prefix_streams puts the prefix before what is asked for and takes it from what is shown', async () => {
  const basin = await newBasin(served);
  await served.store.createStream(basin, 'outside', {});
  const tenant = await clientWith({ ...ALL, streams: { prefix: 'tenant/' } }, { autoPrefixStreams: true });
  expect((await tenant.basin(basin).streams.create({ stream: 'mine' })).name).toBe('mine');
  await openStream(tenant, basin, 'mine').append(textInput('x'));
  await openStream(tenant, basin, 'by-append', 's2s').append(textInput('x'));
  expect((await openStream(root, basin, 'tenant/mine').checkTail()).tail.seqNum).toBe(1);
  const names = async (request: { prefix?: string; startAfter?: string }) =>
    (await tenant.basin(basin).streams.list(request)).streams.map(({ name }) => name);
  expect(await names({})).toEqual(['by-append', 'mine']);
  expect(await names({ prefix: 'mi' })).toEqual(['mine']);
  expect(await names({ prefix: 'tenant' })).toEqual([]);
  expect(await names({ startAfter: 'by-append' })).toEqual(['mine']);
  expect(await codeOf(tenant.basin(basin).streams.getConfig({ stream: 'outside' }))).toEqual([404, 'stream_not_found']);
  for (const streams of [{ exact: 'a' }, undefined]) {
    const scope = { ...(streams === undefined ? {} : { streams }), ops: ['read'] } as Scope;
    expect(await codeOf(root.accessTokens.issue({ id: 'no-prefix', autoPrefixStreams: true, scope }))).toEqual([
      422,
      'invalid',
    ]);
  }
});

it('row 116: commands inside an append need the permission to fence or trim', async () => {
  const basin = await newBasin(served);
  const scope: Scope = { basins: { exact: basin }, streams: { prefix: '' } };
  const trimmer = openStream(await clientWith({ ...scope, ops: ['append', 'trim'] }), basin, 's');
  await trimmer.append(AppendInput.create([AppendRecord.trim(0)]));
  expect(await codeOf(trimmer.append(AppendInput.create([AppendRecord.fence('mine')])))).toEqual(DENIED);
  const { accessToken } = await root.accessTokens.issue({
    id: 'fencer',
    scope: { ...scope, ops: ['append', 'fence'] },
  });
  const session = appendSession(served, basin, 's', { authorization: `Bearer ${accessToken}` });
  session.send(frame(encodeAppendInput({ records: [{ headers: [['', 'fence']], body: 'mine' }] })));
  session.send(frame(encodeAppendInput({ records: [{ body: 'x' }, { headers: [['', 'trim']], body: '12345678' }] })));
  await session.until(() => session.ended);
  expect(session.acks).toHaveLength(1);
  expect(session.terminal).toMatchObject({ status: 403, body: { code: 'permission_denied' } });
  expect((await openStream(root, basin, 's').checkTail()).tail.seqNum).toBe(2);
});

it('row 117: a resource set that is absent or exact "" is none, and prefix "" is all', async () => {
  const basin = await newBasin(served);
  await served.store.createStream(basin, 'log/1', {});
  const headers = { 's2-basin': basin };
  const ops = ['read', 'list-streams', 'list-basins', 'check-tail'] as const;
  const tail = async (scope: Scope) => {
    const { accessToken } = await root.accessTokens.issue({
      id: `token-${++tokens}`,
      scope: { ...scope, ops: [...ops] },
    });
    const authorization = `Bearer ${accessToken}`;
    return (await askHttp1(served, `${recordsPath('log/1')}/tail`, { headers: { ...headers, authorization } })).status;
  };
  const everything = { basins: { prefix: '' }, streams: { prefix: '' } };
  expect(await tail(everything)).toBe(200);
  expect(await tail({ basins: { exact: basin }, streams: { exact: 'log/1' } })).toBe(200);
  expect(await tail({ basins: { exact: basin }, streams: { prefix: 'log/' } })).toBe(200);
  expect(await tail({ basins: { exact: basin } })).toBe(403);
  expect(await tail({ streams: { prefix: '' } })).toBe(403);
  expect(await tail({ ...everything, streams: { exact: '' } })).toBe(403);
  expect(await tail({ ...everything, basins: { exact: '' } })).toBe(403);
  expect(await tail({ ...everything, streams: { exact: 'log' } })).toBe(403);
  expect(await tail({ ...everything, streams: { prefix: 'log/2' } })).toBe(403);
  const lister = await clientWith({ basins: { exact: basin }, streams: { prefix: 'l' }, ops: [...ops] });
  await newBasin(served);
  expect((await lister.basins.list()).basins.map(({ name }) => name)).toEqual([basin]);
});
