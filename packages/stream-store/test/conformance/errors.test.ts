import { once } from 'node:events';
import net from 'node:net';
import zlib from 'node:zlib';
import { expect, it, onTestFinished } from 'vitest';
import { REQUEST_TIMEOUT_MS } from '../../src/http/limits.ts';
import { s2Codes } from '../../src/s2-error.ts';
import { NO_LIMITS } from '../../src/throttle/limits-config.ts';
import { GatedFileSystem } from '../gated-file-system.ts';
import { MemoryFileSystem } from '../memory-file-system.ts';
import { appendSession, encodeAppendInput, frame, recordsPath } from '../s2s-client.ts';
import { askHttp1, askHttp2, eventually, newBasin, serve, serveForFile } from '../serve.ts';
import { openStream, refusal, sdkFor, textInput } from './sdk-client.ts';

/** Rows 100 to 111: errors, limits, transport, health, metrics. */

const served = await serveForFile();
const appendX = { method: 'POST', json: { records: [{ body: 'x' }] } };

/** Section 2.2 of the reference. */
const STATUSES: Record<number, readonly string[]> = {
  400: ['bad_frame', 'bad_header', 'bad_json', 'bad_path', 'bad_proto', 'bad_query', 'decryption_failed'],
  401: ['authn'],
  403: ['permission_denied', 'quota_exhausted'],
  404: ['access_token_not_found', 'basin_not_found', 'stream_not_found'],
  408: ['request_timeout'],
  409: ['basin_deletion_pending', 'stream_deletion_pending', 'resource_already_exists', 'transaction_conflict'],
  412: ['fencing_token_mismatch', 'seq_num_mismatch'],
  416: ['range_not_satisfiable'],
  422: ['invalid'],
  429: ['rate_limited'],
  499: ['client_hangup'],
  500: ['other', 'storage'],
  501: ['not_implemented'],
  502: ['hot_server'],
  503: ['server_draining', 'unavailable'],
  504: ['upstream_timeout'],
};
const MAY_HAVE_SIDE_EFFECTS = [
  'client_hangup',
  'other',
  'request_timeout',
  'storage',
  'unavailable',
  'upstream_timeout',
];

it('row 100: an error is {code, message} with the status of its code; 412 and 416 have bodies of their own', async () => {
  const table = Object.entries(s2Codes).map(([code, { status }]) => [code, status]);
  const expected = Object.entries(STATUSES).flatMap(([status, codes]) => codes.map((code) => [code, Number(status)]));
  expect(table.toSorted()).toEqual(expected.toSorted());
  const headers = { 's2-basin': await newBasin(served) };
  for (const ask of [askHttp1, askHttp2]) {
    for (const [path, status, code] of [
      ['/v1/basins/UPPER', 400, 'bad_path'],
      ['/v1/basins?limit=x', 400, 'bad_query'],
      ['/v1/basins/unknown-basin', 404, 'basin_not_found'],
      ['/v1/streams/unknown', 404, 'stream_not_found'],
      ['/v1/nothing', 404, 'not_found'],
    ] as const) {
      const answer = await ask(served, path, { headers });
      expect([answer.status, answer.headers['content-type']]).toEqual([status, 'application/json']);
      expect(answer.json).toEqual({ code, message: expect.stringMatching(/./) });
    }
    const range = await ask(served, recordsPath('s', 'seq_num=9'), { headers });
    expect([range.status, Object.keys(range.json)]).toEqual([416, ['tail']]);
    const mismatch = await ask(served, recordsPath('s'), {
      ...appendX,
      headers,
      json: { records: [{}], match_seq_num: 9 },
    });
    expect([mismatch.status, Object.keys(mismatch.json)]).toEqual([412, ['seq_num_mismatch']]);
    const method = await ask(served, '/v1/basins', { method: 'DELETE' });
    expect([method.status, method.json.code]).toEqual([405, 'method_not_allowed']);
  }
});

it('row 101: a code that promises no side effects never hides an append that may be durable', async () => {
  for (const [code, { noSideEffects }] of Object.entries(s2Codes)) {
    expect([code, noSideEffects]).toEqual([code, !MAY_HAVE_SIDE_EFFECTS.includes(code)]);
  }
  // The disk fails after the batch was accepted: it may or may not be there.
  const disk = new MemoryFileSystem();
  const failing = await serve({}, { fileSystem: disk });
  onTestFinished(() => failing.stop());
  const basin = await newBasin(failing);
  const headers = { 's2-basin': basin };
  await askHttp1(failing, recordsPath('s'), { ...appendX, headers });
  const session = appendSession(failing, basin, 's');
  await session.until(() => session.status === 200);
  disk.inject({ at: 0, operations: ['datasync'], kind: 'EIO' });
  const body = { records: [{ body: 'y' }] };
  const answers = await Promise.all(
    [1, 2, 3].map(() => askHttp1(failing, recordsPath('s'), { method: 'POST', headers, json: body })),
  );
  for (const answer of answers) {
    expect(MAY_HAVE_SIDE_EFFECTS).toContain(answer.json.code);
    expect([answer.status, answer.json.code]).toEqual([500, 'storage']);
    // Nothing of the disk, its paths or errors is told.
    expect(answer.text).not.toMatch(/EIO|\/tmp|datasync/);
  }
  session.send(frame(encodeAppendInput({ records: [{ body: 'z' }] })));
  await session.until(() => session.ended);
  expect(session.terminal).toMatchObject({ status: 500, body: { code: 'storage' } });
  const error = await refusal(openStream(sdkFor(failing), basin, 's').append(textInput('x')));
  expect([error.status, error.hasNoSideEffects()]).toEqual([500, false]);
});

it('row 102: what is being deleted answers 409 with stream_deletion_pending or basin_deletion_pending', async () => {
  const disk = new GatedFileSystem();
  const slow = await serve({}, { fileSystem: disk });
  onTestFinished(async () => {
    disk.release();
    await slow.stop();
  });
  const [one, two] = [await newBasin(slow), await newBasin(slow)];
  await slow.store.createStream(one, 's', {});
  await slow.store.createStream(two, 's', {});
  disk.shut(1);
  const s2 = sdkFor(slow);
  await s2.basin(one).streams.delete({ stream: 's' });
  const stream = await refusal(openStream(s2, one, 's').append(textInput('x')));
  expect([stream.status, stream.code]).toEqual([409, 'stream_deletion_pending']);
  disk.release();
  // What the first deletion still writes is not to use up the sync that the second is given.
  await eventually(() => slow.store.listStreams(one, {}).items).toEqual([]);
  disk.shut(1);
  await s2.basins.delete({ basin: two });
  const basin = await refusal(openStream(s2, two, 's').checkTail());
  expect([basin.status, basin.code]).toEqual([409, 'basin_deletion_pending']);
});

it('row 103: a throttled request is told in retry-after-ms when to come again', async () => {
  const limited = await serve({ limits: { ...NO_LIMITS, rates: { ...NO_LIMITS.rates, appendBatchesPerSec: 2 } } });
  onTestFinished(() => limited.stop());
  const headers = { 's2-basin': await newBasin(limited) };
  const agentAnswers = await pipelined(limited.port, headers['s2-basin'], 20);
  const refused = agentAnswers.filter((answer) => answer.startsWith('HTTP/1.1 429'));
  expect(refused.length).toBeGreaterThan(0);
  for (const answer of refused) {
    const waitMs = Number(/retry-after-ms: (\d+)/i.exec(answer)![1]);
    expect(waitMs).toBeGreaterThan(0);
    expect(waitMs).toBeLessThan(15_000);
  }
});

/** The answers to appends sent one behind the other on one connection: a rate may hold for each connection. */
async function pipelined(port: number, basin: string, count: number): Promise<string[]> {
  const socket = net.connect(port, '127.0.0.1');
  const body = '{"records":[{"body":"x"}]}';
  const head = `POST ${recordsPath('s')} HTTP/1.1\r\nhost: x\r\ns2-basin: ${basin}\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n`;
  for (let i = 1; i <= count; i++) socket.write(`${head}${i === count ? 'connection: close\r\n' : ''}\r\n${body}`);
  let text = '';
  socket.setEncoding('latin1').on('data', (chunk: string) => (text += chunk));
  await once(socket, 'close');
  return text.split(/(?=HTTP\/1\.1 )/);
}

it('row 104: too many requests are 429 rate_limited, while sessions are slowed down instead', async () => {
  const limited = await serve({ limits: { ...NO_LIMITS, rates: { ...NO_LIMITS.rates, appendBatchesPerSec: 10 } } });
  onTestFinished(() => limited.stop());
  const basin = await newBasin(limited);
  const answers = await pipelined(limited.port, basin, 30);
  const refused = answers.filter((answer) => answer.includes('"rate_limited"'));
  expect(refused.length).toBeGreaterThan(0);
  const stream = await limited.store.openStream(basin, 's', 'read');
  // The promise of the code: refused appends have had no effect.
  expect(stream.tail.seqNum).toBe(answers.length - refused.length);
  const session = appendSession(limited, basin, 'by-session');
  for (let i = 0; i < 25; i++) session.send(frame(encodeAppendInput({ records: [{ body: 'x' }] })));
  session.end();
  await session.until(() => session.ended);
  expect([session.acks.length, session.terminal]).toEqual([25, null]);
});

it('row 105: a request that takes too long is 408 request_timeout, and what it began may still happen', async () => {
  expect(REQUEST_TIMEOUT_MS).toBeGreaterThan(60_000);
  const disk = new GatedFileSystem();
  const logged: string[] = [];
  const log = (line: string) => logged.push(line);
  const hasty = await serve({ requestTimeoutMs: 1_000, bodyTimeoutMs: 1_000, log }, { fileSystem: disk });
  onTestFinished(async () => {
    disk.release();
    await hasty.stop();
  });
  const basin = await newBasin(hasty);
  const headers = { 's2-basin': basin };
  await askHttp1(hasty, recordsPath('s'), { ...appendX, headers });
  disk.shut();
  const asked = [askHttp1, askHttp2].map((ask) => ask(hasty, recordsPath('s'), { ...appendX, headers }));
  for (const late of await Promise.all(asked)) expect([late.status, late.json.code]).toEqual([408, 'request_timeout']);
  disk.release();
  const stream = await hasty.store.openStream(basin, 's', 'read');
  await eventually(() => stream.tail.seqNum).toBe(3);
  // The answers that came too late are no failures of the server.
  expect(logged).toEqual([]);
  // A waiting read has its wait on top; a session has no such bound.
  const wait = await askHttp1(hasty, recordsPath('s', 'wait=1'), { headers });
  expect([wait.status, wait.json.records]).toEqual([200, []]);
  const session = appendSession(hasty, basin, 's');
  await session.until(() => session.status === 200);
  const socket = net.connect(hasty.port, '127.0.0.1');
  socket.write('POST /v1/basins HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{');
  let text = '';
  socket.setEncoding('latin1').on('data', (chunk: string) => (text += chunk));
  await once(socket, 'close');
  expect(text).toMatch(/^HTTP\/1\.1 408 .*"request_timeout"/s);
  expect(session.ended).toBe(false);
});

it('row 106: answers above 1 KiB are compressed as Accept-Encoding says, sessions are not', async () => {
  const headers = { 's2-basin': await newBasin(served) };
  await askHttp1(served, recordsPath('s'), {
    method: 'POST',
    headers,
    json: { records: [{ body: 'x'.repeat(5000) }] },
  });
  const decoders = {
    gzip: zlib.gunzipSync,
    deflate: zlib.inflateSync,
    br: zlib.brotliDecompressSync,
    zstd: zlib.zstdDecompressSync,
  };
  for (const ask of [askHttp1, askHttp2]) {
    for (const accept of ['application/json', 'application/protobuf']) {
      for (const [coding, decode] of Object.entries(decoders)) {
        const asked = { ...headers, accept, 'accept-encoding': coding };
        const big = await ask(served, recordsPath('s', 'seq_num=0'), { headers: asked });
        expect([big.headers['content-encoding'], big.headers.vary]).toEqual([coding, 'accept-encoding']);
        expect(big.body.length).toBeLessThan(1000);
        expect(decode(big.body).includes('x'.repeat(5000))).toBe(true);
        const small = await ask(served, recordsPath('s', 'seq_num=0&count=0'), { headers: asked });
        expect(small.headers['content-encoding']).toBeUndefined();
      }
      const plain = await ask(served, recordsPath('s', 'seq_num=0'), { headers: { ...headers, accept } });
      expect(plain.headers['content-encoding']).toBeUndefined();
    }
    for (const more of [{ accept: 'text/event-stream' }, { 'content-type': 's2s/proto' }]) {
      const session = await ask(served, recordsPath('s', 'seq_num=0&count=1'), {
        headers: { ...headers, ...more, 'accept-encoding': 'gzip, br' },
      });
      expect(session.headers['content-encoding']).toBeUndefined();
    }
  }
});

it('row 107: request bodies may come in gzip, deflate, br or zstd', async () => {
  const headers = { 's2-basin': await newBasin(served) };
  const encoders = {
    gzip: zlib.gzipSync,
    deflate: zlib.deflateSync,
    br: zlib.brotliCompressSync,
    zstd: zlib.zstdCompressSync,
  };
  const send = (body: Buffer, coding: string, type = 'application/json') =>
    askHttp1(served, recordsPath('s'), {
      method: 'POST',
      headers: { ...headers, 'content-type': type, 'content-encoding': coding },
      body,
    });
  for (const [coding, encode] of Object.entries(encoders)) {
    expect((await send(encode(Buffer.from('{"records":[{}]}')), coding)).status).toBe(200);
    expect(
      (await send(encode(encodeAppendInput({ records: [{}] })), coding.toUpperCase(), 'application/protobuf')).status,
    ).toBe(200);
    const broken = await send(Buffer.from('{"records":[{}]}'), coding);
    expect([broken.status, broken.json.code]).toEqual([400, 'bad_header']);
    const bomb = await send(encode(Buffer.alloc(20 * 1_048_576, ' ')), coding);
    expect([bomb.status, bomb.json.code]).toEqual([422, 'invalid']);
  }
  expect((await send(Buffer.from('{"records":[{}]}'), 'identity')).status).toBe(200);
  for (const unknown of ['compress', 'gzip, gzip']) {
    expect((await send(Buffer.from('{"records":[{}]}'), unknown)).json.code).toBe('bad_header');
  }
});

it('row 108: pages of other origins are let in where that is switched on, and only there', async () => {
  const open = await serve({ cors: true });
  const closed = await serve({ cors: false });
  onTestFinished(async () => {
    await open.stop();
    await closed.stop();
  });
  const origin = 'https://example.com';
  const preflight = {
    method: 'OPTIONS',
    headers: { origin, 'access-control-request-method': 'PUT', 'access-control-request-headers': 's2-basin, x-y' },
  };
  const allowed = await askHttp1(open, '/v1/basins', preflight);
  expect([allowed.status, allowed.body.length]).toEqual([204, 0]);
  expect(allowed.headers['access-control-allow-origin']).toBe(origin);
  expect(allowed.headers['access-control-allow-methods']).toBe('PUT');
  expect(allowed.headers['access-control-allow-headers']).toBe('s2-basin, x-y');
  expect(allowed.headers['access-control-allow-credentials']).toBe('true');
  for (const path of ['/v1/basins', '/v1/basins/unknown-basin']) {
    expect((await askHttp2(open, path, { headers: { origin } })).headers['access-control-allow-origin']).toBe(origin);
    expect(
      (await askHttp1(closed, path, { headers: { origin } })).headers['access-control-allow-origin'],
    ).toBeUndefined();
  }
  expect((await askHttp1(closed, '/v1/basins', preflight)).headers['access-control-allow-origin']).toBeUndefined();
});

it('row 109: /health and /ping are 200 OK, and 503 once the store cannot write', async () => {
  const disk = new MemoryFileSystem();
  const failing = await serve({}, { fileSystem: disk });
  onTestFinished(() => failing.stop());
  for (const ask of [askHttp1, askHttp2]) {
    for (const path of ['/health', '/ping']) {
      const answer = await ask(failing, path);
      expect([answer.status, answer.text]).toEqual([200, 'OK']);
    }
  }
  disk.inject({ at: 0, operations: ['datasync'], kind: 'EIO' });
  await failing.store
    .createBasin('lost-basin', {
      defaultStreamConfig: {},
      streamCipher: null,
      createStreamOnAppend: false,
      createStreamOnRead: false,
    })
    .catch(() => {});
  for (const path of ['/health', '/ping']) expect((await askHttp1(failing, path)).status).toBe(503);
});

it('row 110: /metrics is Prometheus text with the histograms of appends', async () => {
  const headers = { 's2-basin': await newBasin(served) };
  const count = async () => {
    const { text } = await askHttp1(served, '/metrics');
    return Number(/^s2_append_ack_latency_seconds_count (\d+)$/m.exec(text)![1]);
  };
  const before = await count();
  await askHttp1(served, recordsPath('s'), { ...appendX, headers });
  expect(await count()).toBe(before + 1);
  const { text, headers: answered } = await askHttp1(served, '/metrics');
  expect(answered['content-type']).toMatch(/^text\/plain/);
  const names = ['permit_latency_seconds', 'ack_latency_seconds', 'batch_records', 'batch_bytes'];
  for (const name of names) expect(text).toMatch(new RegExp(`^s2_append_${name}_bucket\\{le="\\+Inf"\\} \\d+$`, 'm'));
  expect(text).toMatch(/^process_resident_memory_bytes \d+$/m);
  expect(text).not.toContain(headers['s2-basin']);
});

it('row 111: the metrics of account, basins and streams are sets of values over a span of time', async () => {
  const s2 = sdkFor(served);
  const basin = await newBasin(served);
  await openStream(s2, basin, 's').append(textInput('x'));
  const end = Math.floor(Date.now() / 1000);
  const span = { start: new Date((end - 3600) * 1000), end: new Date(end * 1000) };
  const [active] = await values(s2.metrics.account({ set: 'active-basins', ...span }));
  expect((active as { label: { name: string; values: string[] } }).label.values).toContain(basin);
  const ops = await values(s2.metrics.basin({ basin, set: 'append-ops', interval: 'minute', ...span }));
  expect(ops).toHaveLength(2);
  const [storage] = await values(
    s2.metrics.stream({ basin, stream: 's', set: 'storage', interval: 'minute', ...span }),
  );
  expect((storage as { gauge: { name: string; unit: string } }).gauge).toMatchObject({
    name: 'metered_size',
    unit: 'bytes',
  });
  const get = async (query: string) => (await askHttp1(served, `/v1/metrics/${basin}?${query}`)).status;
  const times = `start=${end - 60}&end=${end}`;
  expect(await get(`set=storage&interval=hour&${times}`)).toBe(200);
  expect(await get('set=append-ops')).toBe(422);
  expect(await get(`set=append-ops&start=${end}&end=${end - 1}`)).toBe(422);
  expect(await get(`set=append-ops&start=${end}&end=${end + 3600}`)).toBe(422);
  expect(await get(`set=append-ops&start=${end - 31 * 86_400}&end=${end}`)).toBe(422);
  expect(await get(`set=storage&interval=minute&${times}`)).toBe(422);
  const unknown = await askHttp1(served, `/v1/metrics/unknown-basin?set=append-ops&${times}`);
  expect(unknown.status).toBe(200);
});

async function values(response: Promise<unknown>): Promise<unknown[]> {
  return ((await response) as { values: unknown[] }).values;
}
