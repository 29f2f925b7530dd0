import { once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import net from 'node:net';
import fc from 'fast-check';
import { afterAll, afterEach, describe, expect, it, onTestFinished } from 'vitest';
import { PIPELINED_REQUESTS_MAX } from '../src/http/limits.ts';
import { s2Codes } from '../src/s2-error.ts';
import { appendSession, encodeAppendInput, frame, recordsPath } from './s2s-client.ts';
import { askHttp1, askHttp2, eventually, newBasin, type Served, serve, serveForFile } from './serve.ts';

/**
 * Everything a client could send and should not: each is answered with a code or cut, costs bounded memory, has no
 * effect it was not told of, and disturbs nobody else. Seeded: a failure says how to see it again.
 */

const logged: string[] = [];
const log = (line: string) => logged.push(line);
const served = await serveForFile({ log });
/** For clients that say nothing: on this one a busy machine would be taken for one of them. */
const impatient = await serveForFile({ headersTimeoutMs: 200, bodyTimeoutMs: 200, log });
const basin = await newBasin(served);
const inBasin = { 's2-basin': basin };
await served.store.createStream(basin, 's', {});

const SEED = 20261122;
const runs = (numRuns: number) => ({ numRuns, seed: SEED });
const CODES = new Set<string>([...Object.keys(s2Codes), 'not_found', 'method_not_allowed']);

// Whatever is logged is a failure behind a 500: a bug that bad input found.
afterEach(async () => {
  expect(logged.splice(0)).toEqual([]);
  expect((await askHttp1(served, '/health')).status).toBe(200);
});

const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
const session = http2.connect(served.url);
session.on('error', () => {});
afterAll(() => {
  agent.destroy();
  session.destroy();
});

interface Sent {
  readonly method: string;
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body?: Buffer | string;
}
interface Got {
  readonly status: number;
  readonly type: string | undefined;
  readonly text: string;
}

/** Over connections that are used again, so that what one request leaves behind would meet the next. */
function overHttp1({ method, path, headers, body }: Sent): Promise<Got> {
  return new Promise((resolve, reject) => {
    const request = http.request({ host: '127.0.0.1', port: served.port, agent, method, path, headers }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      response.on('end', () => resolve({ status: response.statusCode!, type: response.headers['content-type'], text }));
    });
    request.on('error', reject);
    request.end(body);
  });
}
function overHttp2({ method, path, headers, body }: Sent): Promise<Got> {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':method': method, ':path': path, ...headers }, { endStream: false });
    let head: http2.IncomingHttpHeaders = {};
    let text = '';
    stream.on('response', (received) => (head = received));
    stream.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    stream.on('end', () => resolve({ status: Number(head[':status']), type: head['content-type'], text }));
    stream.on('error', reject);
    stream.end(body);
  });
}
let turn = 0;
/** Says whether it was taken; anything else has to be a well-formed refusal that is no failure of the server. */
async function ask(sent: Sent): Promise<Got> {
  const got = await (turn++ % 2 === 0 ? overHttp1 : overHttp2)(sent);
  if (got.status < 300) return got;
  expect(got.type).toBe('application/json');
  const body = JSON.parse(got.text);
  if (got.status === 412 || got.status === 416) return got;
  expect(Object.keys(body)).toEqual(['code', 'message']);
  expect(CODES).toContain(body.code);
  expect([body.code, got.status]).toEqual([
    body.code,
    s2Codes[body.code as keyof typeof s2Codes]?.status ?? got.status,
  ]);
  expect(got.status).toBeLessThan(500);
  return got;
}

const json = { 'content-type': 'application/json' };
const tail = () => served.store.openStream(basin, 's', 'read').then((stream) => stream.tail.seqNum);

describe('fuzzed', () => {
  const config = {
    storage_class: 'express',
    retention_policy: { age: 1 },
    timestamping: { mode: 'arrival', uncapped: true },
    delete_on_empty: { min_age_secs: 1 },
  };
  /** Valid bodies, of which parts are then replaced. */
  const BODIES: readonly [method: string, path: string, body: object][] = [
    [
      'POST',
      '/v1/basins',
      {
        basin: 'fuzzed-basin',
        config: { default_stream_config: config, stream_cipher: null, create_stream_on_append: true },
        location: null,
      },
    ],
    ['PUT', '/v1/basins/fuzzed-basin', { config: { default_stream_config: config, create_stream_on_read: false } }],
    [
      'PATCH',
      '/v1/basins/fuzzed-basin',
      { default_stream_config: config, stream_cipher: null, create_stream_on_append: false },
    ],
    ['POST', '/v1/streams', { stream: 'fuzzed', config }],
    ['PUT', '/v1/streams/fuzzed', config],
    ['PATCH', '/v1/streams/fuzzed', config],
    [
      'POST',
      recordsPath('s'),
      { records: [{ body: 'x', headers: [['n', 'v']], timestamp: 1 }], match_seq_num: null, fencing_token: null },
    ],
    [
      'POST',
      '/v1/access-tokens',
      {
        id: 'fuzzed',
        expires_at: '2030-01-01T00:00:00Z',
        auto_prefix_streams: false,
        scope: { basins: { prefix: 'a' }, op_groups: { account: { read: true } }, ops: ['read'] },
      },
    ],
    ['PUT', '/v1/locations/default', { location: 'local' }],
  ];
  const odd = fc.oneof(
    fc.jsonValue({ maxDepth: 2 }),
    fc.constantFrom(
      null,
      true,
      0,
      -1,
      1.5,
      2 ** 53,
      -0,
      '',
      'NaN',
      [],
      {},
      [[]],
      { age: 0 },
      { infinite: 1 },
      { exact: 1, prefix: '' },
    ),
    fc.string({ unit: 'binary', maxLength: 30 }),
  );
  /** A copy of `value` in which the part at one of its paths is `part`, or gone. */
  function replaced(value: unknown, at: number, part: unknown, drop: boolean): unknown {
    const places: { holder: Record<string, unknown>; key: string }[] = [];
    const copy = { root: structuredClone(value) };
    const walk = (holder: Record<string, unknown>) => {
      for (const key of Object.keys(holder)) {
        places.push({ holder, key });
        const inner = holder[key];
        if (typeof inner === 'object' && inner !== null) walk(inner as Record<string, unknown>);
      }
    };
    walk(copy);
    const { holder, key } = places[at % places.length]!;
    if (drop) delete holder[key];
    else holder[key] = part;
    return copy.root;
  }

  it('JSON bodies are taken or refused', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...BODIES),
        fc.nat(30),
        odd,
        fc.boolean(),
        async ([method, path, valid], at, part, drop) => {
          const body = JSON.stringify(replaced(valid, at, part, drop)) ?? '';
          await ask({ method, path, headers: { ...inBasin, ...json }, body });
        },
      ),
      runs(500),
    );
  });

  it('bytes instead of JSON are bad_json', async () => {
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...BODIES), fc.uint8Array({ maxLength: 60 }), async ([method, path], bytes) => {
        const got = await ask({ method, path, headers: { ...inBasin, ...json }, body: Buffer.from(bytes) });
        if (got.status >= 300) expect(got.status).toBeLessThanOrEqual(422);
      }),
      runs(200),
    );
  });

  it('deeply nested and long JSON costs an answer, not the stack', async () => {
    for (const text of [
      '['.repeat(500_000),
      `${'['.repeat(200_000)}${']'.repeat(200_000)}`,
      `{"a":${'{"a":'.repeat(100_000)}`,
    ]) {
      for (const path of [recordsPath('s'), '/v1/basins']) {
        const got = await ask({ method: 'POST', path, headers: { ...inBasin, ...json }, body: text });
        expect([got.status, JSON.parse(got.text).code]).toEqual([400, 'bad_json']);
      }
    }
    const digits = `{"records":[{"timestamp":${'9'.repeat(1_000_000)}}]}`;
    expect(
      (await ask({ method: 'POST', path: recordsPath('s'), headers: { ...inBasin, ...json }, body: digits })).status,
    ).toBe(400);
    const polluted = '{"__proto__":{"records":[{}]},"constructor":{"prototype":{"records":[{}]}}}';
    expect(
      (await ask({ method: 'POST', path: recordsPath('s'), headers: { ...inBasin, ...json }, body: polluted })).status,
    ).toBe(400);
    expect(({} as { records?: unknown }).records).toBeUndefined();
  });

  it('protobuf is taken or refused, and what is refused has no effect', async () => {
    const valid = encodeAppendInput({
      records: [{ body: 'abc', headers: [['n', 'v']], timestamp: 5n }, { body: 'd' }],
      fencingToken: '',
    });
    const mutated = fc
      .tuple(
        fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        fc.nat(valid.length),
      )
      .map(([changes, cut]) => {
        const bytes = Buffer.from(valid);
        for (const [at, byte] of changes) bytes[at] = byte;
        return bytes.subarray(0, cut);
      });
    await fc.assert(
      fc.asyncProperty(fc.oneof(mutated, fc.uint8Array({ maxLength: 100 })), async (bytes) => {
        const before = await tail();
        const headers = { ...inBasin, 'content-type': 'application/protobuf' };
        const got = await ask({ method: 'POST', path: recordsPath('s'), headers, body: Buffer.from(bytes) });
        const after = await tail();
        if (got.status === 200) expect(JSON.parse(got.text).end.seq_num).toBe(after);
        else expect([after, [400, 412, 422].includes(got.status)]).toEqual([before, true]);
      }),
      runs(500),
    );
  });

  it('frames in any pieces are acknowledged or refused, and exactly the acknowledged ones are there', async () => {
    const valid = (body: string) => frame(encodeAppendInput({ records: [{ body }] }));
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.oneof(
            { weight: 3, arbitrary: fc.string({ maxLength: 20 }).map(valid) },
            { weight: 1, arbitrary: fc.uint8Array({ maxLength: 12 }).map((bytes) => Buffer.from(bytes)) },
          ),
          { maxLength: 8 },
        ),
        fc.array(fc.nat(200), { maxLength: 4 }),
        async (pieces, cuts) => {
          const before = await tail();
          const bytes = Buffer.concat(pieces);
          const appending = appendSession(served, basin, 's');
          let sent = 0;
          for (const at of [
            ...cuts.map((cut) => Math.min(cut, bytes.length)).toSorted((a, b) => a - b),
            bytes.length,
          ]) {
            if (at > sent) appending.send(bytes.subarray(sent, at));
            sent = at;
            await new Promise((resolve) => setImmediate(resolve));
          }
          appending.end();
          await appending.until(() => appending.ended);
          const records = appending.acks.reduce((sum, { start, end }) => sum + Number(end.seqNum - start.seqNum), 0);
          expect(await tail()).toBe(before + records);
          if (appending.terminal !== null) expect([400, 412, 422]).toContain(appending.terminal.status);
        },
      ),
      runs(100),
    );
  });

  it('headers are taken or refused', async () => {
    const visible = fc
      .string({ unit: fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code)), maxLength: 40 })
      .map((text) => text.trim());
    const latin = fc.string({
      unit: fc
        .integer({ min: 0x21, max: 0xff })
        .filter((code) => code !== 0x7f)
        .map((code) => String.fromCharCode(code)),
      maxLength: 20,
    });
    const value = fc.oneof(
      visible,
      latin,
      fc.constantFrom('', ',', ';q=', 'a'.repeat(5_000), 'null', '{"timestamping":{}}', '0,0,0', '*;q=0'),
    );
    const name = fc.constantFrom(
      's2-basin',
      's2-format',
      's2-stream-config',
      's2-request-token',
      's2-encryption-key',
      'accept',
      'accept-encoding',
      'last-event-id',
      'content-type',
      'content-encoding',
      'authorization',
      'origin',
      'x-unknown',
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(name, value), { minLength: 1, maxLength: 3 }),
        fc.constantFrom('read', 'append', 'create', 'list'),
        async (headers, what) => {
          const given = Object.fromEntries([...Object.entries(inBasin), ...headers]);
          if (what === 'read')
            await ask({ method: 'GET', path: recordsPath('s', 'seq_num=0&count=0'), headers: given });
          else if (what === 'list') await ask({ method: 'GET', path: '/v1/streams', headers: given });
          else {
            const path = what === 'append' ? recordsPath('s') : '/v1/streams';
            const body = what === 'append' ? '{"records":[{}]}' : '{"stream":"by-header"}';
            await ask({ method: 'POST', path, headers: { ...json, ...given }, body });
          }
        },
      ),
      runs(300),
    );
  });

  it('paths are found or refused', async () => {
    const segment = fc.oneof(
      fc.constantFrom(
        'v1',
        'basins',
        'streams',
        'records',
        'tail',
        'access-tokens',
        'metrics',
        'locations',
        'default',
        '',
        '.',
        '..',
        '%2f',
        '%00',
        '%',
        '%u0041',
        '%c0%af',
        basin,
        's',
        '*',
      ),
      fc.string({ maxLength: 8 }).map(encodeURIComponent),
      fc.string({
        unit: fc
          .integer({ min: 0x21, max: 0x7e })
          .filter((code) => !'?#'.includes(String.fromCharCode(code)))
          .map((code) => String.fromCharCode(code)),
        maxLength: 10,
      }),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(segment, { maxLength: 6 }),
        fc.constantFrom('GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE'),
        fc.boolean(),
        async (segments, method, underApi) => {
          const path = `${underApi ? '/v1/' : '/'}${segments.join('/')}`;
          // Not to delete what the other tests use.
          if (method === 'DELETE' && (path.includes(basin) || path.endsWith('/s'))) return;
          await ask({ method, path, headers: inBasin });
        },
      ),
      runs(500),
    );
  });

  it('queries are answered or refused', async () => {
    const key = fc.constantFrom(
      'seq_num',
      'timestamp',
      'tail_offset',
      'count',
      'bytes',
      'until',
      'clamp',
      'prefix',
      'start_after',
      'limit',
      'x',
      '',
    );
    const value = fc.oneof(
      fc.constantFrom(
        '',
        '0',
        '1',
        '-1',
        'true',
        '18446744073709551615',
        '18446744073709551616',
        '1e9',
        '0x1',
        '%00',
        '%ff',
        '%',
        '+',
        '%EF%BC%91',
      ),
      fc.string({ maxLength: 6 }).map(encodeURIComponent),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(key, value), { maxLength: 4 }),
        fc.constantFrom(
          recordsPath('s'),
          '/v1/streams',
          '/v1/basins',
          '/v1/access-tokens',
          `${recordsPath('s')}/tail`,
          '/v1/metrics',
        ),
        async (pairs, path) => {
          const query = pairs.map(([key, value]) => `${key}=${value}`).join('&');
          await ask({ method: 'GET', path: `${path}?${query}`, headers: inBasin });
        },
      ),
      runs(400),
    );
  });
});

describe('numbers at the edges of 64 bits', () => {
  const EDGES = [
    0n,
    1n,
    2n ** 31n,
    2n ** 32n - 1n,
    2n ** 32n,
    2n ** 53n - 1n,
    2n ** 53n,
    2n ** 53n + 1n,
    2n ** 63n - 1n,
    2n ** 63n,
    2n ** 64n - 1n,
    2n ** 64n,
    2n ** 65n,
    10n ** 30n,
  ];

  it('are compared as they are, and beyond 64 bits refused, wherever they stand', async () => {
    const seqNum = BigInt(await tail());
    for (const edge of EDGES) {
      const fits = edge < 2n ** 64n;
      for (const key of ['seq_num', 'timestamp', 'tail_offset', 'count', 'bytes', 'until']) {
        const query = ['count', 'bytes', 'until'].includes(key) ? `seq_num=0&${key}=${edge}` : `${key}=${edge}&count=1`;
        const got = await ask({ method: 'GET', path: recordsPath('s', query), headers: inBasin });
        expect([key, edge, got.status === 400]).toEqual([key, edge, !fits]);
        if (key === 'seq_num') expect(got.status).toBe(!fits ? 400 : edge < seqNum ? 200 : 416);
      }
      const match = await ask({
        method: 'POST',
        path: recordsPath('s'),
        headers: { ...inBasin, ...json },
        body: `{"records":[{}],"match_seq_num":${edge}}`,
      });
      if (edge !== BigInt(await tail()) - 1n) expect([edge, match.status]).toEqual([edge, fits ? 412 : 400]);
      const age = `{"stream":"age-${edge}","config":{"retention_policy":{"age":${edge}}}}`;
      const made = await ask({ method: 'POST', path: '/v1/streams', headers: { ...inBasin, ...json }, body: age });
      expect(made.status).toBe(!fits ? 400 : edge === 0n || edge >= 2n ** 53n ? 422 : 201);
    }
  });
});

/** Everything that comes until the connection ends. */
async function received(socket: net.Socket): Promise<string> {
  let text = '';
  socket.setEncoding('latin1').on('data', (chunk: string) => (text += chunk));
  if (!socket.destroyed) await once(socket, 'close');
  return text;
}
function connect({ port }: Served = served): net.Socket {
  const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  socket.on('error', () => {});
  socket.on('end', () => socket.end());
  onTestFinished(() => void socket.destroy());
  return socket;
}

describe('a connection over HTTP/1.1', () => {
  const post = (body: string, more = '') =>
    `POST ${recordsPath('s')} HTTP/1.1\r\nhost: x\r\ns2-basin: ${basin}\r\ncontent-type: application/json\r\n${more}content-length: ${body.length}\r\n\r\n${body}`;

  it.each([
    ['nothing at all', ''],
    ['a piece of the HTTP/2 preface', 'PRI * HTTP/2.0\r\n\r\nS'],
    ['half a request line', 'GET /v1/ba'],
    ['headers without an end', 'GET /health HTTP/1.1\r\nhost: x\r\n'],
    ['half a body', post('{"records":[{}]}').slice(0, -4)],
  ])('with %s and then silence is cut', async (_what, bytes) => {
    const socket = connect(impatient);
    socket.write(bytes);
    const text = await received(socket);
    expect(text).toMatch(/^$|^HTTP\/1\.1 408 .*"request_timeout"/s);
  });

  it('that dribbles its headers is cut', async () => {
    const socket = connect(impatient);
    socket.write('GET /health HTTP/1.1\r\nhost: x\r\n');
    const dribble = setInterval(() => socket.write('a: b\r\n'), 20);
    onTestFinished(() => clearInterval(dribble));
    expect(await received(socket)).toMatch(/^$|^HTTP\/1\.1 408 /);
  });

  it('that dribbles its body is answered with request_timeout', async () => {
    const socket = connect(impatient);
    const body = '{"records":[{}]}'.padEnd(10_000);
    socket.write(post(body).slice(0, -9_990));
    const dribble = setInterval(() => socket.write(' '), 20);
    onTestFinished(() => clearInterval(dribble));
    expect(await received(socket)).toMatch(/^HTTP\/1\.1 408 .*"request_timeout"/s);
  });

  it.each([
    ['nonsense', 'nonsense\r\n\r\n'],
    ['a binary mess', '\x00\x01\x02\xff\xfe\r\n\r\n'],
    ['a TLS hello', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'],
    ['two lengths', 'POST /v1/basins HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}'],
    [
      'a length and chunks',
      'POST /v1/basins HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}',
    ],
    [
      'a broken chunk',
      'POST /v1/basins HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n',
    ],
    ['a line feed in a header', 'GET /health HTTP/1.1\r\nhost: x\r\na: b\nc\r\n\r\n'],
    ['no host', 'GET /health HTTP/1.1\r\n\r\n'],
    ['HTTP/9.9', 'GET /health HTTP/9.9\r\nhost: x\r\n\r\n'],
  ])('with %s is answered with 400', async (_what, bytes) => {
    const socket = connect();
    socket.write(Buffer.from(bytes, 'latin1'));
    const text = await received(socket);
    expect(text).toMatch(/^HTTP\/1\.1 400 /);
  });

  it('takes any number of headers within the limit, leaving out none, and refuses more by name', async () => {
    const many = Array.from({ length: 6_000 }, (_, i) => `h${i}: v\r\n`).join('');
    const socket = connect();
    socket.write(
      `GET /v1/streams HTTP/1.1\r\nhost: x\r\n${many.slice(0, 60_000).replace(/\r\n[^\n]*$/, '\r\n')}s2-basin: ${basin}\r\nconnection: close\r\n\r\n`,
    );
    expect(await received(socket)).toMatch(/^HTTP\/1\.1 200 /);
    const more = connect();
    more.write(`GET /v1/streams HTTP/1.1\r\nhost: x\r\n${many}${many.replaceAll('h', 'i')}s2-basin: ${basin}\r\n\r\n`);
    expect(await received(more)).toMatch(/^HTTP\/1\.1 431 .*"bad_header"/s);
  });

  it('has its pipelined requests done one after the other, in order', async () => {
    const socket = connect();
    const first = await tail();
    const bodies = Array.from({ length: 20 }, (_, i) => `{"records":[{"body":"p${i}"}],"match_seq_num":${first + i}}`);
    socket.write(bodies.map((body, i) => post(body, i === 19 ? 'connection: close\r\n' : '')).join(''));
    const answers = (await received(socket)).split(/(?=HTTP\/1\.1 )/);
    expect(answers.map((answer) => answer.slice(0, 12))).toEqual(answers.map(() => 'HTTP/1.1 200'));
    expect(await tail()).toBe(first + 20);
  });

  it('gets the answer to its append before the refusal of the garbage behind it', async () => {
    const socket = connect();
    const first = await tail();
    socket.write(`${post('{"records":[{}]}')}garbage\r\n\r\n`);
    const answers = (await received(socket)).split(/(?=HTTP\/1\.1 )/);
    expect(answers.map((answer) => answer.slice(0, 12))).toEqual(['HTTP/1.1 200', 'HTTP/1.1 400']);
    expect(await tail()).toBe(first + 1);
  });

  it('that pipelines without end and takes no answer is cut', async () => {
    const stream = await newBasin(served);
    const large = JSON.stringify({ records: [{ body: 'x'.repeat(1_000_000) }] });
    await askHttp1(served, recordsPath('s'), { method: 'POST', headers: { 's2-basin': stream, ...json }, body: large });
    const before = process.memoryUsage().rss;
    const socket = connect();
    const get = `GET ${recordsPath('s', 'seq_num=0')} HTTP/1.1\r\nhost: x\r\ns2-basin: ${stream}\r\n\r\n`;
    socket.pause();
    socket.write(get.repeat(PIPELINED_REQUESTS_MAX * 4));
    // Its end is seen without reading what came.
    await eventually(() => openSockets(socket)).toBe(false);
    expect(process.memoryUsage().rss - before).toBeLessThan(100 * 1_048_576);
  });

  it('that is closed in the middle of a body or a session leaves nothing behind', async () => {
    const before = await tail();
    for (const cut of [
      post('{"records":[{}]}').slice(0, -4),
      `POST ${recordsPath('s')} HTTP/1.1\r\nhost: x\r\ns2-basin: ${basin}\r\ncontent-type: s2s/proto\r\ntransfer-encoding: chunked\r\n\r\n5\r\n\x00\x00\x09`,
    ]) {
      const socket = connect();
      socket.write(Buffer.from(cut, 'latin1'));
      await new Promise((resolve) => setTimeout(resolve, 20));
      socket.resetAndDestroy();
    }
    expect(await tail()).toBe(before);
  });
});

/** Whether the peer still has the connection: a write to one that was reset fails. */
function openSockets(socket: net.Socket): boolean {
  if (!socket.destroyed) socket.write(' ');
  return !socket.destroyed;
}

describe('a connection over HTTP/2', () => {
  const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
  const h2frame = (type: number, flags: number, stream: number, payload: Buffer = Buffer.alloc(0)) => {
    const head = Buffer.alloc(9);
    head.writeUIntBE(payload.length, 0, 3);
    head[3] = type;
    head[4] = flags;
    head.writeUInt32BE(stream, 5);
    return Buffer.concat([head, payload]);
  };
  const SETTINGS = h2frame(4, 0, 0);
  // GET / of http, from the static table of HPACK.
  const HEADERS = Buffer.from([0x82, 0x84, 0x86]);

  it.each([
    ['garbage behind the preface', Buffer.from('garbage, and more of it than a frame header')],
    ['a frame larger than allowed', Buffer.concat([SETTINGS, h2frame(0, 0, 1, Buffer.alloc(20_000))])],
    ['data on a stream that was never opened', Buffer.concat([SETTINGS, h2frame(0, 0, 7, Buffer.from('x'))])],
    ['headers that do not decode', Buffer.concat([SETTINGS, h2frame(1, 5, 1, Buffer.alloc(20, 0xff))])],
    ['an even stream', Buffer.concat([SETTINGS, h2frame(1, 5, 2, HEADERS)])],
    [
      'a window that overflows',
      Buffer.concat([
        SETTINGS,
        h2frame(8, 0, 0, Buffer.from([0x7f, 0xff, 0xff, 0xff])),
        h2frame(8, 0, 0, Buffer.from([0x7f, 0xff, 0xff, 0xff])),
      ]),
    ],
    ['settings that are no multiple of six', h2frame(4, 0, 0, Buffer.alloc(5))],
    [
      'headers without an end, continued without an end',
      Buffer.concat([
        SETTINGS,
        h2frame(1, 1, 1, HEADERS),
        ...Array.from({ length: 500 }, () => h2frame(9, 0, 1, Buffer.alloc(1_000, 0x82))),
      ]),
    ],
    [
      'a thousand streams opened and reset',
      Buffer.concat([
        SETTINGS,
        ...Array.from({ length: 1_500 }, (_, i) => [
          h2frame(1, 5, 2 * i + 1, HEADERS),
          h2frame(3, 0, 2 * i + 1, Buffer.from([0, 0, 0, 8])),
        ]).flat(),
        h2frame(0, 0, 9_999, Buffer.from('x')),
      ]),
    ],
  ])('with %s ends, and only that connection', async (_what, bytes) => {
    const socket = connect();
    socket.write(Buffer.concat([Buffer.from(PREFACE), bytes]));
    await received(socket);
    expect((await askHttp2(served, '/health')).status).toBe(200);
  });

  it('with headers beyond the limit has its request refused, not the connection', async () => {
    const client = http2.connect(served.url, { maxSendHeaderBlockLength: 10_000_000 });
    onTestFinished(() => client.destroy());
    client.on('error', () => {});
    const headers = Object.fromEntries(Array.from({ length: 3_000 }, (_, i) => [`h${i}`, 'v'.repeat(20)]));
    const refused = client.request({ ':path': '/health', ...headers });
    refused.on('error', () => {});
    await new Promise<void>((resolve) => refused.once('close', resolve));
    expect([http2.constants.NGHTTP2_ENHANCE_YOUR_CALM, http2.constants.NGHTTP2_REFUSED_STREAM]).toContain(
      refused.rstCode,
    );
    expect((await askHttp2(served, '/health')).status).toBe(200);
  });

  it('whose client takes no data has few of its answers made', async () => {
    const full = await newBasin(served);
    const large = { records: [{ body: 'x'.repeat(1_048_000) }] };
    await askHttp1(served, recordsPath('s'), { method: 'POST', headers: { 's2-basin': full }, json: large });
    const client = http2.connect(served.url, { settings: { initialWindowSize: 0 } });
    client.on('error', () => {});
    onTestFinished(() => client.destroy());
    await once(client, 'connect');
    let answered = 0;
    global.gc?.();
    const before = process.memoryUsage().rss;
    const requests = Array.from({ length: 90 }, () => {
      const request = client.request({ ':path': recordsPath('s', 'seq_num=0'), 's2-basin': full });
      request.on('error', () => {});
      request.on('response', () => answered++);
      return request;
    });
    await eventually(() => answered).toBeGreaterThan(20);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(answered).toBeLessThan(40);
    expect(process.memoryUsage().rss - before).toBeLessThan(250 * 1_048_576);
    // Others are not held up, and whoever takes data gets all of it.
    expect(
      (await askHttp2(served, recordsPath('s', 'seq_num=0'), { headers: { 's2-basin': full } })).body.length,
    ).toBeGreaterThan(1_048_000);
    client.settings({ initialWindowSize: 4 * 1_048_576 });
    client.setLocalWindowSize(64 * 1_048_576);
    const sizes = requests.map(async (request) => {
      let size = 0;
      for await (const chunk of request) size += (chunk as Buffer).length;
      return size;
    });
    for (const size of await Promise.all(sizes)) expect(size).toBeGreaterThan(1_048_000);
    expect(answered).toBe(90);
  });

  it('whose client leaves while its answers wait lets go of them', async () => {
    const hasty = await serve({ requestTimeoutMs: 300, answerTimeoutMs: 300 });
    onTestFinished(() => hasty.stop());
    const full = await newBasin(hasty);
    await askHttp1(hasty, recordsPath('s'), {
      method: 'POST',
      headers: { 's2-basin': full },
      json: { records: [{ body: 'x'.repeat(1_048_000) }] },
    });
    const client = http2.connect(hasty.url, { settings: { initialWindowSize: 0 } });
    client.on('error', () => {});
    onTestFinished(() => client.destroy());
    const request = client.request({ ':path': recordsPath('s', 'seq_num=0'), 's2-basin': full });
    request.on('error', () => {});
    // An answer that nobody takes is cut in time.
    await once(request, 'close');
    expect(request.rstCode).not.toBe(0);
  });
});

describe('unary bodies', () => {
  it('of a client that never finishes them are bounded in memory over all connections', async () => {
    const small = await serve({ bodiesBytesMax: 8 * 1_048_576, bodyTimeoutMs: 1_500 });
    onTestFinished(() => small.stop());
    const name = await newBasin(small);
    const client = http2.connect(small.url);
    client.on('error', () => {});
    onTestFinished(() => client.destroy());
    const headers = { 's2-basin': name, 'content-type': 'application/json' };
    const stuck = Array.from({ length: 30 }, () => {
      const request = client.request({ ':method': 'POST', ':path': recordsPath('s'), ...headers });
      request.on('error', () => {});
      request.write(Buffer.alloc(1_000_000, ' '));
      return request;
    });
    const statuses = stuck.map(async (request) => Number((await once(request, 'response'))[0][':status']));
    // Meanwhile a request with a small body waits at most until those have timed out.
    const fine = await askHttp1(small, recordsPath('s'), { method: 'POST', headers, json: { records: [{}] } });
    expect([200, 408]).toContain(fine.status);
    expect(await Promise.all(statuses)).toEqual(stuck.map(() => 408));
    expect((await askHttp1(small, recordsPath('s'), { method: 'POST', headers, json: { records: [{}] } })).status).toBe(
      200,
    );
  });
});
