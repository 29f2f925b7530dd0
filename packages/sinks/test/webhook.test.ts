import { RequestGate } from '@millrace/sinks/http/request-gate';
import type { PushSink } from '@millrace/sinks/push-sink';
import { webhookKind } from '@millrace/sinks/webhook';
import { Webhook } from 'standardwebhooks';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  CALM,
  type OpenOptions,
  openTestWebhook,
  startEndpoint,
  status,
  type WebhookEndpoint,
} from './webhook-endpoint.ts';

let endpoint: WebhookEndpoint;
// biome-ignore lint/suspicious/noExplicitAny: of any route.
const sinks: PushSink<any>[] = [];

beforeEach(async () => {
  endpoint = await startEndpoint();
});

afterEach(async () => {
  for (const sink of sinks.splice(0)) await sink.close();
  await endpoint.close();
});

function open(options: Omit<OpenOptions, 'url'> & { url?: string } = {}) {
  const opened = openTestWebhook({ url: endpoint.url, ...options });
  sinks.push(opened.sink);
  return opened;
}

describe('a request', () => {
  test('of a batch has all its messages under data, also when it is one', async () => {
    const { sink, message } = open({ config: { http_endpoint_path: '/hook' } });
    expect(await sink.deliver([message({ body: '{"a":1}' }), message({ body: '{"b":2}' })], CALM)).toBeNull();
    expect(await sink.deliver([message({ body: '{"c":3}' })], CALM)).toBeNull();
    expect(endpoint.seen.map(({ method, url, text }) => [method, url, text])).toEqual([
      ['POST', '/hook', '{"data":[{"a":1},{"b":2}]}'],
      ['POST', '/hook', '{"data":[{"c":3}]}'],
    ]);
    expect(endpoint.seen[0]!.headers).toMatchObject({ 'content-type': 'application/json', 'user-agent': 'millrace' });
  });

  test('takes the connection of an earlier one', async () => {
    const { sink, message } = open();
    for (let n = 0; n < 20; n++) await sink.deliver([message()], CALM);
    expect(endpoint.seen).toHaveLength(20);
    expect(endpoint.connections).toBeLessThanOrEqual(2);
  });

  test('of one message is the message, with its key as a header', async () => {
    const { sink, message } = open({ config: { batch: false } });
    expect(sink.limits).toMatchObject({ messagesMax: 1, groupsShareRequests: false });
    await sink.deliver([message({ body: '{"a":1}', idempotencyKey: 'MTo0' })], CALM);
    expect(endpoint.seen[0]).toMatchObject({ text: '{"a":1}', headers: { 'idempotency-key': 'MTo0' } });
  });

  test('of a text that a transform made is that text, or the text as JSON in a batch', async () => {
    const alone = open({ config: { batch: false } });
    await alone.sink.deliver([alone.message({ body: 'hello "you"', json: false })], CALM);
    expect(endpoint.seen[0]).toMatchObject({ text: 'hello "you"', headers: { 'content-type': /^text\/plain/ } });
    const { sink, message } = open();
    const text = message({ body: 'hello "you"', json: false });
    await sink.deliver([text, message({ body: '1' })], CALM);
    expect(endpoint.seen[1]!.text).toBe('{"data":["hello \\"you\\"",1]}');
    expect(sink.sizeOf(text)).toBe('"hello \\"you\\"",'.length);
  });

  test('of a batch is never larger than max_request_bytes, and may be as large', async () => {
    const { sink, message } = open({ config: { max_request_bytes: 1_024 } });
    const { bytesMax, messageBytesMax } = sink.limits;
    const ofBytes = (bytes: number) => message({ body: `"${'x'.repeat(bytes - 3)}"` });
    const alone = [ofBytes(messageBytesMax)];
    const several = [ofBytes(500), ofBytes(20), ofBytes(bytesMax - 520)];
    for (const messages of [alone, several]) {
      expect(messages.reduce((sum, one) => sum + sink.sizeOf(one), 0)).toBe(bytesMax);
      await sink.deliver(messages, CALM);
    }
    expect(endpoint.seen.map(({ text }) => text.length)).toEqual([1_024, 1_024]);
  });

  test('has the headers of the endpoint, over them the encrypted ones, over them those of routing', async () => {
    const { sink, message } = open({
      endpoint: {
        headers: { 'X-A': 'plain', 'X-B': 'plain', 'X-C': 'plain' },
        encryptedHeaders: { 'x-b': 's', 'x-c': 's' },
      },
    });
    await sink.deliver([message({ routed: { headers: { 'X-c': 'routed', 'Content-Type': 'application/x' } } })], CALM);
    expect(endpoint.seen[0]!.headers).toMatchObject({
      'x-a': 'plain',
      'x-b': 's',
      'x-c': 'routed',
      'content-type': 'application/x',
    });
  });

  test('is compressed when the endpoint has content-encoding: gzip', async () => {
    const { sink, message } = open({ endpoint: { headers: { 'Content-Encoding': 'gzip' } } });
    await sink.deliver([message({ body: `"${'x'.repeat(10_000)}"` })], CALM);
    expect(endpoint.seen[0]!.headers['content-encoding']).toBe('gzip');
    expect(Number(endpoint.seen[0]!.headers['content-length'])).toBeLessThan(500);
    expect(endpoint.seen[0]!.text).toHaveLength(10_013);
  });

  test('goes where and how routing says, and messages that go alike have one batch key', async () => {
    const { sink, message } = open({ url: `${endpoint.url}/base?token=t`, config: { http_endpoint_path: '/usual' } });
    const routed = { method: 'put', endpoint_path: '/products/7?x=1#part', headers: { 'x-shard': 3 } };
    await sink.deliver([message({ routed })], CALM);
    await sink.deliver([message({ routed: { method: 'GET', endpoint_path: '?only=query' } })], CALM);
    await sink.deliver([message()], CALM);
    expect(endpoint.seen.map(({ method, url, text }) => [method, url, text.length > 0])).toEqual([
      ['PUT', '/base/products/7?token=t&x=1', true],
      ['GET', '/base?token=t&only=query', false],
      ['POST', '/base/usual?token=t', true],
    ]);
    expect(endpoint.seen[0]!.headers['x-shard']).toBe('3');
    expect(sink.batchKey(message({ routed }))).toBe(sink.batchKey(message({ routed })));
    const others = [{}, { ...routed, method: 'POST' }, { ...routed, endpoint_path: '/' }, { ...routed, headers: {} }];
    expect(new Set([routed, ...others].map((one) => sink.batchKey(message({ routed: one })))).size).toBe(5);
  });
});

test('credentials in the url are a header, unless there is one', async () => {
  const url = endpoint.url.replace('://', '://user:p%40ss@');
  for (const headers of [{}, { Authorization: 'Bearer x' }]) {
    const { sink, message } = open({ url, endpoint: { headers } });
    await sink.deliver([message()], CALM);
  }
  expect(endpoint.seen.map(({ headers }) => headers.authorization)).toEqual([
    `Basic ${Buffer.from('user:p@ss').toString('base64')}`,
    'Bearer x',
  ]);
});

describe('routing cannot', () => {
  const config = webhookKind.schema.parse({ type: 'webhook', http_endpoint: 'backend' });
  const check = (routed: object) => {
    const parsed = webhookKind.routing!.safeParse(routed);
    if (!parsed.success) return parsed.error.issues[0]!.message;
    return webhookKind.checkRoute(config, { ...webhookKind.route(config, {} as never), ...parsed.data });
  };

  test.each([
    [{ headers: { 'x-a': 'one\r\nx-b: two' } }, /one line/],
    [{ headers: { 'x-a': 'zero\0byte' } }, /one line/],
    [{ headers: { 'x-a': 'na\u0131ve' } }, /one line/],
    [{ headers: { 'x a': '1' } }, /name/],
    [{ headers: { 'x-a:': '1' } }, /name/],
    [{ headers: { 'Transfer-Encoding': 'chunked' } }, /cannot be set/],
    [{ headers: { 'content-length': '0' } }, /cannot be set/],
    [{ headers: { Host: 'elsewhere' } }, /cannot be set/],
    [{ headers: Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`x-${n}`, ''])) }, /at most 64/],
    [{ endpoint_path: '/a/../../admin' }, /"\.\."/],
    [{ endpoint_path: '/a/%2E%2e/admin' }, /"\.\."/],
    [{ endpoint_path: 'no-slash' }, /begin with/],
    [{ endpoint_path: '@evil.example/' }, /begin with/],
    [{ endpoint_path: '/a\nb' }, /begin with/],
    [{ endpoint_path: `/${'x'.repeat(2_000)}` }, /2000/],
    [{ method: 'CONNECT' }, /Invalid option/],
    [{ url: 'http://elsewhere' }, /Unrecognized key/],
  ])('do what it should not: %j', (routed, reason) => {
    expect(check(routed)).toMatch(reason);
  });

  test('leave the host, whatever the path', async () => {
    for (const endpoint_path of ['//evil.example/', '/\\evil.example', '/@evil.example', '?@evil.example', '/..;/x']) {
      const { sink, message } = open();
      await sink.deliver([message({ routed: { endpoint_path } })], CALM);
    }
    expect(endpoint.seen).toHaveLength(5);
  });

  test('take the place of the signature', () => {
    const signed = webhookKind.schema.parse({ ...config, signing: { secret: SECRET } });
    expect(webhookKind.checkRoute(signed, { headers: { 'Webhook-Id': 'x' } })).toMatch(/signature/);
  });
});

const SECRET = `whsec_${Buffer.from('a secret of thirty-two bytes, yes').toString('base64')}`;
const OLD_SECRET = `whsec_${Buffer.from('another secret of some bytes').toString('base64')}`;

describe('a signature', () => {
  test('is verified by the library of Standard Webhooks, with the old secret too while there is one', async () => {
    const signing = { secret: SECRET, previous_secret: OLD_SECRET };
    for (const headers of [{}, { 'content-encoding': 'gzip' }]) {
      const { sink, message } = open({ config: { signing }, endpoint: { headers } });
      await sink.deliver([message(), message({ body: '{"text":"ünïcode"}' })], CALM);
      const { text, headers: sent } = endpoint.seen.at(-1)!;
      for (const secret of [SECRET, OLD_SECRET]) {
        expect(new Webhook(secret).verify(text, sent as Record<string, string>)).toEqual(JSON.parse(text));
      }
      const other = new Webhook(Buffer.from('yet another secret').toString('base64'));
      expect(() => other.verify(text, sent as Record<string, string>)).toThrow();
      expect(() => new Webhook(SECRET).verify(`${text} `, sent as Record<string, string>)).toThrow();
    }
  });

  test.each(['GET', 'HEAD'])('of a %s, which has no body, is over nothing', async (method) => {
    for (const batch of [true, false]) {
      const { sink, message } = open({ config: { batch, signing: { secret: SECRET } } });
      await sink.deliver([message({ body: '{"a":1}', routed: { method } })], CALM);
      const { text, headers } = endpoint.seen.at(-1)!;
      expect(text).toBe('');
      new Webhook(SECRET).verify(text, headers as Record<string, string>);
    }
  });

  test('has the id of the message, or one that is the same for the same messages', async () => {
    const single = open({ config: { batch: false, signing: { secret: SECRET } } });
    await single.sink.deliver([single.message({ idempotencyKey: 'the-key' })], CALM);
    expect(endpoint.seen[0]!.headers['webhook-id']).toBe('the-key');
    const { sink, message } = open({ config: { signing: { secret: SECRET } } });
    const [a, b] = [message(), message()];
    for (const request of [[a, b], [a, b], [b, a], [a]]) await sink.deliver(request, CALM);
    const [first, again, ...others] = endpoint.seen.slice(1).map(({ headers }) => headers['webhook-id']);
    expect(again).toBe(first);
    expect(new Set([first, ...others]).size).toBe(3);
  });

  test.each(['short', 'whsec_', 'whsec_c2hvcnQ=', 'whsec_!!!!'])('takes no secret like %s', (secret) => {
    const parsed = webhookKind.schema.safeParse({ type: 'webhook', http_endpoint: 'e', signing: { secret } });
    expect(parsed.error?.issues[0]?.message).toContain('must be whsec_');
  });
});

describe('an endpoint', () => {
  test('that is not configured is named', async () => {
    const config = webhookKind.schema.parse({ type: 'webhook', http_endpoint: 'nowhere' });
    const context = { name: 'hook', httpEndpoint: () => undefined, network: { allowPrivate: false, allow: [] } };
    await expect(webhookKind.open(config, { ...context, timeoutMs: 1, log: () => {} })).rejects.toMatchObject({
      code: 'config_invalid',
      detail: expect.stringContaining('"nowhere"'),
    });
  });

  test('with headers of the connection loses them, and is told', async () => {
    const lines: string[] = [];
    const headers = { Connection: 'close', 'Content-Length': '5', 'x-a': '1' };
    const { sink, message } = open({ endpoint: { headers }, log: (line) => lines.push(line) });
    await sink.deliver([message()], CALM);
    expect(endpoint.seen[0]!.headers).toMatchObject({ connection: 'keep-alive', 'x-a': '1' });
    expect(lines).toHaveLength(2);
  });

  test.each([{ 'x-a': 'a\nb' }, { 'x a': '1' }, { 'content-encoding': 'br' }])(
    'with the headers %j is refused',
    (headers) => {
      expect(() => open({ endpoint: { headers: headers as Record<string, string> } })).toThrowError(
        expect.objectContaining({ code: 'config_invalid' }),
      );
    },
  );

  test('limits all its sinks together', async () => {
    const shared = { endpoint: { gate: new RequestGate({ concurrency: 2 }) } };
    const [one, two] = [open(shared), open(shared)];
    let [now, most] = [0, 0];
    endpoint.answer((response) => {
      most = Math.max(most, ++now);
      setTimeout(() => {
        now--;
        response.end();
      }, 5);
    });
    await Promise.all(
      Array.from({ length: 20 }, (_, n) => {
        const { sink, message } = n % 2 === 0 ? one : two;
        return sink.deliver([message()], CALM);
      }),
    );
    expect(endpoint.seen).toHaveLength(20);
    expect(most).toBe(2);
  });
});

describe('testing a connection', () => {
  test('asks with HEAD, and takes any answer but one that tells that no request will do', async () => {
    const { sink } = open({ config: { http_endpoint_path: '/hook' }, endpoint: { headers: { 'x-a': '1' } } });
    for (const code of [200, 204, 302, 400, 403, 404, 405, 500]) {
      endpoint.answer(status(code));
      await sink.test(CALM);
    }
    expect(endpoint.seen[0]).toMatchObject({ method: 'HEAD', url: '/hook', text: '', headers: { 'x-a': '1' } });
    endpoint.answer(status(401));
    await expect(sink.test(CALM)).rejects.toMatchObject({ code: 'sink_denied' });
    endpoint.answer(status(308, { location: 'http://elsewhere/' }));
    await expect(sink.test(CALM)).rejects.toMatchObject({
      code: 'sink_refused',
      hint: expect.stringContaining('Redirects'),
    });
  });
});
