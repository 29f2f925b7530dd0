import { describe, expect, it } from 'vitest';
import { encodeAppendInput, recordsPath } from './s2s-client.ts';
import { type Ask, askHttp1, askHttp2, newBasin, serveForFile } from './serve.ts';

const served = await serveForFile();
const basin = await newBasin(served);
const inBasin = { 's2-basin': basin };

interface Case extends Ask {
  readonly path: string;
  readonly expected: readonly [status: number, code: string];
}

const post = (path: string, json: unknown, headers: Record<string, string> = inBasin) => ({
  path,
  method: 'POST',
  json,
  headers,
});
const appended = (json: unknown, headers: Record<string, string> = {}) =>
  post(recordsPath('s'), json, { ...inBasin, ...headers });

const cases: Record<string, Case> = {
  'a basin name in the path with capitals': { path: '/v1/basins/NOT-VALID', expected: [400, 'bad_path'] },
  'a path that is not percent-encoded': { path: '/v1/basins/%zz', expected: [400, 'bad_path'] },
  'a stream name of two dots': { path: '/v1/streams/%2e%2e', headers: inBasin, expected: [400, 'bad_path'] },
  'a stream name of 513 bytes': {
    path: `/v1/streams/${'s'.repeat(513)}`,
    headers: inBasin,
    expected: [400, 'bad_path'],
  },
  'a basin name in a body that is too short': {
    ...post('/v1/basins', { basin: 'short' }),
    expected: [400, 'bad_json'],
  },
  'a missing field': { ...post('/v1/basins', {}), expected: [400, 'bad_json'] },
  'a body that is no JSON': {
    path: '/v1/basins',
    method: 'POST',
    body: '{',
    headers: { 'content-type': 'application/json' },
    expected: [400, 'bad_json'],
  },
  'a JSON route without a content type': {
    path: '/v1/basins',
    method: 'POST',
    body: '{}',
    expected: [400, 'bad_json'],
  },
  'null for create_stream_on_append': {
    path: `/v1/basins/${basin}`,
    method: 'PATCH',
    json: { create_stream_on_append: null },
    expected: [400, 'bad_json'],
  },
  'a storage class that does not exist': {
    ...post('/v1/streams', { stream: 'x', config: { storage_class: 'slow' } }),
    expected: [400, 'bad_json'],
  },
  'a list prefix with capitals': { path: '/v1/basins?prefix=ABC', expected: [400, 'bad_query'] },
  'a limit that is no number': { path: '/v1/basins?limit=many', expected: [400, 'bad_query'] },
  'no basin': { path: '/v1/streams', expected: [400, 'bad_header'] },
  'an invalid basin header': {
    path: '/v1/streams',
    headers: { 's2-basin': 'UPPER-CASE' },
    expected: [400, 'bad_header'],
  },
  'a request token of 37 bytes': {
    ...post('/v1/basins', { basin: 'some-basin' }, { 's2-request-token': 't'.repeat(37) }),
    expected: [400, 'bad_header'],
  },
  'an unknown record format': { ...appended({ records: [{}] }, { 's2-format': 'hex' }), expected: [400, 'bad_header'] },
  'a stream config header that is no config': {
    ...appended({ records: [{}] }, { 's2-stream-config': '{"storage_class":1}' }),
    expected: [400, 'bad_header'],
  },
  'protobuf that is none': {
    path: recordsPath('s'),
    method: 'POST',
    body: Buffer.from([0xff]),
    headers: { ...inBasin, 'content-type': 'application/protobuf' },
    expected: [400, 'bad_proto'],
  },
  'a body that is not encoded as it says': {
    ...appended({ records: [{}] }, { 'content-encoding': 'gzip' }),
    expected: [400, 'bad_header'],
  },
  'an unknown basin': { path: '/v1/basins/unknown-basin', expected: [404, 'basin_not_found'] },
  'the streams of an unknown basin': {
    path: '/v1/streams',
    headers: { 's2-basin': 'unknown-basin' },
    expected: [404, 'basin_not_found'],
  },
  'an unknown stream': { path: '/v1/streams/unknown', headers: inBasin, expected: [404, 'stream_not_found'] },
  'an unknown access token': {
    path: '/v1/access-tokens/unknown',
    method: 'DELETE',
    expected: [404, 'access_token_not_found'],
  },
  'a basin that exists': { ...post('/v1/basins', { basin }), expected: [409, 'resource_already_exists'] },
  'a retention of zero seconds': {
    ...post('/v1/streams', { stream: 'x', config: { retention_policy: { age: 0 } } }),
    expected: [422, 'invalid'],
  },
  'an empty batch': { ...appended({ records: [] }), expected: [422, 'invalid'] },
  'bad base64': { ...appended({ records: [{ body: '*' }] }, { 's2-format': 'base64' }), expected: [422, 'invalid'] },
  'a fencing token of 37 bytes': {
    ...appended({ records: [{}], fencing_token: 'f'.repeat(37) }),
    expected: [422, 'invalid'],
  },
  'a location that does not exist': {
    ...post('/v1/basins', { basin: 'some-basin', location: 'moon' }),
    expected: [422, 'invalid'],
  },
  locations: { path: '/v1/locations', expected: [501, 'not_implemented'] },
  'the metrics API': { path: '/v1/metrics?set=active-basins', expected: [501, 'not_implemented'] },
  'a path that does not exist': { path: '/v1/nothing', expected: [404, 'not_found'] },
  'a method a path does not have': { path: '/v1/basins', method: 'DELETE', expected: [405, 'method_not_allowed'] },
};

describe.each([
  ['HTTP/1.1', askHttp1],
  ['HTTP/2', askHttp2],
])('over %s', (_name, ask) => {
  it.each(Object.entries(cases))(
    '%s is refused with the right status and code',
    async (_what, { path, expected, ...request }) => {
      const answer = await ask(served, path, request);
      expect([answer.status, answer.json.code]).toEqual(expected);
      expect(Object.keys(answer.json)).toEqual(['code', 'message']);
      expect(answer.headers['content-type']).toBe('application/json');
    },
  );

  it('answers with nothing but a status where there is nothing to say', async () => {
    const name = await newBasin(served);
    const headers = { 's2-basin': name };
    await served.store.createStream(name, 's', {});
    const stream = await ask(served, '/v1/streams/s', { method: 'DELETE', headers });
    const gone = await ask(served, `/v1/basins/${name}`, { method: 'DELETE' });
    for (const answer of [stream, gone]) {
      expect(answer.status).toBe(202);
      expect(answer.body).toHaveLength(0);
      expect(answer.headers['content-type']).toBeUndefined();
    }
  });

  it('shows what would have matched in the body of a 412', async () => {
    const headers = { 's2-basin': await newBasin(served) };
    const append = (json: unknown) => ask(served, recordsPath('s'), { method: 'POST', headers, json });
    expect((await append({ records: [{ body: 'x' }], match_seq_num: 0 })).status).toBe(200);
    const mismatch = await append({ records: [{ body: 'x' }], match_seq_num: 0 });
    expect([mismatch.status, mismatch.text]).toEqual([412, '{"seq_num_mismatch":1}']);
    await append({ records: [{ headers: [['', 'fence']], body: 'mine' }] });
    const fenced = await append({ records: [{ body: 'x' }], fencing_token: '', match_seq_num: 99 });
    expect([fenced.status, fenced.text]).toEqual([412, '{"fencing_token_mismatch":"mine"}']);
  });

  it('compares a match_seq_num of 2^64-1 without rounding', async () => {
    const headers = { 's2-basin': await newBasin(served), 'content-type': 'application/json' };
    const body = '{"records":[{"body":"x"}],"match_seq_num":18446744073709551615}';
    const answer = await ask(served, recordsPath('s'), { method: 'POST', headers, body });
    expect([answer.status, answer.text]).toEqual([412, '{"seq_num_mismatch":0}']);
  });

  it('keeps timestamps beyond 2^63 exact on the way in and out', async () => {
    const name = await newBasin(served, { defaultStreamConfig: { timestampingUncapped: true } });
    const headers = { 's2-basin': name, 'content-type': 'application/json' };
    const body = '{"records":[{"body":"x","timestamp":9223372036854775809}]}';
    const ack = await ask(served, recordsPath('s'), { method: 'POST', headers, body });
    expect(ack.text).toContain('"end":{"seq_num":1,"timestamp":9223372036854775809}');
    const read = await ask(served, recordsPath('s', 'timestamp=9223372036854775809'), {
      headers: { 's2-basin': name },
    });
    expect(read.text).toContain('"timestamp":9223372036854775809,"body":"x"');
    const tail = await ask(served, `${recordsPath('s')}/tail`, { headers: { 's2-basin': name } });
    expect(tail.text).toBe('{"tail":{"seq_num":1,"timestamp":9223372036854775809}}');
  });

  it('answers an append in protobuf when asked to, whatever the append was in', async () => {
    const headers = { 's2-basin': await newBasin(served) };
    const proto = { ...headers, 'content-type': 'application/x-protobuf' };
    const body = encodeAppendInput({ records: [{ body: 'x' }] });
    const asJson = await ask(served, recordsPath('s'), { method: 'POST', headers: proto, body });
    expect(asJson.json.end.seq_num).toBe(1);
    const asProto = await ask(served, recordsPath('s'), {
      method: 'POST',
      headers: { ...headers, accept: 'application/protobuf, application/json' },
      json: { records: [{ body: 'y' }] },
    });
    expect(asProto.headers['content-type']).toBe('application/protobuf');
    expect(asProto.body[0]).toBe(0x0a);
  });

  it('takes basin and stream names as they come, percent-encoded', async () => {
    const headers = { 's2-basin': await newBasin(served) };
    const name = 'a/b ü?&#%+';
    const made = await ask(served, '/v1/streams', { method: 'POST', headers, json: { stream: name } });
    expect([made.status, made.json.name]).toEqual([201, name]);
    const config = await ask(served, `/v1/streams/${encodeURIComponent(name)}`, { headers });
    expect(config.json).toEqual({
      storage_class: 'express',
      retention_policy: { age: 604800 },
      timestamping: { mode: 'client-prefer', uncapped: false },
      delete_on_empty: { min_age_secs: 0 },
    });
  });

  it('applies the stream config header to a stream it creates on the way', async () => {
    const headers = { 's2-basin': await newBasin(served) };
    const config = { 's2-stream-config': '{"retention_policy":{"age":77},"storage_class":"standard"}' };
    await ask(served, recordsPath('s'), {
      method: 'POST',
      headers: { ...headers, ...config },
      json: { records: [{}] },
    });
    const made = await ask(served, '/v1/streams/s', { headers });
    expect(made.json).toMatchObject({ storage_class: 'standard', retention_policy: { age: 77 } });
  });

  it('creates idempotently with a request token, and says what it did', async () => {
    const name = `token-basin-${_name === 'HTTP/2' ? 2 : 1}`;
    const create = (token: string) =>
      ask(served, '/v1/basins', { method: 'POST', json: { basin: name }, headers: { 's2-request-token': token } });
    const first = await create('one');
    expect([first.status, first.headers['s2-provision-result']]).toEqual([201, 'created']);
    expect(first.json).toEqual({
      name,
      location: null,
      created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
      deleted_at: null,
      state: 'active',
    });
    const again = await create('one');
    expect([again.status, again.headers['s2-provision-result']]).toEqual([200, 'noop']);
    expect((await create('two')).status).toBe(409);
  });

  it('takes a basin by the first label of the host name when there is no header', async () => {
    const name = await newBasin(served);
    const key = _name === 'HTTP/2' ? ':authority' : 'host';
    const answer = await ask(served, '/v1/streams', { headers: { [key]: `${name}.b.example.com` } });
    expect([answer.status, answer.text]).toEqual([200, '{"streams":[],"has_more":false}']);
  });

  it('sends back a fetched basin config as a noop', async () => {
    const name = await newBasin(served, { defaultStreamConfig: { retentionSecs: 5, timestampingMode: 'arrival' } });
    const config = (await ask(served, `/v1/basins/${name}`)).json;
    const ensured = await ask(served, `/v1/basins/${name}`, { method: 'PUT', json: { config } });
    expect([ensured.status, ensured.headers['s2-provision-result']]).toEqual([200, 'noop']);
  });

  it('reconfigures in three states: keep, set, reset', async () => {
    const headers = { 's2-basin': await newBasin(served, { defaultStreamConfig: { retentionSecs: 9 } }) };
    await ask(served, '/v1/streams', {
      method: 'POST',
      headers,
      json: {
        stream: 's',
        config: { retention_policy: { infinite: {} }, timestamping: { mode: 'arrival', uncapped: true } },
      },
    });
    const patch = (json: unknown) => ask(served, '/v1/streams/s', { method: 'PATCH', headers, json });
    expect((await patch({ timestamping: { uncapped: null } })).json).toMatchObject({
      retention_policy: { infinite: {} },
      timestamping: { mode: 'arrival', uncapped: false },
    });
    expect((await patch({ retention_policy: null, delete_on_empty: { min_age_secs: 5 } })).json).toMatchObject({
      retention_policy: { age: 9 },
      timestamping: { mode: 'arrival', uncapped: false },
      delete_on_empty: { min_age_secs: 5 },
    });
  });

  it('answers health checks and shows metrics', async () => {
    expect((await ask(served, '/health')).text).toBe('OK');
    expect((await ask(served, '/ping')).status).toBe(200);
    const metrics = await ask(served, '/metrics');
    expect(metrics.text).toMatch(/^s2_append_ack_latency_seconds_count \d+$/m);
    expect(metrics.text).toMatch(/^process_resident_memory_bytes \d+$/m);
  });
});
