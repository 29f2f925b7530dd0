import { CreateTopicCommand, SubscribeCommand } from '@aws-sdk/client-sns';
import { snsKind } from '@millrace/sinks/sns';
import { awsMissing } from '@millrace/testkit/servers/aws';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import { ACCOUNT, type AwsBench, awsBench, expectDenied, KEY, REGION } from './aws-target.ts';
import { deliver, messageTo, openSink, refusalOf, routeOf } from './broker-message.ts';
import { registerPushSinkContract } from './push-sink-contract.ts';

const missing = await awsMissing();
const { started, stop } = awsBench();
const arnOf = (name: string) => `arn:aws:sns:${REGION}:${ACCOUNT}:${name}`;
const nameOf = (arn: string) => arn.slice(arn.lastIndexOf(':') + 1);

/** A topic with a queue of the same name, which gets the messages as they were published. */
async function makeTopic(bench: AwsBench, name: string): Promise<string> {
  await bench.queue(name);
  const make = async () => {
    const sns = bench.sns();
    const Attributes = name.endsWith('.fifo') ? { FifoTopic: 'true' } : {};
    await sns.send(new CreateTopicCommand({ Name: name, Attributes }));
    await sns.send(
      new SubscribeCommand({
        TopicArn: arnOf(name),
        Protocol: 'sqs',
        Endpoint: `arn:aws:sqs:${REGION}:${ACCOUNT}:${name}`,
        Attributes: { RawMessageDelivery: 'true' },
      }),
    );
  };
  await make();
  bench.places.set(`topic ${name}`, make);
  return arnOf(name);
}

registerPushSinkContract({
  kind: snsKind,
  module: import.meta.resolve('@millrace/sinks/sns'),
  exportName: 'snsKind',
  missing,
  // A FIFO topic: it keeps what a standard one keeps, and an order besides.
  async start() {
    const bench = await started();
    let places = 0;
    return {
      ...bench.part,
      newPlace: () => makeTopic(bench, `place-${++places}.fifo`),
      destination: (place, way) => ({ type: 'sns', ...bench.connection(way), topic_arn: place }),
      withWrongPlace: (destination) => ({ ...destination, topic_arn: arnOf('nobody') }),
      routeTo: (place) => ({ topic_arn: place }),
      received: (place) => bench.queued(nameOf(place)),
      dedupes: true,
      keepsHistory: true,
      takesText: true,
      bodyBytesMax: 256 * 1024,
    };
  },
});

describe('sns: where a message goes', () => {
  const arn = arnOf('orders');

  test('to the configured topic, or the one that the routing function names, in the region of the sink', () => {
    expect(routeOf(snsKind, { type: 'sns', ...KEY, topic_arn: arn })).toEqual({ topic_arn: arn });
    const routed = { topic_arn: `${arn}.fifo` };
    expect(routeOf(snsKind, { type: 'sns', ...KEY, topic_arn: arn }, { routed })).toEqual(routed);
    expect(routeOf(snsKind, { type: 'sns', ...KEY, region: REGION })).toContain('set topic_arn');
    expect(routeOf(snsKind, { type: 'sns', ...KEY, region: 'eu-west-1' }, { routed })).toContain('eu-west-1');
  });

  test('a topic is named by its ARN, and somebody says the region', () => {
    const problems = (more: object) => {
      const parsed = snsKind.schema.safeParse({ type: 'sns', ...KEY, ...more });
      return parsed.error?.issues.map(({ path }) => path.join('.')) ?? [];
    };
    expect(problems({ topic_arn: arn })).toEqual([]);
    expect(problems({ topic_arn: 'arn:aws-us-gov:sns:us-gov-west-1:123456789012:orders.fifo' })).toEqual([]);
    expect(problems({})).toEqual(['region']);
    expect(problems({ topic_arn: 'orders', region: REGION })).toEqual(['topic_arn']);
  });
});

describe.skipIf(missing !== null)(`sns: what SNS does with it${missing === null ? '' : ` (${missing})`}`, () => {
  test('a FIFO topic gets groups and ids: the same message arrives once', async () => {
    const bench = await started();
    const topic_arn = await makeTopic(bench, 'repeated.fifo');
    const destination = { type: 'sns', ...bench.connection('direct'), topic_arn };
    const sink = await openSink(snsKind, destination);
    const message = messageTo(snsKind, destination, { group: 'row', body: 'once' });
    expect(await deliver(sink, message)).toEqual([null]);
    expect(await deliver(sink, message)).toEqual([null]);
    expect(await bench.server.queued('repeated.fifo')).toEqual([
      { body: 'once', group: expect.stringMatching(/^[0-9a-f]{32}$/) },
    ]);
  });

  test('a standard topic gets neither; what it cannot take is refused by itself, and the rest of the request arrives', async () => {
    const bench = await started();
    const topic_arn = await makeTopic(bench, 'partial');
    const destination = { type: 'sns', ...bench.connection('direct'), topic_arn };
    const sink = await openSink(snsKind, destination);
    const bodies = [Buffer.from('{"good":1}'), Buffer.from(''), Buffer.from('bad \u0001'), Buffer.from('{"good":2}')];
    const errors = await deliver(sink, ...bodies.map((body) => messageTo(snsKind, destination, { body })));
    expect(errors.map((error) => error?.code ?? null)).toEqual([null, 'sink_refused', 'sink_refused', null]);
    expect(await bench.server.queued('partial')).toEqual([
      { body: '{"good":1}', group: null },
      { body: '{"good":2}', group: null },
    ]);
  });

  test('a topic that is not there is missing, with what to do', async () => {
    const bench = await started();
    const destination = { type: 'sns', ...bench.connection('direct'), topic_arn: arnOf('none') };
    const sink = await openSink(snsKind, destination);
    const [error] = await deliver(sink, messageTo(snsKind, destination));
    expect(error).toMatchObject({ code: 'sink_place_missing', hint: expect.stringContaining('Make it') });
    expect(await refusalOf(sink)).toMatchObject({ code: 'sink_place_missing' });
    expect(error?.logText).toContain('topic none');
    const routed = { topic_arn: arnOf('orders-Ada') };
    const [other] = await deliver(sink, messageTo(snsKind, destination, { routed }));
    expect(other?.detail).toContain('topic orders-Ada');
    expect(other?.logText).not.toContain('Ada');
  });

  test('only the right key is served', async () => {
    const bench = await started();
    const topic_arn = await makeTopic(bench, 'guarded');
    const key = await bench.server.checkKeys();
    onTestFinished(() => bench.server.trustKeys());
    await expectDenied(snsKind, { type: 'sns', ...bench.connection('direct'), topic_arn }, key);
    expect(await bench.queued('guarded')).toHaveLength(1);
  });
});

afterAll(stop, 60_000);
