import { CreateQueueCommand, ReceiveMessageCommand } from '@aws-sdk/client-sqs';
import { sqsKind } from '@millrace/sinks/sqs';
import { awsMissing } from '@millrace/testkit/servers/aws';
import { afterAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { ACCOUNT, awsBench, expectDenied, KEY } from './aws-target.ts';
import { deliver, messageTo, openSink, refusalOf, routeOf } from './broker-message.ts';
import { CONTAINER_TOKEN, handOut, startCredentialsEndpoint } from './container-credentials.ts';
import { registerPushSinkContract } from './push-sink-contract.ts';

const missing = await awsMissing();
const { started, stop } = awsBench();
const nameOf = (url: string) => url.slice(url.lastIndexOf('/') + 1);

registerPushSinkContract({
  kind: sqsKind,
  module: import.meta.resolve('@millrace/sinks/sqs'),
  exportName: 'sqsKind',
  missing,
  // A FIFO queue: it keeps what a standard one keeps, and an order besides.
  async start() {
    const bench = await started();
    let places = 0;
    return {
      ...bench.part,
      newPlace: () => bench.queue(`place-${++places}.fifo`),
      destination: (place, way) => ({ type: 'sqs', ...bench.connection(way), queue_url: place }),
      withWrongPlace: (destination) => ({ ...destination, queue_url: `${bench.server.url}/${ACCOUNT}/nobody` }),
      routeTo: (place) => ({ queue_url: place }),
      received: (place) => bench.queued(nameOf(place)),
      dedupes: true,
      keepsHistory: true,
      takesText: true,
      bodyBytesMax: 256 * 1024,
    };
  },
});

describe('sqs: where a message goes', () => {
  const url = 'https://sqs.us-east-1.amazonaws.com/123456789012/orders';
  const elsewhere = 'https://sqs.eu-west-1.amazonaws.com/123456789012/orders';

  test('to the configured queue, or the one that the routing function names', () => {
    expect(routeOf(sqsKind, { type: 'sqs', ...KEY, queue_url: url })).toEqual({ queue_url: url });
    const routed = { queue_url: `${url}.fifo` };
    expect(routeOf(sqsKind, { type: 'sqs', ...KEY, queue_url: url }, { routed })).toEqual(routed);
    expect(routeOf(sqsKind, { type: 'sqs', ...KEY, region: 'us-east-1' })).toContain('set queue_url');
  });

  test('not to another region than the one that requests are signed for', () => {
    const routed = { queue_url: elsewhere };
    expect(routeOf(sqsKind, { type: 'sqs', ...KEY, queue_url: url }, { routed })).toContain('eu-west-1');
    expect(routeOf(sqsKind, { type: 'sqs', ...KEY, region: 'eu-west-1' }, { routed })).toEqual(routed);
  });

  test('a key is required unless the process has a role, an emulator has an address, and somebody says the region', () => {
    const problems = (more: object) => {
      const parsed = sqsKind.schema.safeParse({ type: 'sqs', queue_url: url, ...more });
      return parsed.error?.issues.map(({ path }) => path.join('.')) ?? [];
    };
    expect(problems({})).toEqual(['access_key_id', 'secret_access_key']);
    expect(problems({ use_task_role: true })).toEqual([]);
    expect(problems({ ...KEY, use_emulator: true })).toEqual(['emulator_base_url']);
    expect(problems({ ...KEY, queue_url: undefined })).toEqual(['region']);
    expect(problems({ ...KEY, queue_url: url.replace('sqs.', 'vpce-1.sqs.') })).toEqual(['region']);
    expect(problems({ ...KEY, queue_url: 'https://example.com/orders' })).toContain('queue_url');
  });
});

describe.skipIf(missing !== null)(`sqs: what SQS does with it${missing === null ? '' : ` (${missing})`}`, () => {
  test('a FIFO queue found by the route alone gets groups and ids, and the same message once', async () => {
    const bench = await started();
    const url = await bench.queue('routed.fifo');
    const destination = { type: 'sqs', ...bench.connection('direct') };
    const sink = await openSink(sqsKind, destination);
    const message = messageTo(sqsKind, destination, { routed: { queue_url: url }, group: 'row' });
    expect(await deliver(sink, message)).toEqual([null]);
    expect(await deliver(sink, message)).toEqual([null]);
    const { Messages = [] } = await bench
      .sqs()
      .send(
        new ReceiveMessageCommand({ QueueUrl: url, MaxNumberOfMessages: 10, MessageSystemAttributeNames: ['All'] }),
      );
    expect(Messages).toHaveLength(1);
    expect(Messages[0]!.Attributes).toMatchObject({
      MessageGroupId: expect.stringMatching(/^[0-9a-f]{32}$/),
      MessageDeduplicationId: expect.stringMatching(/^[0-9a-f]{32}$/),
    });
  });

  test('a standard queue gets neither; what it cannot take is refused by itself, and the rest of the request arrives', async () => {
    const bench = await started();
    const destination = { type: 'sqs', ...bench.connection('direct'), queue_url: await bench.queue('partial') };
    const sink = await openSink(sqsKind, destination);
    const bodies = [Buffer.from('{"good":1}'), Buffer.from('bad \u0001'), Buffer.from(''), Buffer.from('{"good":2}')];
    const messages = bodies.map((body) => messageTo(sqsKind, destination, { body }));
    const errors = await deliver(sink, ...messages);
    expect(errors.map((error) => error?.code ?? null)).toEqual([null, 'sink_refused', 'sink_refused', null]);
    expect(await bench.server.queued('partial')).toEqual([
      { body: '{"good":1}', group: null },
      { body: '{"good":2}', group: null },
    ]);
  });

  test('what JSON leaves as it is, and SQS does not take, is written otherwise', async () => {
    const bench = await started();
    const queue_url = await bench.queue('odd');
    const destination = { type: 'sqs', ...bench.connection('direct'), queue_url };
    const sink = await openSink(sqsKind, destination);
    const value = { odd: 'a\ufffe\uffffb\u0001' };
    expect(await deliver(sink, messageTo(sqsKind, destination, { body: value }))).toEqual([null]);
    const [found] = await bench.server.queued('odd');
    expect(found?.body).toBe('{"odd":"a\\ufffe\\uffffb\\u0001"}');
    expect(JSON.parse(found?.body ?? '')).toEqual(value);
  });

  test('a message larger than the queue takes, though not than was configured, is refused', async () => {
    const bench = await started();
    const Attributes = { MaximumMessageSize: '1024' };
    await bench.sqs().send(new CreateQueueCommand({ QueueName: 'small', Attributes }));
    const queue_url = `${bench.server.url}/${ACCOUNT}/small`;
    const destination = { type: 'sqs', ...bench.connection('direct'), queue_url };
    const sink = await openSink(sqsKind, destination);
    const [error] = await deliver(sink, messageTo(sqsKind, destination, { body: 'x'.repeat(1_025) }));
    expect(error).toMatchObject({ code: 'sink_refused' });
    expect(await bench.queued('small')).toEqual([]);
  });

  test('a message of the 1 MiB that a queue may be set to take arrives when it is configured', async () => {
    const bench = await started();
    const queue_url = await bench.queue('large');
    const destination = { type: 'sqs', ...bench.connection('direct'), queue_url, max_message_bytes: 1_048_576 };
    const sink = await openSink(sqsKind, destination);
    expect(await deliver(sink, messageTo(sqsKind, destination, { body: 'x'.repeat(1_048_576) }))).toEqual([null]);
    expect((await bench.queued('large')).map(({ body }) => body.length)).toEqual([1_048_576]);
  });

  test('a queue that is not there is missing, with what to do', async () => {
    const bench = await started();
    const queue_url = `${bench.server.url}/${ACCOUNT}/none`;
    const destination = { type: 'sqs', ...bench.connection('direct'), queue_url };
    const sink = await openSink(sqsKind, destination);
    const [error] = await deliver(sink, messageTo(sqsKind, destination));
    expect(error).toMatchObject({ code: 'sink_place_missing', hint: expect.stringContaining('Make it') });
    expect(await refusalOf(sink)).toMatchObject({ code: 'sink_place_missing' });
    expect(error?.logText).toContain('queue none');
    const routed = { queue_url: `${bench.server.url}/${ACCOUNT}/orders-Ada` };
    const [other] = await deliver(sink, messageTo(sqsKind, destination, { routed }));
    expect(other?.detail).toContain('queue orders-Ada');
    expect(other?.logText).not.toContain('Ada');
  });

  test('only the right key is served', async () => {
    const bench = await started();
    const queue_url = await bench.queue('guarded');
    const key = await bench.server.checkKeys();
    onTestFinished(() => bench.server.trustKeys());
    await expectDenied(sqsKind, { type: 'sqs', ...bench.connection('direct'), queue_url }, key);
    expect(await bench.queued('guarded')).toHaveLength(1);
  });

  test('with the role of a task: its credentials are kept, renewed in time, when they are over, and when they are refused', async () => {
    const bench = await started();
    const { server } = bench;
    const queue_url = await bench.queue('by-role');
    const [one, two, three, four] = await Promise.all(['one', 'two', 'three', 'four'].map(server.assumeRole));
    const { access_key_id: _, secret_access_key: __, ...connection } = bench.connection('direct');
    const destination = { type: 'sqs', ...connection, queue_url, use_task_role: true };
    onTestFinished(() => server.trustKeys());
    const disarm = async (name: string) => {
      await server.trustKeys();
      await server.disarmRole(name);
      await server.checkKeys();
    };
    await server.checkKeys();
    const endpoint = await startCredentialsEndpoint(handOut(one!, 120_000));
    const sink = await openSink(sqsKind, destination);
    const send = async () => (await deliver(sink, messageTo(sqsKind, destination)))[0];
    await sink.test(new AbortController().signal);
    expect(await send()).toBeNull();
    // Not long before they are over others are asked for, and those of then serve meanwhile.
    let { asked } = endpoint;
    endpoint.answer = handOut(two!, 21_600_000);
    expect(await send()).toBeNull();
    await expect.poll(() => endpoint.asked).toBeGreaterThan(asked);
    await disarm('one');
    expect(await send()).toBeNull();
    ({ asked } = endpoint);
    expect(await Promise.all([send(), send(), send()])).toEqual([null, null, null]);
    expect(endpoint.asked).toBe(asked);
    // Refused before their time, they are not kept until then.
    await disarm('two');
    endpoint.answer = handOut(three!, 1_500);
    expect(await send()).toMatchObject({ code: 'sink_denied' });
    expect(await send()).toBeNull();
    // Over, they are not used once more.
    endpoint.answer = handOut(four!, 21_600_000);
    const overMs = Date.now() + 1_500;
    await disarm('three');
    await expect.poll(() => Date.now() > overMs, { timeout: 10_000 }).toBe(true);
    expect(await send()).toBeNull();
    expect(await bench.queued('by-role')).toHaveLength(8);
  });
});

describe('sqs: when the role of the task gives nothing', () => {
  const queue_url = 'https://sqs.us-east-1.amazonaws.com/123456789012/orders';
  const destination = { type: 'sqs', queue_url, use_task_role: true };
  const SECRET = 'a-secret-of-the-role';

  test('whatever the address of credentials says wrong, and when it is gone, that is told, and no secret', async () => {
    const warned = vi.spyOn(console, 'warn').mockImplementation(() => {});
    onTestFinished(() => warned.mockRestore());
    // The SDK asks four times, a second apart.
    const endpoint = await startCredentialsEndpoint((response) => {
      if (endpoint.asked === 1) response.end(`${SECRET} is not JSON`);
      else if (endpoint.asked === 2) response.end(`{"SecretAccessKey":"${SECRET}"}`);
      else {
        response.writeHead(500).end(`{"Code":"${SECRET}","Message":"${SECRET}"}`);
        void endpoint.close();
      }
    });
    const sink = await openSink(sqsKind, destination);
    const [[error], refusal] = await Promise.all([deliver(sink, messageTo(sqsKind, destination)), refusalOf(sink)]);
    for (const one of [error, refusal]) {
      expect(one).toMatchObject({ code: 'sink_credentials_missing', hint: expect.stringContaining('AWS_CONTAINER_') });
      expect(one!.detail).toMatch(/^\w+Error/);
      for (const secret of [SECRET, CONTAINER_TOKEN]) {
        expect(`${one!.message} ${one!.hint} ${JSON.stringify(warned.mock.calls)}`).not.toContain(secret);
      }
    }
    expect(endpoint.asked).toBe(3);
  });

  test('one that never answers holds nothing up beyond the time limit, or the end of the sink, and gathers no connections', async () => {
    const warned = vi.spyOn(console, 'warn').mockImplementation(() => {});
    onTestFinished(() => warned.mockRestore());
    const endpoint = await startCredentialsEndpoint(() => {});
    const sink = await openSink(sqsKind, destination, { timeoutMs: 250 });
    for (let n = 0; n < 4; n++) {
      const [error] = await deliver(sink, messageTo(sqsKind, destination));
      expect(error).toMatchObject({ code: 'sink_credentials_missing', detail: expect.stringContaining('250 ms') });
    }
    expect(endpoint.asked).toBe(2);
    const patient = await openSink(sqsKind, destination);
    const waiting = deliver(patient, messageTo(sqsKind, destination));
    await expect.poll(() => endpoint.asked).toBe(3);
    await patient.close();
    expect(await waiting).toMatchObject([{ code: 'sink_credentials_missing' }]);
  });
});

afterAll(stop, 60_000);
