/**
 * What the push sinks are measured into: real servers on this machine, those of the contract tests (of SQS an emulator).
 * Every run gets a place of its own, and what it holds afterwards is counted by the server itself.
 */
import { CreateQueueCommand, DeleteQueueCommand, GetQueueAttributesCommand } from '@aws-sdk/client-sqs';
import { awsMissing } from '@millrace/testkit/servers/aws';
import { kafkaMissing, startKafka } from '@millrace/testkit/servers/kafka';
import { NATS_SECRETS, natsMissing } from '@millrace/testkit/servers/nats';
import { RABBITMQ_SECRETS, rabbitmqMissing } from '@millrace/testkit/servers/rabbitmq';
import { REDIS_SECRETS, redisMissing } from '@millrace/testkit/servers/redis';
import { Admin } from '@platformatic/kafka';
import { ACCOUNT, KEY, startAwsBench } from '../packages/sinks/test/aws-target.ts';
import { startNatsBench } from '../packages/sinks/test/nats-target.ts';
import { startRabbitmqBench } from '../packages/sinks/test/rabbitmq-target.ts';
import { startRedisBench } from '../packages/sinks/test/redis-target.ts';
import type { NaivePlace } from './clients/naive-publishers.ts';
import type { Session } from './session.ts';

export const PUSH_TARGETS = {
  kafka: 'Apache Kafka, 3 partitions, acks=all',
  redis_stream: 'Redis stream',
  nats: 'NATS JetStream, on disk',
  rabbitmq: 'RabbitMQ, durable queue, publisher confirms',
  webhook: 'HTTP server (Node, one process)',
  sqs: 'SQS standard queue (Moto, an emulator in Python: its speed, not that of AWS)',
} as const;
export type PushTargetName = keyof typeof PUSH_TARGETS;

export interface PushPlace {
  /** Of a sink's entry: the destination, and what belongs to it. */
  readonly sink: Readonly<Record<string, unknown>>;
  readonly endpointUrl?: string;
  /** The same place for the client of the naive pipeline. */
  readonly naive: NaivePlace;
  /** How many messages arrived. */
  count(): Promise<number>;
  drop(): Promise<void>;
}

export interface PushTarget {
  newPlace(): Promise<PushPlace>;
  stop(): Promise<void>;
}

const MISSING: Partial<Record<PushTargetName, () => Promise<string | null>>> = {
  kafka: kafkaMissing,
  redis_stream: redisMissing,
  nats: natsMissing,
  rabbitmq: rabbitmqMissing,
  sqs: awsMissing,
};

/** Why there is none here, or null. */
export async function pushTargetMissing(name: PushTargetName): Promise<string | null> {
  return (await MISSING[name]?.()) ?? null;
}

export function startPushTarget(session: Session, name: PushTargetName): Promise<PushTarget> {
  return STARTS[name](session);
}

/** Of both sides, where a request takes several messages and the kind's own default is one. */
const WEBHOOK_BATCH = 100;

const STARTS: Readonly<Record<PushTargetName, (session: Session) => Promise<PushTarget>>> = {
  async kafka() {
    const kafka = await startKafka();
    const hosts = kafka.listeners.plain;
    const admin = new Admin({ clientId: 'bench', bootstrapBrokers: [hosts] });
    return {
      async newPlace() {
        const topic = await kafka.newTopic();
        return {
          sink: { destination: { type: 'kafka', hosts, topic } },
          naive: { kind: 'kafka', hosts, topic },
          async count() {
            const partitions = (await kafka.leaders(topic)).map((_, partitionIndex) => ({
              partitionIndex,
              timestamp: END_OFFSET,
            }));
            const [found] = await admin.listOffsets({ topics: [{ name: topic, partitions }] });
            return found?.partitions.reduce((sum, { offset }) => sum + Number(offset), 0) ?? 0;
          },
          drop: () => admin.deleteTopics({ topics: [topic] }),
        };
      },
      async stop() {
        await admin.close();
        await kafka.stop();
      },
    };
  },

  async redis_stream() {
    const bench = await startRedisBench();
    const { host, port } = bench.server;
    return {
      async newPlace() {
        const stream = await bench.part.newPlace();
        return {
          sink: { destination: { type: 'redis_stream', ...bench.connection('direct'), stream_key: stream } },
          naive: { kind: 'redis_stream', host, port, password: REDIS_SECRETS.default, stream },
          count: () => bench.client.xlen(stream),
          drop: async () => void (await bench.client.del(stream)),
        };
      },
      stop: () => bench.part.stop(),
    };
  },

  async nats() {
    const bench = await startNatsBench();
    const { host, port } = bench.server;
    return {
      async newPlace() {
        const stream = await bench.newPlace();
        const subject = `${stream}.all`;
        return {
          sink: { destination: bench.destination(stream, 'direct') },
          naive: { kind: 'nats', host, port, username: 'millrace', password: NATS_SECRETS.millrace, subject },
          count: async () => (await bench.manager.streams.info(stream)).state.messages,
          drop: async () => void (await bench.manager.streams.delete(stream)),
        };
      },
      stop: () => bench.stop(),
    };
  },

  async rabbitmq() {
    const bench = await startRabbitmqBench();
    const { host, port } = bench.server;
    return {
      async newPlace() {
        const exchange = await bench.newPlace();
        return {
          sink: { destination: bench.destination(exchange, 'direct') },
          naive: {
            ...{ kind: 'rabbitmq', host, port, username: 'millrace', password: RABBITMQ_SECRETS.millrace },
            exchange,
          },
          count: async () => (await bench.client.queueDeclare({ queue: exchange, passive: true })).messageCount,
          drop: async () => void (await bench.client.queueDelete(exchange)),
        };
      },
      stop: () => bench.stop(),
    };
  },

  async webhook(session) {
    const server = session.client<never>('http-receiver', {});
    const { url } = await server.event<{ url: string }>('listening');
    let places = 0;
    return {
      async newPlace() {
        const path = `/place-${++places}`;
        return {
          sink: {
            batch_size: WEBHOOK_BATCH,
            destination: { type: 'webhook', http_endpoint: 'bench', http_endpoint_path: path },
          },
          endpointUrl: url,
          naive: { kind: 'webhook', url: `${url}${path}` },
          count: async () => Number(await (await fetch(`${url}${path}`)).text()),
          drop: async () => {},
        };
      },
      stop: () => server.end(),
    };
  },

  async sqs() {
    const bench = await startAwsBench();
    const client = bench.sqs();
    let places = 0;
    return {
      async newPlace() {
        const name = `bench-${++places}`;
        await client.send(new CreateQueueCommand({ QueueName: name }));
        const QueueUrl = `${bench.server.url}/${ACCOUNT}/${name}`;
        const { access_key_id: accessKeyId, secret_access_key: secretAccessKey } = KEY;
        return {
          sink: { destination: { type: 'sqs', ...bench.connection('direct'), queue_url: QueueUrl } },
          naive: { kind: 'sqs', endpoint: bench.server.url, queueUrl: QueueUrl, accessKeyId, secretAccessKey },
          async count() {
            const AttributeNames = ['ApproximateNumberOfMessages'] as const;
            const command = new GetQueueAttributesCommand({ QueueUrl, AttributeNames: [...AttributeNames] });
            return Number((await client.send(command)).Attributes?.ApproximateNumberOfMessages);
          },
          drop: async () => void (await client.send(new DeleteQueueCommand({ QueueUrl }))),
        };
      },
      async stop() {
        client.destroy();
        await bench.part.stop();
      },
    };
  },
};

/** Of Kafka's protocol: the offset after the last record. */
const END_OFFSET = -1n;
