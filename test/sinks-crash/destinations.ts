/**
 * What the campaign delivers into: of each kind a real server (of AWS an emulator), behind a proxy where there is a
 * connection to cut, and what it holds in the end, read past the proxy.
 */
import {
  CreateStreamCommand,
  DescribeStreamSummaryCommand,
  GetRecordsCommand,
  GetShardIteratorCommand,
  ListShardsCommand,
} from '@aws-sdk/client-kinesis';
import { CreateTopicCommand, SubscribeCommand } from '@aws-sdk/client-sns';
import {
  CreateQueueCommand,
  DeleteMessageBatchCommand,
  GetQueueAttributesCommand,
  ReceiveMessageCommand,
} from '@aws-sdk/client-sqs';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { startProxy, type TcpProxy } from '@millrace/testkit/proxy';
import { awsMissing } from '@millrace/testkit/servers/aws';
import { kafkaMissing, startKafka } from '@millrace/testkit/servers/kafka';
import { natsMissing } from '@millrace/testkit/servers/nats';
import { rabbitmqMissing } from '@millrace/testkit/servers/rabbitmq';
import { redisMissing } from '@millrace/testkit/servers/redis';
import { ACCOUNT, type AwsBench, startAwsBench } from '../../packages/sinks/test/aws-target.ts';
import { startNatsBench } from '../../packages/sinks/test/nats-target.ts';
import { startRabbitmqBench } from '../../packages/sinks/test/rabbitmq-target.ts';
import { type RedisBench, startRedisBench } from '../../packages/sinks/test/redis-target.ts';
import { bodiesOf } from '../stream-bodies.ts';
import { startFlakyEndpoint } from './flaky-endpoint.ts';
import { type KeyedChange, TABLE } from './keyed-workload.ts';
import { startWorkers } from './workers.ts';

export const KINDS = [
  'webhook',
  'kafka',
  'redis_stream',
  'redis_string',
  'nats',
  'rabbitmq',
  'sqs',
  'sns',
  'kinesis',
  'sequin_stream',
  's2',
] as const;
export type Kind = (typeof KINDS)[number];

export const BASIN = 'crash-basin';
export const ENDPOINT = 'crash-endpoint';
export const ROUTING = 'by-third';
/** Longer than any campaign. */
const DEDUPE_NANOS = 3_600 * 1e9;
const QUEUE = 'crash.fifo';
const EMULATOR_KEYS = 20;
const STREAMS = ['third-0', 'third-1', 'third-2'];

/** By key, so that the order of each key is that of a stream. */
export const ROUTING_FUNCTION = {
  name: ROUTING,
  type: 'routing',
  sink_type: 's2',
  code: '(action, record) => ({ stream: `third-${record.id % 3}` })',
};

export interface Destination {
  readonly kind: Kind;
  /** Of the sink's entry in the configuration: all but name and database. */
  readonly sink: Readonly<Record<string, unknown>>;
  /** It takes the keys up to this one only, by a filter: an emulator does not keep up with all. Absent: every key. */
  readonly lastKey?: number;
  /** For `http_endpoints`. */
  readonly endpointUrl?: string;
  /** It drops what it was sent before, or nothing is sent again: there must be no duplicates. */
  readonly dedupes: boolean;
  /** 'history': every message in order; 'latest': the newest one of each key. */
  readonly keeps: 'history' | 'latest';
  /** What its connections go through. Absent: it has none of its own. */
  readonly proxy?: TcpProxy;
  /** Once Millrace has ended. */
  arrivals(dataDir: string): Promise<readonly KeyedChange[]>;
  /** Messages that it took without saying so, besides those of connections that were cut. */
  unanswered?(): number;
  /** Of what the destination itself can tell. */
  problems?(): readonly string[];
}

export interface Destinations {
  readonly all: readonly Destination[];
  stop(): Promise<void>;
}

/** Where Millrace answers at present; null while it does not. */
export type Whereabouts = () => { readonly url: string; readonly token: string } | null;

const MISSING: Partial<Record<Kind, () => Promise<string | null>>> = {
  kafka: kafkaMissing,
  redis_stream: redisMissing,
  redis_string: redisMissing,
  nats: natsMissing,
  rabbitmq: rabbitmqMissing,
  sqs: awsMissing,
  sns: awsMissing,
  kinesis: awsMissing,
};

/** Why this kind cannot be had here, or null. */
export async function missingOf(kind: Kind): Promise<string | null> {
  return (await MISSING[kind]?.()) ?? null;
}

export async function startDestinations(
  kinds: readonly Kind[],
  seed: number,
  whereabouts: Whereabouts,
): Promise<Destinations> {
  const closing: (() => Promise<void>)[] = [];
  const shared = sharedServers(closing);
  const all: Destination[] = [];
  const stop = async () => {
    for (const close of closing.reverse()) await close();
  };
  try {
    for (const kind of kinds) all.push(await STARTS[kind]({ closing, ...shared, seed, whereabouts }));
  } catch (error) {
    await stop();
    throw error;
  }
  return { all, stop };
}

interface Parts {
  readonly closing: (() => Promise<void>)[];
  readonly redis: () => Promise<RedisBench>;
  readonly aws: () => Promise<AwsBench>;
  readonly seed: number;
  readonly whereabouts: Whereabouts;
}

function sharedServers(closing: (() => Promise<void>)[]): Pick<Parts, 'redis' | 'aws'> {
  let redis: Promise<RedisBench> | null = null;
  let aws: Promise<AwsBench> | null = null;
  const closed = async <Bench extends { readonly part: { stop(): Promise<void> } }>(starting: Promise<Bench>) => {
    const bench = await starting;
    closing.push(() => bench.part.stop());
    return bench;
  };
  return {
    redis: () => (redis ??= closed(startRedisBench())),
    aws: () => (aws ??= closed(startAwsBench())),
  };
}

const STARTS: Readonly<Record<Kind, (parts: Parts) => Promise<Destination>>> = {
  async webhook({ closing, seed }) {
    const endpoint = await startFlakyEndpoint(seed);
    const proxy = await startProxy({ port: endpoint.port });
    closing.push(
      () => endpoint.close(),
      () => proxy.close(),
    );
    const changesOf = (bodies: readonly string[]) =>
      bodies.flatMap((text) => (JSON.parse(text) as { data: Message[] }).data.map(changeOf));
    return {
      kind: 'webhook',
      sink: { batch_size: 5, destination: { type: 'webhook', http_endpoint: ENDPOINT } },
      endpointUrl: `http://127.0.0.1:${proxy.port}`,
      dedupes: false,
      keeps: 'history',
      proxy,
      arrivals: async () => changesOf(endpoint.taken),
      unanswered: () => changesOf(endpoint.unanswered).length,
    };
  },

  async kafka({ closing }) {
    const kafka = await startKafka();
    closing.push(() => kafka.stop());
    const topic = await kafka.newTopic();
    return {
      kind: 'kafka',
      sink: { destination: { type: 'kafka', hosts: kafka.listeners.proxied, topic } },
      dedupes: false,
      keeps: 'history',
      proxy: kafka.proxy,
      // Partition by partition.
      arrivals: async () => (await kafka.records(topic)).map(({ value }) => changeOfText(value)),
    };
  },

  async redis_stream({ redis }) {
    const bench = await redis();
    return {
      kind: 'redis_stream',
      sink: { destination: { type: 'redis_stream', ...bench.connection('proxy'), stream_key: 'crash' } },
      dedupes: false,
      keeps: 'history',
      proxy: bench.proxy,
      async arrivals() {
        const entries = await bench.client.xrange('crash', '-', '+');
        return entries.map(([, fields]) => {
          const fieldOf = (name: string) => fields[fields.indexOf(name) + 1] ?? '';
          return changeOf({ action: fieldOf('action'), record: JSON.parse(fieldOf('record')) as Message['record'] });
        });
      },
    };
  },

  async redis_string({ redis }) {
    const bench = await redis();
    return {
      kind: 'redis_string',
      sink: { destination: { type: 'redis_string', ...bench.connection('proxy') } },
      dedupes: true,
      keeps: 'latest',
      proxy: bench.proxy,
      async arrivals() {
        const keys = await bench.client.keys(`sequin:${TABLE}:*`);
        return keys.length === 0 ? [] : (await bench.client.mget(keys)).map((text) => changeOfText(text));
      },
    };
  },

  async nats({ closing }) {
    const bench = await startNatsBench();
    closing.push(() => bench.stop());
    const place = await bench.newPlace({ duplicate_window: DEDUPE_NANOS });
    return {
      kind: 'nats',
      sink: { destination: bench.destination(place, 'proxy') },
      dedupes: true,
      keeps: 'history',
      proxy: bench.proxy,
      arrivals: async () => (await bench.received(place)).map(({ body }) => changeOfText(body)),
    };
  },

  async rabbitmq({ closing }) {
    const bench = await startRabbitmqBench();
    closing.push(() => bench.stop());
    const place = await bench.newPlace();
    return {
      kind: 'rabbitmq',
      sink: { destination: bench.destination(place, 'proxy') },
      dedupes: false,
      keeps: 'history',
      proxy: bench.proxy,
      arrivals: async () => (await bench.messages(place)).map(({ body }) => changeOf(body as Message)),
    };
  },

  async sqs({ aws }) {
    const bench = await aws();
    const url = await makeQueue(bench, QUEUE);
    return {
      kind: 'sqs',
      sink: { destination: { type: 'sqs', ...bench.connection('proxy'), queue_url: url } },
      lastKey: EMULATOR_KEYS,
      dedupes: true,
      keeps: 'history',
      proxy: bench.proxy,
      arrivals: () => drainQueue(bench, url),
    };
  },

  async sns({ aws }) {
    const bench = await aws();
    const url = await makeQueue(bench, `topic-${QUEUE}`);
    const { Attributes } = await bench
      .sqs()
      .send(new GetQueueAttributesCommand({ QueueUrl: url, AttributeNames: ['QueueArn'] }));
    const { TopicArn } = await bench
      .sns()
      .send(new CreateTopicCommand({ Name: QUEUE, Attributes: { FifoTopic: 'true' } }));
    await bench.sns().send(
      new SubscribeCommand({
        TopicArn,
        Protocol: 'sqs',
        Endpoint: Attributes?.QueueArn,
        Attributes: { RawMessageDelivery: 'true' },
      }),
    );
    return {
      kind: 'sns',
      sink: { destination: { type: 'sns', ...bench.connection('proxy'), topic_arn: TopicArn } },
      lastKey: EMULATOR_KEYS,
      dedupes: true,
      keeps: 'history',
      proxy: bench.proxy,
      arrivals: () => drainQueue(bench, url),
    };
  },

  async kinesis({ aws }) {
    const bench = await aws();
    const StreamName = 'crash';
    const client = bench.kinesis();
    await client.send(new CreateStreamCommand({ StreamName, ShardCount: 2 }));
    const { StreamDescriptionSummary: summary } = await client.send(new DescribeStreamSummaryCommand({ StreamName }));
    return {
      kind: 'kinesis',
      sink: { destination: { type: 'kinesis', ...bench.connection('proxy'), stream_arn: summary?.StreamARN } },
      lastKey: EMULATOR_KEYS,
      dedupes: false,
      keeps: 'history',
      proxy: bench.proxy,
      async arrivals() {
        const found: KeyedChange[] = [];
        const { Shards = [] } = await client.send(new ListShardsCommand({ StreamName }));
        for (const { ShardId } of Shards) {
          const first = { StreamName, ShardId, ShardIteratorType: 'TRIM_HORIZON' } as const;
          let { ShardIterator } = await client.send(new GetShardIteratorCommand(first));
          for (;;) {
            const answer = await client.send(new GetRecordsCommand({ ShardIterator, Limit: 1_000 }));
            const records = answer.Records ?? [];
            if (records.length === 0) break;
            for (const { Data } of records) found.push(changeOfText(Data ?? null));
            ShardIterator = answer.NextShardIterator;
          }
        }
        return found;
      },
    };
  },

  async sequin_stream({ closing, whereabouts }) {
    const workers = startWorkers({ sink: 'sequin_stream', whereabouts, workers: 3, changeOf });
    closing.push(() => workers.stop());
    return {
      kind: 'sequin_stream',
      sink: { ack_wait_ms: 1_000, destination: { type: 'sequin_stream' } },
      dedupes: false,
      keeps: 'history',
      arrivals: async () => {
        await workers.stop();
        return workers.received;
      },
      problems: () => workers.problems,
    };
  },

  async s2() {
    return {
      kind: 's2',
      sink: { routing: ROUTING, destination: { type: 's2', basin: BASIN, stream: 'elsewhere' } },
      dedupes: true,
      keeps: 'history',
      async arrivals(dir) {
        const store = await openLocalStore({ dir, log: () => {} });
        try {
          const found: KeyedChange[] = [];
          for (const name of STREAMS) {
            const stream = await store.openStream(BASIN, name, 'read').catch(() => null);
            if (stream !== null) for await (const body of bodiesOf(stream)) found.push(changeOfText(body));
          }
          return found;
        } finally {
          await store.close();
        }
      },
    };
  },
};

export interface Message {
  readonly action: string;
  readonly record: { readonly id: number; readonly v: number };
}

function changeOf({ action, record: { id, v } }: Message): KeyedChange {
  return { id, v, action };
}

function changeOfText(text: Uint8Array | string | null): KeyedChange {
  return changeOf(JSON.parse(Buffer.from(text ?? '').toString()) as Message);
}

async function makeQueue(bench: AwsBench, name: string): Promise<string> {
  const Attributes = { FifoQueue: 'true', VisibilityTimeout: '600' };
  await bench.sqs().send(new CreateQueueCommand({ QueueName: name, Attributes }));
  return `${bench.server.url}/${ACCOUNT}/${name}`;
}

async function drainQueue(bench: AwsBench, QueueUrl: string): Promise<KeyedChange[]> {
  const client = bench.sqs();
  const found: KeyedChange[] = [];
  for (;;) {
    const { Messages = [] } = await client.send(new ReceiveMessageCommand({ QueueUrl, MaxNumberOfMessages: 10 }));
    if (Messages.length === 0) return found;
    for (const { Body } of Messages) found.push(changeOfText(Body ?? null));
    const Entries = Messages.map(({ ReceiptHandle }, i) => ({ Id: String(i), ReceiptHandle }));
    await client.send(new DeleteMessageBatchCommand({ QueueUrl, Entries }));
  }
}
