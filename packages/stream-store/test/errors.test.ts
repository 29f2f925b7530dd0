import { describe, expect, it } from 'vitest';
import { recordsPath } from './s2s-client.ts';
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
  'a default location that does not exist': {
    path: '/v1/locations/default',
    method: 'PUT',
    json: 'moon',
    expected: [422, 'invalid'],
  },
  'metrics without a span': { path: '/v1/metrics?set=active-basins', expected: [422, 'invalid'] },
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
});
