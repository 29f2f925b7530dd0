/** The sending half of the pipeline that people write: each client as its README shows it, with its own defaults. */

export interface NaiveMessage {
  readonly key: string;
  readonly value: string;
}

export type NaivePlace =
  | { readonly kind: 'kafka'; readonly hosts: string; readonly topic: string }
  | {
      readonly kind: 'redis_stream';
      readonly host: string;
      readonly port: number;
      readonly password: string;
      readonly stream: string;
    }
  | {
      readonly kind: 'nats';
      readonly host: string;
      readonly port: number;
      readonly username: string;
      readonly password: string;
      readonly subject: string;
    }
  | {
      readonly kind: 'rabbitmq';
      readonly host: string;
      readonly port: number;
      readonly username: string;
      readonly password: string;
      readonly exchange: string;
    }
  | { readonly kind: 'webhook'; readonly url: string }
  | {
      readonly kind: 'sqs';
      readonly endpoint: string;
      readonly queueUrl: string;
      readonly accessKeyId: string;
      readonly secretAccessKey: string;
    };

export interface NaivePublisher {
  /** Resolves when it has arrived. */
  one(message: NaiveMessage): Promise<void>;
  /** All together, in one request where the client has one for several. */
  many(messages: readonly NaiveMessage[]): Promise<void>;
  close(): Promise<void>;
}

export async function openNaivePublisher(place: NaivePlace): Promise<NaivePublisher> {
  switch (place.kind) {
    case 'kafka': {
      const { Producer, stringSerializers } = await import('@platformatic/kafka');
      const producer = new Producer({
        clientId: 'naive',
        bootstrapBrokers: [place.hosts],
        serializers: stringSerializers,
      });
      const { topic } = place;
      return {
        one: async ({ key, value }) => void (await producer.send({ messages: [{ topic, key, value }] })),
        many: async (messages) =>
          void (await producer.send({ messages: messages.map(({ key, value }) => ({ topic, key, value })) })),
        close: () => producer.close(),
      };
    }
    case 'redis_stream': {
      const { Redis } = await import('ioredis');
      const redis = new Redis({ host: place.host, port: place.port, password: place.password });
      return {
        one: async ({ value }) => void (await redis.xadd(place.stream, '*', 'message', value)),
        async many(messages) {
          const pipeline = redis.pipeline();
          for (const { value } of messages) pipeline.xadd(place.stream, '*', 'message', value);
          const answers = await pipeline.exec();
          for (const [error] of answers ?? []) if (error !== null) throw error;
        },
        close: async () => void (await redis.quit()),
      };
    }
    case 'nats': {
      const { connect } = await import('@nats-io/transport-node');
      const { jetstream } = await import('@nats-io/jetstream');
      const connection = await connect({
        servers: `${place.host}:${place.port}`,
        user: place.username,
        pass: place.password,
      });
      const js = jetstream(connection);
      const one = async ({ value }: NaiveMessage) => void (await js.publish(place.subject, value));
      return {
        one,
        many: async (messages) => void (await Promise.all(messages.map(one))),
        close: () => connection.drain(),
      };
    }
    case 'rabbitmq': {
      const { Connection } = await import('rabbitmq-client');
      const rabbit = new Connection({
        hostname: place.host,
        port: place.port,
        username: place.username,
        password: place.password,
      });
      const publisher = rabbit.createPublisher({ confirm: true, maxAttempts: 2 });
      const one = ({ value }: NaiveMessage) =>
        publisher.send({ exchange: place.exchange, routingKey: 'all', durable: true }, value);
      return {
        one,
        many: async (messages) => void (await Promise.all(messages.map(one))),
        async close() {
          await publisher.close();
          await rabbit.close();
        },
      };
    }
    case 'webhook': {
      const post = async (body: string) => {
        const answer = await fetch(place.url, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body,
        });
        await answer.arrayBuffer();
        if (!answer.ok) throw new Error(`answered ${answer.status}`);
      };
      return {
        one: ({ value }) => post(value),
        many: (messages) => post(`[${messages.map(({ value }) => value).join(',')}]`),
        close: async () => {},
      };
    }
    case 'sqs': {
      const { SendMessageBatchCommand, SendMessageCommand, SQSClient } = await import('@aws-sdk/client-sqs');
      const { accessKeyId, secretAccessKey, endpoint, queueUrl: QueueUrl } = place;
      const client = new SQSClient({
        region: 'us-east-1',
        endpoint,
        useQueueUrlAsEndpoint: false,
        credentials: { accessKeyId, secretAccessKey },
      });
      return {
        one: async ({ value }) => void (await client.send(new SendMessageCommand({ QueueUrl, MessageBody: value }))),
        async many(messages) {
          for (let from = 0; from < messages.length; from += SQS_BATCH) {
            const Entries = messages
              .slice(from, from + SQS_BATCH)
              .map(({ value }, i) => ({ Id: String(i), MessageBody: value }));
            const { Failed = [] } = await client.send(new SendMessageBatchCommand({ QueueUrl, Entries }));
            if (Failed.length > 0) throw new Error(`${Failed.length} messages failed`);
          }
        },
        close: async () => client.destroy(),
      };
    }
  }
}

/** The most that SQS takes. */
const SQS_BATCH = 10;
