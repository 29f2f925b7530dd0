/** What webhooks do when the endpoint, the network, or who configured them, means them ill. */
import type { LookupAddress } from 'node:dns';
import { createServer, type Socket } from 'node:net';
import { explain, MillraceError } from '@millrace/core/error';
import { type DeliveryFailure, DeliveryRejection, type PushSink } from '@millrace/sinks/push-sink';
import { holdDeadPort, listen } from '@millrace/testkit/dead-port';
import { startProxy } from '@millrace/testkit/proxy';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { makeCertificates } from '../../postgres/test/certificate.ts';
import {
  CALM,
  type OpenOptions,
  ok,
  openTestWebhook,
  startEndpoint,
  status,
  type WebhookEndpoint,
} from './webhook-endpoint.ts';

let endpoint: WebhookEndpoint;
const ends: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  endpoint = await startEndpoint();
  ends.push(() => endpoint.close());
});

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

function open(options: Omit<OpenOptions, 'url'> & { url?: string } = {}) {
  const opened = openTestWebhook({ url: endpoint.url, ...options });
  ends.push(() => opened.sink.close());
  return opened;
}

/** Why all messages of the request failed. */
async function failureOf(delivery: ReturnType<PushSink['deliver']>): Promise<DeliveryFailure> {
  const error = await delivery.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error instanceof DeliveryRejection) return error.failure;
  if (error instanceof MillraceError) return { error };
  throw new Error('it did not fail with a code', { cause: error });
}

describe('a status', () => {
  test.each([
    [200, null],
    [204, null],
    [299, null],
    [300, 'sink_refused'],
    [302, 'sink_refused'],
    [400, 'sink_refused'],
    [401, 'sink_denied'],
    [403, 'sink_denied'],
    [404, 'sink_refused'],
    [408, 'sink_unavailable'],
    [409, 'sink_unavailable'],
    [413, 'sink_record_too_large'],
    [425, 'sink_unavailable'],
    [429, 'sink_unavailable'],
    [500, 'sink_unavailable'],
    [501, 'sink_refused'],
    [503, 'sink_unavailable'],
    [599, 'sink_unavailable'],
  ])('%i is %s', async (code, expected) => {
    const { sink, message } = open();
    endpoint.answer(status(code));
    if (expected === null) expect(await sink.deliver([message()], CALM)).toBeNull();
    else expect((await failureOf(sink.deliver([message()], CALM))).error.code).toBe(expected);
  });

  test('means what the configuration says it means', async () => {
    const { sink, message } = open({ config: { success_statuses: [409], retry_statuses: [404] } });
    endpoint.answer(status(409));
    expect(await sink.deliver([message()], CALM)).toBeNull();
    endpoint.answer(status(404));
    expect((await failureOf(sink.deliver([message()], CALM))).error.code).toBe('sink_unavailable');
  });

  test('comes with what the endpoint said, which is in no text for the log', async () => {
    const { sink, message } = open({ config: { http_endpoint_path: '/secret-path' } });
    endpoint.answer(
      (response, { text }) => void response.writeHead(422).end(`cannot take ${text}${'x'.repeat(5_000)}`),
    );
    const failure = await failureOf(sink.deliver([message({ body: '"row-value"' })], CALM));
    expect(failure.answer?.status).toBe(422);
    expect(failure.answer?.excerpt).toContain('cannot take {"data":["row-value"]}');
    expect(failure.answer?.excerpt).toHaveLength(1_000);
    expect(explain(failure.error)).not.toMatch(/row-value|secret-path/);
  });
});

describe('an endpoint that asks for a rest', () => {
  test.each([429, 503])('with %i and Retry-After gets it, from all requests', async (code) => {
    const { sink, message } = open();
    endpoint.answer(status(code, { 'retry-after': '1' }));
    const failure = await failureOf(sink.deliver([message()], CALM));
    expect(failure).toMatchObject({ retryAfterMs: 1000, error: { code: 'sink_unavailable' } });
    endpoint.answer(ok);
    const begin = performance.now();
    await sink.deliver([message()], CALM);
    expect(performance.now() - begin).toBeGreaterThan(900);
  });

  test('until a date', async () => {
    const now = () => Date.parse('2026-03-01T12:00:00Z');
    const { sink, message } = open({ dependencies: { now } });
    endpoint.answer(status(429, { 'retry-after': 'Sun, 01 Mar 2026 12:10:00 GMT' }));
    expect((await failureOf(sink.deliver([message()], CALM))).retryAfterMs).toBe(600_000);
    const stop = AbortSignal.timeout(20);
    expect((await failureOf(sink.deliver([message()], stop))).error.detail).toContain('stopping');
    expect(endpoint.seen).toHaveLength(1);
  });
});

describe('an answer that names messages that failed', () => {
  const partial = { config: { partial_success: true } };
  const json = { 'content-type': 'application/json; charset=utf-8' };
  const answering = (value: unknown) => endpoint.answer(status(207, json, JSON.stringify(value)));

  test('by place or key fails those, and no other', async () => {
    const { sink, message } = open(partial);
    expect(sink.limits.groupsShareRequests).toBe(false);
    const messages = [0, 1, 2, 3, 4].map((n) => message({ idempotencyKey: `k${n}` }));
    answering({
      data: [
        { index: 1, error: 'out of stock' },
        { idempotency_key: 'k3', error: { code: 7 }, retry_after: 4.2 },
        { index: 4, error: null },
        { index: 0 },
      ],
    });
    const outcome = await sink.deliver(messages, CALM);
    expect(outcome?.map((failure) => failure?.error.code ?? null)).toEqual([
      null,
      'sink_unavailable',
      null,
      'sink_unavailable',
      null,
    ]);
    expect(outcome?.[1]).toMatchObject({ answer: { status: 207, excerpt: 'out of stock' } });
    expect(outcome?.[3]).toMatchObject({ retryAfterMs: 5_000, answer: { excerpt: '{"code":7}' } });
    expect(explain(outcome![1]!.error)).not.toContain('out of stock');
  });

  test('is not looked for unless asked', async () => {
    const { sink, message } = open();
    expect(sink.limits.groupsShareRequests).toBe(true);
    answering({ data: [{ index: 0, error: 'no' }] });
    expect(await sink.deliver([message()], CALM)).toBeNull();
  });

  test.each([{ ok: true }, { data: [] }, { data: [{ index: 0 }] }, { data: 'x' }, [], null, 7])(
    'or none: %j',
    async (value) => {
      const { sink, message } = open(partial);
      answering(value);
      expect(await sink.deliver([message()], CALM)).toBeNull();
    },
  );

  test('or is no JSON: all arrived', async () => {
    const { sink, message } = open(partial);
    for (const answer of [status(200, { 'content-type': 'text/plain' }, 'data'), status(200, json), status(204)]) {
      endpoint.answer(answer);
      expect(await sink.deliver([message()], CALM)).toBeNull();
    }
  });

  test.each([
    ['a message that was not sent', JSON.stringify({ data: [{ index: 2, error: 'x' }] })],
    ['a negative one', JSON.stringify({ data: [{ index: -1, error: 'x' }] })],
    ['half a one', JSON.stringify({ data: [{ index: 0.5, error: 'x' }] })],
    ['one without a name', JSON.stringify({ data: [{ error: 'x' }] })],
    ['nothing that can be read', '{"data":[{'],
    ['too much', `{"data":[],"more":"${'x'.repeat(1_100_000)}"}`],
  ])('and names %s: none arrived', async (_what, body) => {
    const { sink, message } = open(partial);
    endpoint.answer(status(200, json, body));
    const { error } = await failureOf(sink.deliver([message(), message()], CALM));
    expect(error).toMatchObject({ code: 'sink_unavailable', detail: expect.stringContaining('cannot be read') });
  });
});

test('an answer that broke off tells nothing, though it may look whole', async () => {
  const { sink, message } = open({ config: { partial_success: true } });
  endpoint.answer((response) => {
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': '1000' });
    response.write('{"data":[]}', () => setImmediate(() => response.destroy()));
  });
  const { error } = await failureOf(sink.deliver([message()], CALM));
  expect(error).toMatchObject({ code: 'sink_unavailable', detail: expect.stringContaining('broke off') });
});

describe('a network', () => {
  test('where nobody listens', async () => {
    const dead = await holdDeadPort();
    ends.push(() => dead.release());
    const { sink, message } = open({ url: `http://127.0.0.1:${dead.port}` });
    const { error } = await failureOf(sink.deliver([message()], CALM));
    expect(error).toMatchObject({ code: 'sink_unavailable', detail: expect.stringContaining('ECONNREFUSED') });
    await expect(sink.test(CALM)).rejects.toMatchObject({ code: 'sink_unavailable' });
  });

  test('that does not know the name', async () => {
    const { sink, message } = open({ url: 'http://nowhere.invalid' });
    const { error } = await failureOf(sink.deliver([message()], CALM));
    expect(error).toMatchObject({ code: 'sink_unavailable', detail: expect.stringContaining('nowhere.invalid') });
  });

  test('that is away for a while: the next request arrives', async () => {
    const proxy = await startProxy({ port: endpoint.port });
    ends.push(() => proxy.close());
    const { sink, message } = open({ url: `http://127.0.0.1:${proxy.port}`, timeoutMs: 300 });
    await sink.deliver([message()], CALM);
    await proxy.refuse();
    expect((await failureOf(sink.deliver([message()], CALM))).error.code).toBe('sink_unavailable');
    await proxy.pass();
    expect(await sink.deliver([message()], CALM)).toBeNull();
    await proxy.blackHole();
    const { error } = await failureOf(sink.deliver([message()], CALM));
    expect(error).toMatchObject({ code: 'sink_unavailable', detail: expect.stringContaining('300 ms') });
    await proxy.pass();
    expect(await sink.deliver([message()], CALM)).toBeNull();
  });

  test('that loses the answer: the message may have arrived, and has failed', async () => {
    const { sink, message } = open();
    endpoint.answer((response) => response.socket?.resetAndDestroy());
    expect((await failureOf(sink.deliver([message()], CALM))).error.code).toBe('sink_unavailable');
    expect(endpoint.seen).toHaveLength(1);
  });

  test('that resets in the middle of a batch', async () => {
    const server = createServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () => socket.resetAndDestroy());
    });
    const url = `http://127.0.0.1:${await listen(server, 0)}`;
    ends.push(async () => server.close());
    const { sink, message } = open({ url });
    const batch = Array.from({ length: 3 }, () => message({ body: `"${'x'.repeat(1_000_000)}"` }));
    expect((await failureOf(sink.deliver(batch, CALM))).error.code).toBe('sink_unavailable');
  });

  test('that is slow, but not too slow', async () => {
    const { sink, message } = open();
    endpoint.answer((response) => void setTimeout(() => response.end(), 200));
    expect(await sink.deliver([message()], CALM)).toBeNull();
  });
});

/** Answers with these bytes, then one more every 20 ms for ever. */
async function dribble(start: string): Promise<string> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    let timer: NodeJS.Timeout | undefined;
    socket.on('error', () => {}).on('close', () => clearInterval(timer));
    socket.once('data', () => {
      socket.write(start);
      timer = setInterval(() => socket.write('x'), 20);
    });
  });
  const port = await listen(server, 0);
  ends.push(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${port}`;
}

describe('an answer', () => {
  test('that does not come is waited for as long as ack_wait_ms', async () => {
    const { sink, message } = open({ timeoutMs: 150 });
    endpoint.answer(() => {});
    const { error } = await failureOf(sink.deliver([message()], CALM));
    expect(error).toMatchObject({ code: 'sink_unavailable', hint: expect.stringContaining('ack_wait_ms') });
  });

  test('that cannot come, because nobody takes the request, is waited for no longer', async () => {
    const server = createServer((socket) => void socket.on('error', () => {}).pause());
    const url = `http://127.0.0.1:${await listen(server, 0)}`;
    ends.push(async () => server.close());
    const { sink, message } = open({ url, timeoutMs: 200, config: { max_request_bytes: 67_108_864 } });
    const delivery = sink.deliver([message({ body: `"${'x'.repeat(40_000_000)}"` })], CALM);
    expect((await failureOf(delivery)).error.detail).toContain('200 ms');
  });

  test('whose head never ends is waited for no longer', async () => {
    const { sink, message } = open({ url: await dribble('HTTP/1.1 200 OK\r\nx-a: '), timeoutMs: 200 });
    expect((await failureOf(sink.deliver([message()], CALM))).error.detail).toContain('200 ms');
  });

  test('whose body never ends is a success by its status', async () => {
    const { sink, message } = open({ url: await dribble('HTTP/1.1 200 OK\r\n\r\n') });
    const begin = performance.now();
    expect(await sink.deliver([message()], CALM)).toBeNull();
    expect(performance.now() - begin).toBeLessThan(2_000);
  });

  test('of any size is read as far as it matters', async () => {
    const { sink, message } = open();
    let sent = 0;
    const flood = (code: number) =>
      endpoint.answer((response) => {
        response.writeHead(code);
        const more = () => {
          while (!response.destroyed && response.write('x'.repeat(65_536))) sent += 65_536;
        };
        response.on('drain', more).on('close', () => response.off('drain', more));
        more();
      });
    flood(200);
    expect(await sink.deliver([message()], CALM)).toBeNull();
    flood(500);
    const begin = performance.now();
    expect((await failureOf(sink.deliver([message()], CALM))).answer?.excerpt).toHaveLength(1_000);
    expect(performance.now() - begin).toBeLessThan(3_000);
    await sink.close();
    // What the buffers of both sides took, and no more.
    expect(sent).toBeLessThan(50_000_000);
  });

  test.each([
    'SSH-2.0-server\r\n',
    'HTTP/1.1 2000 OK\r\n\r\n',
    `HTTP/1.1 200 OK\r\nx-a: ${'y'.repeat(100_000)}\r\n\r\n`,
  ])('that is no HTTP: %#', async (bytes) => {
    const server = createServer((socket) => void socket.on('error', () => {}).once('data', () => socket.end(bytes)));
    const url = `http://127.0.0.1:${await listen(server, 0)}`;
    ends.push(async () => server.close());
    const { sink, message } = open({ url });
    expect((await failureOf(sink.deliver([message()], CALM))).error.code).toBe('sink_unavailable');
  });

  test('is not waited for when the sink is to stop', async () => {
    const { sink, message } = open();
    const stop = new AbortController();
    endpoint.answer(() => stop.abort());
    expect((await failureOf(sink.deliver([message()], stop.signal))).error.code).toBe('sink_unavailable');
    await sink.close();
    await sink.close();
    expect((await failureOf(sink.deliver([message()], CALM))).error.code).toBe('sink_unavailable');
  });
});

describe('a certificate', () => {
  test('has to be verified, for the host that is called; ca adds an authority', async () => {
    const [good, wrongHost] = [makeCertificates('localhost'), makeCertificates('elsewhere.test')];
    for (const { authority, server } of [good, wrongHost]) {
      const secure = await startEndpoint({ key: server.keyPem, cert: server.pem });
      ends.push(() => secure.close());
      const strict = open({ url: secure.url });
      expect((await failureOf(strict.sink.deliver([strict.message()], CALM))).error.code).toBe('sink_unverified');
      await expect(strict.sink.test(CALM)).rejects.toMatchObject({ code: 'sink_unverified' });
      const { sink, message } = open({ url: secure.url, config: { ca: authority.pem } });
      const delivery = sink.deliver([message()], CALM);
      if (authority === good.authority) expect(await delivery).toBeNull();
      else expect((await failureOf(delivery)).error.code).toBe('sink_unverified');
      expect(secure.seen).toHaveLength(authority === good.authority ? 1 : 0);
    }
  });

  test('of nobody: TLS with a port that speaks none', async () => {
    const { sink, message } = open({ url: endpoint.url.replace('http:', 'https:') });
    expect((await failureOf(sink.deliver([message()], CALM))).error.code).toBe('sink_unavailable');
  });
});

describe('an address that is not for webhooks', () => {
  const strict = { network: { allowPrivate: false, allow: [] } };

  test.each([
    'http://127.0.0.1',
    'http://localhost',
    'http://[::1]',
    'http://[::ffff:127.0.0.1]',
    'http://2130706433',
    'http://0x7f.1',
    'http://0177.0.0.1',
    'http://127.1',
    'http://0.0.0.0',
    'http://127.0.0.1.',
    'http://user:password@127.0.0.1',
  ])('is not connected to, however it is written: %s', async (url) => {
    const { sink, message } = open({ url: `${url}:${endpoint.port}`, ...strict });
    const { error } = await failureOf(sink.deliver([message()], CALM));
    expect(error).toMatchObject({
      code: 'sink_address_refused',
      hint: expect.stringContaining('--sinks-allow '),
    });
    await expect(sink.test(CALM)).rejects.toMatchObject({ code: 'sink_address_refused' });
    expect(endpoint.connections).toBe(0);
  });

  test('is reached by no redirect', async () => {
    const inside = await startEndpoint();
    ends.push(() => inside.close());
    const { sink, message } = open();
    for (const code of [301, 302, 303, 307, 308]) {
      endpoint.answer(status(code, { location: inside.url }));
      const { error } = await failureOf(sink.deliver([message()], CALM));
      expect(error).toMatchObject({ code: 'sink_refused', hint: expect.stringContaining('not followed') });
    }
    expect(inside.connections).toBe(0);
  });

  test('is not reached by a name that changes its address after it was looked at', async () => {
    const answers: LookupAddress[][] = [];
    let asked = 0;
    const resolve = async () => answers[Math.min(asked++, answers.length - 1)]!;
    const at = (...addresses: string[]) => addresses.map((address) => ({ address, family: 4 }));
    const { sink, message } = open({
      url: `http://rebind.test:${endpoint.port}`,
      network: { allowPrivate: false, allow: ['127.0.0.1'] },
      dependencies: { resolve },
    });
    // The server closes each connection, so that every request looks the name up anew.
    endpoint.answer(status(200, { connection: 'close' }));
    answers.push(at('127.0.0.1'), at('127.0.0.2'), at('127.0.0.2', '127.0.0.1'), at());
    expect(await sink.deliver([message()], CALM)).toBeNull();
    expect(endpoint.connections).toBe(1);
    expect((await failureOf(sink.deliver([message()], CALM))).error.code).toBe('sink_address_refused');
    expect(endpoint.connections).toBe(1);
    // Of several the one that may be connected to.
    expect(await sink.deliver([message()], CALM)).toBeNull();
    expect((await failureOf(sink.deliver([message()], CALM))).error.code).toBe('sink_address_refused');
    expect(asked).toBe(4);
  });

  test('is reached when the allow list has it', async () => {
    for (const allow of [['127.0.0.1'], ['127.0.0.0/8'], ['localhost']]) {
      const host = allow[0] === 'localhost' ? 'localhost' : '127.0.0.1';
      const { sink, message } = open({
        url: `http://${host}:${endpoint.port}`,
        network: { allowPrivate: false, allow },
      });
      expect(await sink.deliver([message()], CALM)).toBeNull();
    }
  });
});
