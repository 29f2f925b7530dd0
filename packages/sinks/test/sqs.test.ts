import { CreateQueueCommand, DeleteMessageBatchCommand, ReceiveMessageCommand } from '@aws-sdk/client-sqs';
import { sqsKind } from '@millrace/sinks/sqs';
import { awsMissing } from '@millrace/testkit/servers/aws';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ACCOUNT, type AwsBench, startAwsBench } from './aws-target.ts';
import { deliver, messageTo, openSink, refusalOf, routeOf } from './broker-message.ts';
import { registerPushSinkContract } from './push-sink-contract.ts';
import type { Received } from './push-sink-subject.ts';

const missing = await awsMissing();
const KEY = { access_key_id: 'AKIAIOSFODNN7EXAMPLE', secret_access_key: 'x' };

/** Everything that was ever in a queue, in order of arrival. What is read is taken out. */
function queueReader(bench: AwsBench) {
  const read = new Map<string, Received[]>();
  return async (url: string): Promise<readonly Received[]> => {
    const found = read.get(url) ?? [];
    read.set(url, found);
    const client = bench.sqs();
    for (;;) {
      const { Messages = [] } = await client.send(
        new ReceiveMessageCommand({ QueueUrl: url, MaxNumberOfMessages: 10, MessageSystemAttributeNames: ['All'] }),
      );
      if (Messages.length === 0) return found;
      for (const { Body } of Messages) found.push({ body: Buffer.from(Body ?? '') });
      const Entries = Messages.map(({ ReceiptHandle }, i) => ({ Id: String(i), ReceiptHandle: ReceiptHandle! }));
      await client.send(new DeleteMessageBatchCommand({ QueueUrl: url, Entries }));
    }
  };
}

async function makeQueue(bench: AwsBench, name: string): Promise<string> {
  const Attributes = name.endsWith('.fifo') ? { FifoQueue: 'true' } : {};
  const make = async () => void (await bench.sqs().send(new CreateQueueCommand({ QueueName: name, Attributes })));
  await make();
  bench.places.set(name, make);
  return `${bench.server.url}/${ACCOUNT}/${name}`;
}

for (const fifo of [false, true]) {
  registerPushSinkContract({
    kind: sqsKind,
    module: import.meta.resolve('@millrace/sinks/sqs'),
    exportName: 'sqsKind',
    missing,
    async start() {
      const bench = await startAwsBench();
      let places = 0;
      return {
        ...bench.part,
        newPlace: () => makeQueue(bench, `place-${++places}${fifo ? '.fifo' : ''}`),
        destination: (place, way) => ({ type: 'sqs', ...bench.connection(way), queue_url: place }),
        withWrongPlace: (destination) => ({ ...destination, queue_url: `${bench.server.url}/${ACCOUNT}/nobody` }),
        routeTo: (place) => ({ queue_url: place }),
        received: queueReader(bench),
        dedupes: fifo,
        keepsHistory: true,
        takesText: true,
        bodyBytesMax: 256 * 1024,
      };
    },
  });
}

describe('sqs: where a message goes', () => {
  const url = 'https://sqs.us-east-1.amazonaws.com/123456789012/orders';

  test('to the configured queue, or the one that the routing function names', () => {
    expect(routeOf(sqsKind, { type: 'sqs', ...KEY, queue_url: url })).toEqual({ queue_url: url });
    const routed = { queue_url: `${url}.fifo` };
    expect(routeOf(sqsKind, { type: 'sqs', ...KEY, queue_url: url }, { routed })).toEqual(routed);
    expect(routeOf(sqsKind, { type: 'sqs', ...KEY })).toContain('set queue_url');
  });

  test('a key is required unless the process has a role, and an emulator has an address', () => {
    const problems = (more: object) => {
      const parsed = sqsKind.schema.safeParse({ type: 'sqs', queue_url: url, ...more });
      return parsed.error?.issues.map(({ path }) => path.join('.')) ?? [];
    };
    expect(problems({})).toEqual(['access_key_id', 'secret_access_key']);
    expect(problems({ use_task_role: true })).toEqual([]);
    expect(problems({ ...KEY, use_emulator: true })).toEqual(['emulator_base_url']);
    expect(problems({ ...KEY, queue_url: 'https://example.com/orders' })).toEqual(['queue_url']);
  });
});

describe.skipIf(missing !== null)(`sqs: what SQS does with it${missing === null ? '' : ` (${missing})`}`, () => {
  let bench: AwsBench;
  beforeAll(async () => {
    bench = await startAwsBench();
  }, 180_000);
  afterAll(() => bench?.part.stop());

  test('a FIFO queue found by the route alone gets groups and ids, and the same message once', async () => {
    const url = await makeQueue(bench, 'routed.fifo');
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

  test('what the queue cannot take is refused by itself, and the rest of the request arrives', async () => {
    const url = await makeQueue(bench, 'partial');
    const destination = { type: 'sqs', ...bench.connection('direct'), queue_url: url };
    const sink = await openSink(sqsKind, destination);
    const bodies = [Buffer.from('{"good":1}'), Buffer.from('bad \u0001'), Buffer.from(''), Buffer.from('{"good":2}')];
    const messages = bodies.map((body) => messageTo(sqsKind, destination, { body }));
    const errors = await deliver(sink, ...messages);
    expect(errors.map((error) => error?.code ?? null)).toEqual([null, 'sink_refused', 'sink_refused', null]);
    expect((await queueReader(bench)(url)).map(({ body }) => body.toString()).sort()).toEqual([
      '{"good":1}',
      '{"good":2}',
    ]);
  });

  test('a queue that is not there is refused, with what to do', async () => {
    const destination = {
      type: 'sqs',
      ...bench.connection('direct'),
      queue_url: `${bench.server.url}/${ACCOUNT}/none`,
    };
    const sink = await openSink(sqsKind, destination);
    const [error] = await deliver(sink, messageTo(sqsKind, destination));
    expect(error).toMatchObject({ code: 'sink_refused', hint: expect.stringContaining('Make it') });
    expect(await refusalOf(sink)).toMatchObject({ code: 'sink_refused' });
  });
});
