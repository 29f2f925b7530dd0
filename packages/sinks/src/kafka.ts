/** Apache Kafka, and what speaks its protocol: Redpanda, Amazon MSK, Confluent, WarpStream, Azure Event Hubs. */
import * as z from 'zod';
import { CA, PASSWORD, TLS, USERNAME } from './broker-fields.ts';
import type { SinkKind } from './sink-kind.ts';

/** Kafka's own limit of a name. */
const TOPIC = /^(?!\.\.?$)[A-Za-z0-9._-]{1,249}$/;
const TOPIC_WRONG = 'must be a name that Kafka takes: at most 249 of A-Z a-z 0-9 . _ -';
/** As Java clients have it (max.request.size). A broker's own default for a batch is 12 bytes more. */
const MESSAGE_BYTES_DEFAULT = 1_048_576;
const MESSAGE_BYTES_MAX = 64 * 1_048_576;
const HOSTS = /^\s*[^\s,:][^\s,]*:\d{1,5}\s*(,\s*[^\s,:][^\s,]*:\d{1,5}\s*)*$/;
const PORT_MAX = 65_535;

const headers = z.record(z.string().min(1).max(255), z.string().max(4_096));

const schema = z
  .strictObject({
    type: z.literal('kafka'),
    hosts: z
      .string()
      .regex(HOSTS, 'must be host:port, several with commas between them')
      .refine((text) => text.split(',').every((one) => portOf(one) <= PORT_MAX), 'a port is at most 65535')
      .describe('Brokers to begin with: host:port, several with commas between them. They tell of the others.'),
    topic: z
      .string()
      .regex(TOPIC, TOPIC_WRONG)
      .optional()
      .describe('Topic. Default sequin.<schema>.<table>; a routing function decides for each message.'),
    tls: TLS,
    ca: CA,
    client_cert: z
      .string()
      .regex(/-----BEGIN CERTIFICATE-----/, 'must be a certificate in PEM: -----BEGIN CERTIFICATE----- and so on')
      .optional()
      .describe('Certificate (PEM) of the client, where the brokers ask for one (mutual TLS).'),
    client_key: z
      .string()
      .regex(/-----BEGIN [A-Z ]*PRIVATE KEY-----/, 'must be a private key in PEM')
      .optional()
      .describe('Private key (PEM) that belongs to client_cert.')
      .meta({ secret: true }),
    username: USERNAME,
    password: PASSWORD,
    sasl_mechanism: z
      .enum(['plain', 'scram_sha_256', 'scram_sha_512', 'aws_msk_iam'])
      .optional()
      .describe(
        'How the brokers check the user: plain, scram_sha_256 or scram_sha_512. aws_msk_iam is not supported yet.',
      ),
    aws_region: z.string().min(1).optional().describe('For aws_msk_iam, which is not supported yet.'),
    aws_access_key_id: z.string().min(1).optional().describe('For aws_msk_iam, which is not supported yet.'),
    aws_secret_access_key: z
      .string()
      .min(1)
      .optional()
      .describe('For aws_msk_iam, which is not supported yet.')
      .meta({ secret: true }),
    compression: z
      .enum(['none', 'gzip', 'snappy', 'lz4', 'zstd'])
      .default('none')
      .describe('How batches are compressed: none, gzip, snappy, lz4 or zstd. Default none.'),
    headers: headers
      .default({})
      .describe('Headers of every message, besides millrace-idempotency-key, millrace-action and millrace-table.'),
    tombstones: z
      .boolean()
      .default(false)
      .describe(
        'Send a deleted row as a message without a value, which lets a compacted topic forget the key. Default false.',
      ),
    idempotent: z
      .boolean()
      .default(true)
      .describe('Have the broker recognize a message that is sent again because its reply was lost. Default true.'),
    auto_create_topics: z
      .boolean()
      .default(true)
      .describe('Let the broker make a topic that does not exist, if it is set up to do so. Default true.'),
    max_message_bytes: z
      .int()
      .min(1_024)
      .max(MESSAGE_BYTES_MAX)
      .default(MESSAGE_BYTES_DEFAULT)
      .describe(
        `Largest message with key and headers; not more than max.message.bytes of the topic. Default ${MESSAGE_BYTES_DEFAULT}.`,
      ),
  })
  .superRefine((config, context) => {
    const wrong = (path: string, message: string) => context.addIssue({ code: 'custom', path: [path], message });
    const { sasl_mechanism: mechanism, username, password } = config;
    if (mechanism === 'aws_msk_iam') {
      wrong('sasl_mechanism', 'aws_msk_iam is not supported yet: use scram_sha_512, which Amazon MSK offers, too');
    } else if (mechanism === undefined) {
      if (username !== undefined || password !== undefined) {
        wrong('sasl_mechanism', 'is needed with a username: plain, scram_sha_256 or scram_sha_512');
      }
    } else if (username === undefined || password === undefined) {
      wrong(username === undefined ? 'username' : 'password', `is needed with sasl_mechanism ${mechanism}`);
    }
    for (const key of ['aws_region', 'aws_access_key_id', 'aws_secret_access_key'] as const) {
      if (config[key] !== undefined && mechanism !== 'aws_msk_iam')
        wrong(key, 'is for sasl_mechanism aws_msk_iam only');
    }
    if ((config.client_cert === undefined) !== (config.client_key === undefined)) {
      wrong(
        config.client_cert === undefined ? 'client_cert' : 'client_key',
        'client_cert and client_key belong together',
      );
    }
    for (const key of ['ca', 'client_cert'] as const) {
      if (config[key] !== undefined && !config.tls) wrong(key, 'is of use with tls: true only');
    }
  });

export type KafkaConfig = z.infer<typeof schema>;

export interface KafkaRoute {
  readonly topic: string;
  /** Decides about the partition; absent: the group of the message, and where there is none any partition. */
  readonly message_key?: string;
  /** Besides those of the sink. */
  readonly headers?: Readonly<Record<string, string>>;
}

const routing = z.strictObject({
  topic: z.string().min(1).max(512).exactOptional().describe('Topic of this message.'),
  message_key: z.string().max(512).exactOptional().describe('Key of this message, which decides about its partition.'),
  headers: headers.exactOptional().describe('Headers of this message, besides those of the sink.'),
});

export const kafkaKind: SinkKind<KafkaConfig, KafkaRoute> = {
  type: 'kafka',
  title: 'Apache Kafka',
  summary: 'Produces messages to topics of Apache Kafka or anything that speaks its protocol.',
  schema,
  routing,
  batchSize: { default: 200, max: 1_000 },
  batchTimeoutMs: 5,
  route: (config, { schema, table }) => {
    if (config.topic !== undefined) return { topic: config.topic };
    return table === '' ? {} : { topic: `sequin.${schema}.${table}` };
  },
  checkRoute(_config, merged) {
    const { topic } = merged;
    if (topic === undefined) {
      return 'A message that is not about a table has no default topic: set topic, or have a routing function return it.';
    }
    if (!TOPIC.test(topic)) return `The topic ${TOPIC_WRONG}. A routing function can choose another.`;
    return { ...merged, topic };
  },
  async open(config, context) {
    const { KafkaSink } = await import('./kafka/kafka-sink.ts');
    return new KafkaSink(config, context);
  },
  example: {
    type: 'kafka',
    hosts: 'kafka-1.example.com:9092,kafka-2.example.com:9092',
    topic: 'orders',
    tls: true,
    username: 'millrace',
    password: '${KAFKA_PASSWORD}',
    sasl_mechanism: 'scram_sha_512',
    compression: 'lz4',
  },
};

function portOf(address: string): number {
  return Number(/:(\d+)\s*$/.exec(address)?.[1]);
}
