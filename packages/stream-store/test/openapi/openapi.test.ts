import { readFileSync } from 'node:fs';
import { Validator } from '@seriousme/openapi-schema-validator';
import { beforeAll, describe, expect, it } from 'vitest';
import { openApiDocument } from '../../src/openapi/document.ts';
import { API_OPERATIONS } from '../../src/openapi/operations.ts';
import type { S2Code } from '../../src/s2-error.ts';
import { encodeAppendInput, frame } from '../s2s-client.ts';
import { type Answer, type Ask, askHttp1, askHttp2, type Served, serveForFile } from '../serve.ts';
import { OPERATIONS_BY_ID, problemsOf, requestSchema, violationsOf } from './contract.ts';

const served = await serveForFile();
const secured = await serveForFile({ auth: 'required' });

const source = (path: string): string => readFileSync(new URL(`../../src/http/${path}`, import.meta.url), 'utf8');

describe('the OpenAPI document', () => {
  it('is valid OpenAPI 3.1', async () => {
    const { valid, errors } = await new Validator().validate(openApiDocument() as Record<string, unknown>);
    expect(errors).toBeUndefined();
    expect(valid).toBe(true);
  });

  it('is what the server serves, to anybody', async () => {
    for (const ask of [askHttp1, askHttp2]) {
      const answer = await ask(secured, '/openapi.json');
      expect(answer.status).toBe(200);
      expect(answer.headers['content-type']).toBe('application/json');
      expect(answer.json).toEqual(JSON.parse(JSON.stringify(openApiDocument())));
    }
  });

  it('has an operation for every handler of the router, and no other', () => {
    const imports = [...source('router.ts').matchAll(/import \{([^}]+)\} from '\.\/([\w-]+)\.ts'/g)];
    const handlers = imports
      .filter(([, , file]) => !['context', 'operation-count'].includes(file!))
      .flatMap(([, names]) => names!.split(',').map((name) => name.trim()))
      .filter((name) => name !== '' && !name.startsWith('type '));
    const documented = API_OPERATIONS.filter(({ permission }) => permission !== null).map(({ id }) =>
      id.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()),
    );
    expect(handlers.length).toBeGreaterThan(20);
    expect(documented.sort()).toEqual(handlers.sort());
  });

  it('has a path for every one outside /v1, and no other', () => {
    const cases = [...source('server.ts').matchAll(/^\s*case '(\/[^']*)':/gm)].map(([, path]) => path);
    const documented = API_OPERATIONS.filter(({ permission }) => permission === null).map(({ path }) => path);
    expect(documented.sort()).toEqual(cases.sort());
  });

  it('has every path and method that the server takes, and none that it does not', async () => {
    const paths = [...new Set(API_OPERATIONS.map(({ path }) => path))];
    // Neighbours of what there is: nothing may answer there.
    const strange = [
      '/v1',
      '/v1/basins/{basin}/x',
      '/v1/streams/{stream}/x',
      '/v1/locations/x',
      '/v1/metrics/a/b/c',
      '/x',
    ];
    const taken: string[] = [];
    for (const path of [...paths, ...strange]) {
      for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']) {
        const target = path.replaceAll(/\{\w+\}/g, 'name-of-one');
        const { text, status } = await askHttp1(secured, target, { method, headers: { 'content-length': '0' } });
        const code = /"code":"(\w+)"/.exec(text)?.[1];
        // Who has no token learns nothing about paths below /v1, so a token is given there.
        if (code === 'authn') {
          const headers = {
            authorization: `Bearer ${await rootToken()}`,
            's2-basin': 'name-of-one',
            'content-length': '0',
          };
          const answer = await askHttp1(secured, target, { method, headers });
          if (!/"code":"(not_found|method_not_allowed)"/.test(answer.text))
            taken.push(`${method.toLowerCase()} ${path}`);
        } else if (code !== 'not_found' && code !== 'method_not_allowed') {
          expect(status).toBe(200);
          taken.push(`${method.toLowerCase()} ${path}`);
        }
      }
    }
    expect(taken.sort()).toEqual(API_OPERATIONS.map(({ method, path }) => `${method} ${path}`).sort());
  });
});

const FULL_SCOPE = {
  basins: { prefix: '' },
  streams: { prefix: '' },
  access_tokens: { prefix: '' },
  op_groups: {
    account: { read: true, write: true },
    basin: { read: true, write: true },
    stream: { read: true, write: true },
  },
  ops: ['list-locations', 'get-default-location', 'set-default-location'],
};

let tokens: Promise<string> | undefined;

/** One that may do everything, of the server that asks for one. */
function rootToken(): Promise<string> {
  tokens ??= secured.store.issueAccessToken({
    id: 'test-root',
    expiresAt: null,
    autoPrefixStreams: false,
    scope: {
      basins: { prefix: '' },
      streams: { prefix: '' },
      accessTokens: { prefix: '' },
      opGroups: {
        account: { read: true, write: true },
        basin: { read: true, write: true },
        stream: { read: true, write: true },
      },
      ops: ['list-locations', 'get-default-location', 'set-default-location'],
    },
  });
  return tokens;
}

interface Step extends Ask {
  readonly id: string;
  /** What follows the path: a query. */
  readonly query?: string;
  readonly params?: Readonly<Record<string, string>>;
  readonly status: number;
  readonly code?: S2Code;
  /** Of a session or another long answer: over when it is cut. */
  readonly server?: Served;
}

const seen = { success: new Set<string>(), codes: new Set<string>(), bodies: 0 };

async function step({ id, query = '', params = {}, status, code, server = served, ...ask }: Step): Promise<Answer> {
  const operation = OPERATIONS_BY_ID.get(id)!;
  const path = operation.path.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(params[name]!));
  const headers = { ...(path.startsWith('/v1/streams') ? { 's2-basin': BASIN } : {}), ...ask.headers };
  const answer = await askHttp1(server, `${path}${query}`, { ...ask, headers, method: operation.method.toUpperCase() });
  const what = `${id} ${JSON.stringify(ask.json ?? query)}`;
  expect(answer.status, `${what}: ${answer.text}`).toBe(status);
  expect(violationsOf(operation, answer), what).toEqual([]);
  if (status < 300) seen.success.add(id);
  if (status < 300 && ask.json !== undefined) expect(problemsOf(requestSchema(operation)!, ask.json), what).toBe('');
  if (code !== undefined) {
    expect(answer.json.code, what).toBe(code);
    seen.codes.add(code);
  }
  if (answer.headers['content-type'] === 'application/json') {
    // A check that takes anything would show nothing.
    const strange = Array.isArray(answer.json) ? [...answer.json, 5] : { ...answer.json, unheard_of: 1 };
    const spoilt = { ...answer, text: JSON.stringify(strange), json: strange };
    if (id !== 'openapi_document') expect(violationsOf(operation, spoilt).length, what).toBeGreaterThan(0);
    seen.bodies++;
  }
  return answer;
}

const BASIN = 'contract-basin';
const STREAM = 'orders/eu';
const stream = { stream: STREAM };
const basin = { basin: BASIN };
const CONFIG = {
  storage_class: 'standard',
  retention_policy: { age: 3600 },
  timestamping: { mode: 'client-prefer', uncapped: true },
  delete_on_empty: { min_age_secs: 60 },
};

describe('the real server answers as documented', () => {
  beforeAll(async () => {
    await rootToken();
  });

  it('about basins', async () => {
    const json = { basin: BASIN, config: { default_stream_config: CONFIG, create_stream_on_append: true } };
    const headers = { 's2-request-token': 'once' };
    await step({ id: 'create_basin', json, headers, status: 201 });
    await step({ id: 'create_basin', json, headers, status: 200 });
    await step({ id: 'create_basin', json, status: 409, code: 'resource_already_exists' });
    await step({ id: 'create_basin', json: { basin: 'no' }, status: 400, code: 'bad_json' });
    await step({ id: 'create_basin', body: '{', status: 400, code: 'bad_json' });
    await step({ id: 'create_basin', json: { ...json, location: 'moon' }, status: 422, code: 'invalid' });
    const long = { 's2-request-token': 'x'.repeat(37) };
    await step({ id: 'create_basin', json, headers: long, status: 400, code: 'bad_header' });
    await step({ id: 'ensure_basin', params: { basin: 'contract-other' }, status: 201 });
    await step({ id: 'ensure_basin', params: { basin: 'contract-other' }, json: { config: null }, status: 200 });
    await step({ id: 'ensure_basin', params: { basin: '-x' }, status: 400, code: 'bad_path' });
    await step({ id: 'get_basin_config', params: basin, status: 200 });
    await step({ id: 'get_basin_config', params: { basin: 'contract-none' }, status: 404, code: 'basin_not_found' });
    const change = {
      default_stream_config: { retention_policy: null, timestamping: { mode: null } },
      stream_cipher: null,
    };
    await step({ id: 'reconfigure_basin', params: basin, json: change, status: 200 });
    const zero = { default_stream_config: { retention_policy: { age: 0 } } };
    await step({ id: 'reconfigure_basin', params: basin, json: zero, status: 422, code: 'invalid' });
    await step({ id: 'list_basins', query: '?prefix=contract-&limit=1', status: 200 });
    await step({ id: 'list_basins', query: '?limit=some', status: 400, code: 'bad_query' });
    await step({ id: 'delete_basin', params: { basin: 'contract-other' }, status: 202 });
    await step({ id: 'delete_basin', params: { basin: 'contract-none' }, status: 404, code: 'basin_not_found' });
  });

  it('about streams', async () => {
    await step({ id: 'create_stream', json: { stream: STREAM, config: CONFIG }, status: 201 });
    await step({ id: 'create_stream', json: { stream: STREAM }, status: 409, code: 'resource_already_exists' });
    await step({ id: 'create_stream', json: { stream: '..' }, status: 400, code: 'bad_json' });
    await step({ id: 'ensure_stream', params: { stream: 'other' }, status: 201 });
    await step({
      id: 'ensure_stream',
      params: { stream: 'other' },
      json: { retention_policy: { infinite: {} } },
      status: 200,
    });
    await step({ id: 'get_stream_config', params: stream, status: 200 });
    await step({ id: 'get_stream_config', params: { stream: 'none' }, status: 404, code: 'stream_not_found' });
    const elsewhere = { 's2-basin': 'contract-none' };
    await step({ id: 'get_stream_config', params: stream, headers: elsewhere, status: 404, code: 'basin_not_found' });
    await step({
      id: 'get_stream_config',
      params: stream,
      headers: { 's2-basin': 'x' },
      status: 400,
      code: 'bad_header',
    });
    await step({ id: 'reconfigure_stream', params: stream, json: { storage_class: null }, status: 200 });
    await step({ id: 'reconfigure_stream', params: stream, json: { storage_class: 5 }, status: 400, code: 'bad_json' });
    await step({ id: 'list_streams', query: '?prefix=o', status: 200 });
    await step({ id: 'list_streams', headers: elsewhere, status: 404, code: 'basin_not_found' });
    await step({ id: 'delete_stream', params: { stream: 'other' }, status: 202 });
    await step({ id: 'delete_stream', params: { stream: 'none' }, status: 404, code: 'stream_not_found' });
  });

  it('about records', async () => {
    const append = { id: 'append', params: stream };
    const record = { timestamp: 5, headers: [['a', 'b']], body: 'hello' };
    await step({ ...append, json: { records: [record, {}], match_seq_num: 0 }, status: 200 });
    await step({ ...append, json: { records: [{ body: 'aGk=' }] }, headers: { 's2-format': 'base64' }, status: 200 });
    await step({ ...append, json: { records: [record], match_seq_num: 0 }, status: 412 });
    await step({ ...append, json: { records: [record], fencing_token: 'me' }, status: 412 });
    await step({ ...append, json: { records: [] }, status: 422, code: 'invalid' });
    await step({ ...append, json: { records: 5 }, status: 400, code: 'bad_json' });
    const protobuf = { 'content-type': 'application/protobuf', accept: 'application/protobuf' };
    const batch = encodeAppendInput({ records: [{ body: 'x' }] });
    await step({ ...append, body: batch, headers: protobuf, status: 200 });
    await step({ ...append, body: Buffer.from([0xff]), headers: protobuf, status: 400, code: 'bad_proto' });
    await step({ ...append, body: frame(batch), headers: { 'content-type': 's2s/proto' }, status: 200 });

    const read = { id: 'read', params: stream };
    await step({ ...read, query: '?seq_num=0', status: 200 });
    await step({ ...read, query: '?seq_num=0&count=1&clamp=true', headers: { 's2-format': 'base64' }, status: 200 });
    await step({ ...read, query: '?seq_num=0&bytes=0', status: 200 });
    await step({ ...read, query: '?seq_num=0', headers: { accept: 'application/protobuf' }, status: 200 });
    await step({ ...read, query: '?seq_num=0&count=2', headers: { accept: 'text/event-stream' }, status: 200 });
    await step({ ...read, query: '?seq_num=0&count=2', headers: { 'content-type': 's2s/proto' }, status: 200 });
    await step({ ...read, query: '?seq_num=99', status: 416 });
    await step({ ...read, query: '?seq_num=0&tail_offset=0', status: 422, code: 'invalid' });
    await step({ ...read, query: '?seq_num=x', status: 400, code: 'bad_query' });
    const events = { accept: 'text/event-stream', 'last-event-id': 'x' };
    await step({ ...read, headers: events, status: 400, code: 'bad_header' });
    await step({ ...read, params: { stream: 'none' }, query: '?seq_num=0', status: 404, code: 'stream_not_found' });
    await step({ id: 'check_tail', params: stream, status: 200 });
    await step({ id: 'check_tail', params: { stream: 'none' }, status: 404, code: 'stream_not_found' });
  });

  it('about encrypted streams', async () => {
    const key = (letter: string) => ({
      's2-encryption-key': Buffer.alloc(32, letter).toString('base64'),
      's2-basin': 'secret-basin',
    });
    await step({
      id: 'create_basin',
      json: { basin: 'secret-basin', config: { stream_cipher: 'aes-256-gcm' } },
      status: 201,
    });
    const json = { records: [{ body: 'secret' }] };
    const there = { 's2-basin': 'secret-basin' };
    await step({ id: 'create_stream', json: { stream: 'x' }, headers: there, status: 201 });
    await step({ id: 'append', params: { stream: 'x' }, json, headers: there, status: 400, code: 'bad_header' });
    await step({ id: 'append', params: { stream: 'x' }, json, headers: key('a'), status: 200 });
    await step({ id: 'read', params: { stream: 'x' }, query: '?seq_num=0', headers: key('a'), status: 200 });
    const wrong = { query: '?seq_num=0', headers: key('b'), status: 400, code: 'decryption_failed' as const };
    await step({ id: 'read', params: { stream: 'x' }, ...wrong });
  });

  it('about access tokens', async () => {
    const json = {
      id: 'reader',
      scope: { basins: { exact: BASIN }, streams: { prefix: '' }, ops: ['read', 'list-basins'] },
    };
    const server = secured;
    const headers = { authorization: `Bearer ${await rootToken()}` };
    const issued = await step({ id: 'issue_access_token', json, server, headers, status: 201 });
    const reader = { authorization: `Bearer ${issued.json.access_token}` };
    await step({ id: 'issue_access_token', json, server, headers, status: 409, code: 'resource_already_exists' });
    await step({ id: 'issue_access_token', json: { id: 'x' }, server, headers, status: 400, code: 'bad_json' });
    await step({
      id: 'issue_access_token',
      json: { id: 'x', scope: {} },
      server,
      headers,
      status: 422,
      code: 'invalid',
    });
    const whole = { id: 'whole', expires_at: '2100-01-01T00:00:00Z', auto_prefix_streams: true, scope: FULL_SCOPE };
    await step({ id: 'issue_access_token', json: whole, server, headers, status: 201 });
    await step({ id: 'list_access_tokens', server, headers, status: 200 });
    await step({ id: 'list_basins', server, headers: reader, status: 200 });
    await step({
      id: 'create_basin',
      json: { basin: BASIN },
      server,
      headers: reader,
      status: 403,
      code: 'permission_denied',
    });
    await step({ id: 'list_access_tokens', server, headers: reader, status: 403, code: 'permission_denied' });
    await step({ id: 'revoke_access_token', params: { id: 'reader' }, server, headers, status: 204 });
    const gone = { params: { id: 'reader' }, status: 404, code: 'access_token_not_found' as const };
    await step({ id: 'revoke_access_token', ...gone, server, headers });
    await step({ id: 'list_basins', server, headers: reader, status: 401, code: 'authn' });
  });

  it('about locations', async () => {
    const locations = await step({ id: 'list_locations', status: 200 });
    await step({ id: 'get_default_location', status: 200 });
    await step({ id: 'set_default_location', json: locations.json[0].name, status: 200 });
    await step({ id: 'set_default_location', json: 'moon', status: 422, code: 'invalid' });
    await step({ id: 'set_default_location', json: 5, status: 400, code: 'bad_json' });
  });

  it('about metrics', async () => {
    const now = Math.floor(Date.now() / 1000);
    const span = `start=${now - 600}&end=${now}`;
    for (const set of ['active-basins', 'account-ops']) {
      await step({ id: 'account_metrics', query: `?set=${set}&${span}&interval=hour`, status: 200 });
    }
    for (const set of ['append-ops', 'read-ops', 'read-throughput', 'append-throughput', 'basin-ops', 'storage']) {
      await step({ id: 'basin_metrics', params: basin, query: `?set=${set}&${span}`, status: 200 });
    }
    await step({ id: 'stream_metrics', params: { ...basin, ...stream }, query: `?set=storage&${span}`, status: 200 });
    await step({ id: 'account_metrics', query: '?set=active-basins', status: 422, code: 'invalid' });
    await step({ id: 'basin_metrics', params: basin, query: '?set=storage&start=x', status: 400, code: 'bad_query' });
  });

  it('about itself', async () => {
    for (const id of ['health', 'ping', 'prometheus_metrics', 'openapi_document']) await step({ id, status: 200 });
  });

  it('in the whole session each operation succeeded once, and the usual refusals were met', () => {
    expect([...OPERATIONS_BY_ID.keys()].filter((id) => !seen.success.has(id))).toEqual([]);
    expect(seen.codes.size).toBeGreaterThanOrEqual(13);
    expect(seen.bodies).toBeGreaterThan(70);
  });
});
