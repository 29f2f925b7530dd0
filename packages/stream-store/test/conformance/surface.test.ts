import { expect, it } from 'vitest';
import { recordsPath } from '../s2s-client.ts';
import { type Ask, askHttp1, askHttp2, newBasin, serve, serveForFile } from '../serve.ts';
import { openStream, refusal, sdkFor, take, textInput } from './sdk-client.ts';

/** Rows 1 to 9: ports, paths, names. */

const served = await serveForFile();
const s2 = sdkFor(served);
const code = async (answer: ReturnType<typeof askHttp1>) => {
  const { status, text } = await answer;
  return status < 300 ? status : [status, JSON.parse(text).code];
};

it('row 01: HTTP/1.1 and cleartext HTTP/2 by prior knowledge share one port, as the SDK expects', async () => {
  expect((await askHttp1(served, '/health')).text).toBe('OK');
  expect((await askHttp2(served, '/health')).text).toBe('OK');
  // Management goes over HTTP/1.1, sessions over HTTP/2, to the same origin.
  const basin = await newBasin(served);
  await s2.basin(basin).streams.create({ stream: 'both' });
  const stream = openStream(s2, basin, 'both', 's2s');
  const session = await stream.appendSession();
  await (await session.submit(textInput('over h2'))).ack();
  await session.close();
  expect((await stream.read({ start: { from: { seqNum: 0 } } })).records.map(({ body }) => body)).toEqual(['over h2']);
});

it('row 02: every route of the API is under /v1 and nowhere else', async () => {
  const headers = { 's2-basin': await newBasin(served) };
  for (const path of ['/basins', '/streams', '/streams/s/records/tail', '/access-tokens']) {
    expect(await code(askHttp1(served, `/v1${path}`, { headers }))).toBe(200);
    for (const elsewhere of [path, `/v2${path}`, `/V1${path}`, `//v1${path}`]) {
      expect(await code(askHttp1(served, elsewhere, { headers }))).toEqual([404, 'not_found']);
    }
  }
});

it('row 03: every streams route needs the s2-basin header, and no other route does', async () => {
  const routes: [string, Ask][] = [
    ['/v1/streams', {}],
    ['/v1/streams', { method: 'POST', json: { stream: 's' } }],
    ['/v1/streams/s', {}],
    ['/v1/streams/s', { method: 'PUT' }],
    ['/v1/streams/s', { method: 'PATCH', json: {} }],
    ['/v1/streams/s', { method: 'DELETE' }],
    [recordsPath('s'), {}],
    [recordsPath('s'), { method: 'POST', json: { records: [{}] } }],
    [`${recordsPath('s')}/tail`, {}],
  ];
  for (const ask of [askHttp1, askHttp2]) {
    for (const [path, request] of routes) {
      expect(await code(ask(served, path, request))).toEqual([400, 'bad_header']);
      for (const invalid of ['', 'short', 'UPPER-CASE', `-${'a'.repeat(10)}`, 'a'.repeat(49)]) {
        expect(await code(ask(served, path, { ...request, headers: { 's2-basin': invalid } }))).toEqual([
          400,
          'bad_header',
        ]);
      }
    }
    expect(await code(ask(served, '/v1/basins'))).toBe(200);
    expect(await code(ask(served, '/v1/access-tokens'))).toBe(200);
  }
});

it('row 04: the first label of the host names the basin when no header does', async () => {
  const basin = await newBasin(served);
  const other = await newBasin(served);
  await served.store.createStream(basin, 'here', {});
  for (const [ask, key] of [
    [askHttp1, 'host'],
    [askHttp2, ':authority'],
  ] as const) {
    const names = async (headers: Record<string, string>) => {
      const { status, json } = await ask(served, '/v1/streams', { headers });
      return status === 200 ? json.streams.map(({ name }: { name: string }) => name) : [status, json.code];
    };
    expect(await names({ [key]: `${basin}.b.example.com` })).toEqual(['here']);
    expect(await names({ [key]: `${basin}.b.example.com:8080` })).toEqual(['here']);
    expect(await names({ [key]: `${basin}.b.example.com`, 's2-basin': other })).toEqual([]);
    expect(await names({ [key]: '127.0.0.1' })).toEqual([400, 'bad_header']);
    expect(await names({ [key]: basin })).toEqual([400, 'bad_header']);
    expect(await names({ [key]: 'unknown-basin.example.com' })).toEqual([404, 'basin_not_found']);
  }
});

it('row 05: a missing or invalid bearer token is 401 authn where tokens are checked, and ignored where not', async () => {
  const checking = await serve({ auth: 'required' });
  try {
    const root = checking.store.firstRootToken!;
    expect((await refusal(sdkFor(checking, 'nonsense').basins.list())).status).toBe(401);
    expect((await refusal(sdkFor(checking, 'nonsense').basins.list())).code).toBe('authn');
    expect(await code(askHttp1(checking, '/v1/basins'))).toEqual([401, 'authn']);
    expect((await sdkFor(checking, root).basins.list()).basins).toEqual([]);
    const session = await refusal(
      openStream(sdkFor(checking, 'nonsense'), 'some-basin', 's', 's2s')
        .readSession()
        .then((read) => take(read, 1)),
    );
    expect(session.status).toBe(401);
  } finally {
    await checking.stop();
  }
  expect((await sdkFor(served, 'nonsense').basins.list({ prefix: 'none-' })).basins).toEqual([]);
});

it('row 06: a basin name has 8 to 48 of a-z, 0-9 and hyphens, none at the edges', async () => {
  const valid = ['abcdefgh', '12345678', 'a-b-c-d-', 'z'.repeat(48), '0--------0'].map((name) =>
    name.replace(/-$/, '9'),
  );
  for (const name of valid) expect((await s2.basins.create({ basin: name })).name).toBe(name);
  const invalid = [
    'abcdefg',
    'z'.repeat(49),
    '-abcdefg',
    'abcdefg-',
    'Abcdefgh',
    'abcd_fgh',
    'abcd.fgh',
    'abcdéfgh',
    '',
  ];
  for (const name of invalid) {
    const inBody = askHttp1(served, '/v1/basins', { method: 'POST', json: { basin: name } });
    expect(await code(inBody)).toEqual([400, 'bad_json']);
    for (const method of ['GET', 'PUT', 'DELETE']) {
      const inPath = askHttp1(served, `/v1/basins/${encodeURIComponent(name)}`, { method });
      expect(await code(inPath)).toEqual([400, 'bad_path']);
    }
  }
});

it('row 07: a stream name is 1 to 512 bytes of UTF-8, percent-decoded from the path, but neither . nor ..', async () => {
  const headers = { 's2-basin': await newBasin(served) };
  const streams = s2.basin(headers['s2-basin']).streams;
  const valid = ['s', 'a/b//c', ' ', 'ü%?#&+=', '😀', '...', '.a', 'x'.repeat(512), 'é'.repeat(256), '\x01\n'];
  for (const name of valid) {
    expect((await streams.create({ stream: name })).name).toBe(name);
    expect(await streams.getConfig({ stream: name })).toBeDefined();
  }
  const listed: string[] = [];
  for await (const { name } of streams.listAll()) listed.push(name);
  expect(listed.toSorted()).toEqual(valid.toSorted());
  for (const segment of [
    '',
    '%2e',
    '%2E%2e',
    'x'.repeat(513),
    '%C3%A9'.repeat(257),
    '%ff',
    '%zz',
    '%',
    '%ed%a0%80',
    'a%00b',
  ]) {
    expect(await code(askHttp1(served, `/v1/streams/${segment}`, { headers }))).toEqual([400, 'bad_path']);
  }
  for (const name of ['', '.', '..', 'x'.repeat(513), 'é'.repeat(257), '\ud800', 'a\0b']) {
    const made = askHttp1(served, '/v1/streams', { method: 'POST', headers, json: { stream: name } });
    expect(await code(made)).toEqual([400, 'bad_json']);
  }
});

it('row 08: prefix and start_after are bounded and may be short or end in a hyphen, else bad_query', async () => {
  const headers = { 's2-basin': await newBasin(served) };
  const list = (path: string, key: string, value: string) =>
    code(askHttp1(served, `/v1/${path}?${key}=${encodeURIComponent(value)}`, { headers }));
  for (const key of ['prefix', 'start_after']) {
    for (const fine of ['', 'a', 'a-', '9-', 'z'.repeat(48)]) expect(await list('basins', key, fine)).toBe(200);
    for (const bad of ['-a', 'A', 'a_', 'a/b', 'z'.repeat(49)]) {
      expect(await list('basins', key, bad)).toEqual([400, 'bad_query']);
    }
    for (const fine of ['', '.', '..', 'ü', 'x'.repeat(512)]) expect(await list('streams', key, fine)).toBe(200);
    for (const bad of ['x'.repeat(513), 'é'.repeat(257)]) {
      expect(await list('streams', key, bad)).toEqual([400, 'bad_query']);
    }
    expect(await list('access-tokens', key, 'x'.repeat(96))).toBe(200);
    expect(await list('access-tokens', key, 'x'.repeat(97))).toEqual([400, 'bad_query']);
  }
});

it('row 09: a list limit that is absent, 0 or above 1000 means 1000', async () => {
  const basin = await newBasin(served);
  await Promise.all(Array.from({ length: 1003 }, (_, i) => served.store.createStream(basin, `s${i}`, {})));
  const headers = { 's2-basin': basin };
  const page = async (query: string) => {
    const { json } = await askHttp1(served, `/v1/streams${query}`, { headers });
    return [json.streams.length, json.has_more];
  };
  for (const query of ['', '?limit=0', '?limit=1000', '?limit=1001', '?limit=18446744073709551615']) {
    expect(await page(query)).toEqual([1000, true]);
  }
  expect(await page('?limit=1')).toEqual([1, true]);
  for (const limit of ['-1', '1.5', 'x', '18446744073709551616']) {
    expect(await code(askHttp1(served, `/v1/streams?limit=${limit}`, { headers }))).toEqual([400, 'bad_query']);
  }
  let listed = 0;
  for await (const _ of s2.basin(basin).streams.listAll()) listed++;
  expect(listed).toBe(1003);
});
