import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import {
  CreateStreamCommand,
  GetRecordsCommand,
  GetShardIteratorCommand,
  ListShardsCommand,
} from '@aws-sdk/client-kinesis';
import { kinesisKind, partitionKey } from '@millrace/sinks/kinesis';
import { awsMissing } from '@millrace/testkit/servers/aws';
import { afterAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { ACCOUNT, type AwsBench, awsBench, expectDenied, KEY, REGION } from './aws-target.ts';
import { deliver, messageTo, openSink, refusalOf, routeOf } from './broker-message.ts';
import { registerPushSinkContract } from './push-sink-contract.ts';

const missing = await awsMissing();
const { started, stop } = awsBench();
const arnOf = (name: string) => `arn:aws:kinesis:${REGION}:${ACCOUNT}:stream/${name}`;
const SHARDS = 4;

async function makeStream(bench: AwsBench, name: string): Promise<string> {
  const make = async () =>
    void (await bench.kinesis().send(new CreateStreamCommand({ StreamName: name, ShardCount: SHARDS })));
  await make();
  bench.places.set(name, make);
  return arnOf(name);
}

/** Shard by shard, in order of arrival. */
async function shardsOf(bench: AwsBench, StreamARN: string) {
  const kinesis = bench.kinesis();
  const { Shards = [] } = await kinesis.send(new ListShardsCommand({ StreamARN }));
  const contents = Shards.map(async ({ ShardId }) => {
    const from = { StreamARN, ShardId, ShardIteratorType: 'TRIM_HORIZON' } as const;
    const { ShardIterator } = await kinesis.send(new GetShardIteratorCommand(from));
    const { Records = [] } = await kinesis.send(new GetRecordsCommand({ StreamARN, ShardIterator, Limit: 10_000 }));
    return Records.map(({ Data, PartitionKey }) => ({ body: Buffer.from(Data ?? []), key: PartitionKey }));
  });
  return await Promise.all(contents);
}

registerPushSinkContract({
  kind: kinesisKind,
  module: import.meta.resolve('@millrace/sinks/kinesis'),
  exportName: 'kinesisKind',
  missing,
  async start() {
    const bench = await started();
    let places = 0;
    return {
      ...bench.part,
      newPlace: () => makeStream(bench, `place-${++places}`),
      destination: (place, way) => ({ type: 'kinesis', ...bench.connection(way), stream_arn: place }),
      withWrongPlace: (destination) => ({ ...destination, stream_arn: arnOf('nobody') }),
      routeTo: (place) => ({ stream_arn: place }),
      received: async (place) => (await shardsOf(bench, place)).flat(),
      dedupes: false,
      keepsHistory: true,
      takesText: true,
    };
  },
});

describe('kinesis: where a message goes', () => {
  const arn = arnOf('orders');

  test('to the configured stream, or the one that the routing function names, in the region of the sink', () => {
    expect(routeOf(kinesisKind, { type: 'kinesis', ...KEY, stream_arn: arn })).toEqual({ stream_arn: arn });
    const routed = { stream_arn: arnOf('others') };
    expect(routeOf(kinesisKind, { type: 'kinesis', ...KEY, stream_arn: arn }, { routed })).toEqual(routed);
    expect(routeOf(kinesisKind, { type: 'kinesis', ...KEY, region: REGION })).toContain('set stream_arn');
    expect(routeOf(kinesisKind, { type: 'kinesis', ...KEY, region: 'eu-west-1' }, { routed })).toContain('eu-west-1');
  });

  test('a group is the partition key; one that is too long, or empty, by its digest', () => {
    const keyOf = (group: string | null) =>
      partitionKey(
        messageTo(kinesisKind, { type: 'kinesis', ...KEY, stream_arn: arn }, { group, idempotencyKey: 'id' }),
      );
    expect(keyOf('row 7')).toBe('row 7');
    expect(keyOf(null)).toBe('id');
    expect(keyOf('x'.repeat(256))).toBe('x'.repeat(256));
    for (const odd of ['', 'x'.repeat(257)]) expect(keyOf(odd)).toMatch(/^[0-9a-f]{32}$/);
    expect(keyOf('x'.repeat(257))).not.toBe(keyOf('x'.repeat(258)));
  });
});

/**
 * A server that answers PutRecords as Kinesis does when shards are busy: Moto takes all of a request, or nothing.
 * `verdicts`: for each record of a request an error code, or null.
 */
async function fakeKinesis(verdicts: readonly (string | null)[], status = 200, body?: object): Promise<string> {
  return (await listeningKinesis(verdicts, status, body)).url;
}

async function listeningKinesis(verdicts: readonly (string | null)[], status = 200, body?: object) {
  const server = createServer(async (request, response) => {
    await text(request);
    const Records = verdicts.map((ErrorCode, n) =>
      ErrorCode === null
        ? { SequenceNumber: String(n), ShardId: 'shardId-000000000000' }
        : { ErrorCode, ErrorMessage: 'Rate exceeded for a-value-of-a-row' },
    );
    const FailedRecordCount = verdicts.filter((code) => code !== null).length;
    response.writeHead(status, { 'content-type': 'application/x-amz-json-1.1' });
    response.end(JSON.stringify(body ?? { FailedRecordCount, Records }));
  });
  // Never from its side.
  server.keepAliveTimeout = 0;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.close();
    server.closeAllConnections();
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    connections: promisify(server.getConnections.bind(server)),
  };
}

describe('kinesis: what its answers mean', () => {
  const at = (emulator_base_url: string) => ({
    type: 'kinesis',
    ...KEY,
    stream_arn: arnOf('orders'),
    use_emulator: true,
    emulator_base_url,
  });

  test('the stream of the sink is named in texts for logs, one that a routing function named is not', async () => {
    const destination = at('http://127.0.0.1:1');
    const sink = await openSink(kinesisKind, destination);
    const [error] = await deliver(sink, messageTo(kinesisKind, destination));
    expect(error?.logText).toContain('stream orders:');
    const routed = { stream_arn: arnOf('orders-Ada') };
    const [other] = await deliver(sink, messageTo(kinesisKind, destination, { routed }));
    expect(other?.detail).toContain('stream orders-Ada:');
    expect(other?.logText).toContain('stream …:');
  });

  test('records that fail by themselves fail alone, and nothing of what was said about them is told', async () => {
    const destination = at(
      await fakeKinesis([
        null,
        'ProvisionedThroughputExceededException',
        'InternalFailure',
        'KMSThrottlingException',
        null,
      ]),
    );
    const sink = await openSink(kinesisKind, destination);
    const errors = await deliver(sink, ...Array.from({ length: 5 }, () => messageTo(kinesisKind, destination)));
    const busy = 'sink_unavailable';
    expect(errors.map((error) => error?.code ?? null)).toEqual([null, busy, busy, busy, null]);
    expect(errors[1]?.detail).toContain('ProvisionedThroughputExceededException');
    expect(errors.map((error) => error?.message ?? '').join()).not.toContain('a-value-of-a-row');
  });

  test('a connection is used again, and ends with the sink (Moto keeps none)', async () => {
    const server = await listeningKinesis([null]);
    const destination = at(server.url);
    const sink = await openSink(kinesisKind, destination);
    for (let n = 0; n < 3; n++) expect(await deliver(sink, messageTo(kinesisKind, destination))).toEqual([null]);
    expect(await server.connections()).toBe(1);
    await sink.close();
    await vi.waitUntil(async () => (await server.connections()) === 0, { timeout: 30_000 });
  });

  test('an answer with fewer records than were sent fails those it does not mention', async () => {
    const destination = at(await fakeKinesis(['InternalFailure']));
    const sink = await openSink(kinesisKind, destination);
    const errors = await deliver(sink, messageTo(kinesisKind, destination), messageTo(kinesisKind, destination));
    expect(errors.map((error) => error?.code ?? null)).toEqual(['sink_unavailable', 'sink_unavailable']);
  });

  test.each([
    [400, 'ProvisionedThroughputExceededException', 'sink_unavailable'],
    [400, 'LimitExceededException', 'sink_unavailable'],
    [400, 'KMSThrottlingException', 'sink_unavailable'],
    [500, 'InternalFailureException', 'sink_unavailable'],
    [400, 'AccessDeniedException', 'sink_denied'],
    [400, 'KMSAccessDeniedException', 'sink_denied'],
    [400, 'UnrecognizedClientException', 'sink_denied'],
    [400, 'ExpiredTokenException', 'sink_denied'],
    [400, 'ResourceNotFoundException', 'sink_place_missing'],
    [400, 'ValidationException', 'sink_refused'],
  ])('%i %s is %s', async (status, code, expected) => {
    const destination = at(await fakeKinesis([], status, { __type: code, message: 'a-value-of-a-row' }));
    const sink = await openSink(kinesisKind, destination);
    for (const error of [(await deliver(sink, messageTo(kinesisKind, destination)))[0], await refusalOf(sink)]) {
      expect(error).toMatchObject({ code: expected, detail: expect.stringContaining(code) });
      expect(error?.message).not.toContain('a-value-of-a-row');
    }
  });
});

describe.skipIf(missing !== null)(
  `kinesis: what Kinesis does with it${missing === null ? '' : ` (${missing})`}`,
  () => {
    test('groups are spread over the shards, each with all of its messages in one, in order', async () => {
      const bench = await started();
      const stream_arn = await makeStream(bench, 'spread');
      const destination = { type: 'kinesis', ...bench.connection('direct'), stream_arn };
      const sink = await openSink(kinesisKind, destination);
      const groups = Array.from({ length: 40 }, (_, n) => `row-${n}`);
      for (let round = 0; round < 3; round++) {
        const messages = groups.map((group) =>
          messageTo(kinesisKind, destination, { group, body: `${group} ${round}` }),
        );
        expect(await deliver(sink, ...messages)).toEqual(groups.map(() => null));
      }
      const shards = await shardsOf(bench, stream_arn);
      expect(shards.filter((records) => records.length > 0)).toHaveLength(SHARDS);
      for (const group of groups) {
        const found = shards.map((records) =>
          records.filter(({ key }) => key === group).map(({ body }) => String(body)),
        );
        expect(found.filter((bodies) => bodies.length > 0)).toEqual([[0, 1, 2].map((round) => `${group} ${round}`)]);
      }
    });

    test('the partition key counts: a record of exactly the largest size is taken, of a byte more it is too large', async () => {
      const bench = await started();
      const stream_arn = await makeStream(bench, 'large');
      const destination = { type: 'kinesis', ...bench.connection('direct'), stream_arn };
      const sink = await openSink(kinesisKind, destination);
      const ofBytes = (bytes: number) =>
        messageTo(kinesisKind, destination, { group: 'ž', body: 'x'.repeat(bytes - Buffer.byteLength('ž')) });
      expect(await deliver(sink, ofBytes(1_048_576))).toEqual([null]);
      const [error] = await deliver(sink, ofBytes(1_048_577));
      expect(error).toMatchObject({ code: 'sink_record_too_large' });
      expect((await shardsOf(bench, stream_arn)).flat()).toHaveLength(1);
    });

    test('only the right key is served', async () => {
      const bench = await started();
      const stream_arn = await makeStream(bench, 'guarded');
      const key = await bench.server.checkKeys();
      onTestFinished(() => bench.server.trustKeys());
      await expectDenied(kinesisKind, { type: 'kinesis', ...bench.connection('direct'), stream_arn }, key);
      await bench.server.trustKeys();
      expect((await shardsOf(bench, stream_arn)).flat()).toHaveLength(1);
    });
  },
);

afterAll(stop, 60_000);
