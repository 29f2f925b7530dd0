/** RabbitMQ: each message to an exchange, on disk and confirmed by the broker; one that no queue takes is refused. */
import { createHash } from 'node:crypto';
import { madeName } from '@millrace/core/error';
import * as z from 'zod';
import { CA, HOST, PASSWORD, portOr, TLS, USERNAME } from './broker-fields.ts';
import type { MessageFacts, OutMessage, PushSink } from './push-sink.ts';
import type { RabbitmqLink } from './rabbitmq-connection.ts';
import type { SinkKind } from './sink-kind.ts';

export interface RabbitmqRoute {
  readonly exchange: string;
  readonly routing_key: string;
  /** null: the idempotency key. */
  readonly message_id: string | null;
  readonly headers: Readonly<Record<string, string | number | boolean>>;
}

/** Of names in the protocol. */
const NAME_BYTES_MAX = 255;
const name = z.string().refine((text) => Buffer.byteLength(text) <= NAME_BYTES_MAX, 'must be at most 255 bytes');
const headers = z.record(name.min(1), z.union([z.string(), z.number(), z.boolean()]));

const schema = z.strictObject({
  type: z.literal('rabbitmq'),
  host: HOST,
  port: portOr(5672),
  exchange: name
    .optional()
    .describe('The exchange, which has to exist; "" is the default exchange. A routing function can name others.'),
  username: USERNAME.describe('User name. Default guest.'),
  password: PASSWORD.describe('Password. Default guest.'),
  virtual_host: name.min(1).default('/').describe('The virtual host. Default /.'),
  tls: TLS,
  ca: CA,
  headers: headers.optional().describe('Headers of every message.'),
  mandatory: z
    .boolean()
    .default(true)
    .describe('Refuse a message that no queue takes. false: RabbitMQ drops it and confirms it. Default true.'),
  persistent: z
    .boolean()
    .default(true)
    .describe('Have durable queues keep messages on disk, over a restart of the broker. Default true.'),
});

export type RabbitmqConfig = z.infer<typeof schema>;

const routing = z.strictObject({
  exchange: name.exactOptional().describe('Exchange, which has to exist; "" is the default exchange.'),
  routing_key: name.exactOptional().describe('Routing key. Default sequin.<database>.<schema>.<table>.<action>.'),
  message_id: name.nullable().exactOptional().describe('Message id. Default, or null: the idempotency key.'),
  headers: headers.exactOptional().describe('Headers, instead of those that are configured.'),
});

export const rabbitmqKind: SinkKind<RabbitmqConfig, RabbitmqRoute> = {
  type: 'rabbitmq',
  title: 'RabbitMQ',
  summary: 'Publishes each message to a RabbitMQ exchange and waits until the broker has confirmed it.',
  schema,
  routing,
  batchSize: { default: 100, max: 1_000 },
  batchTimeoutMs: 5,
  route: ({ exchange, headers = {} }, message) => ({
    ...(exchange === undefined ? {} : { exchange }),
    routing_key: defaultRoutingKey(message),
    message_id: null,
    headers,
  }),
  checkRoute(_config, { exchange, routing_key, message_id = null, headers = {} }) {
    if (exchange === undefined) {
      return 'There is no exchange: set exchange, or have the routing function return it.';
    }
    if (routing_key === undefined || Buffer.byteLength(routing_key) > NAME_BYTES_MAX) {
      return 'The routing key would have more than 255 bytes: have a routing function return routing_key.';
    }
    return { exchange, routing_key, message_id, headers };
  },
  async open(config, context) {
    const { rabbitmqConnection } = await import('./rabbitmq-connection.ts');
    return openRabbitmq(config, rabbitmqConnection(config, context));
  },
  example: {
    type: 'rabbitmq',
    host: 'rabbitmq.example.com',
    port: 5671,
    exchange: 'changes',
    username: 'millrace',
    password: '${RABBITMQ_PASSWORD}',
    virtual_host: '/',
    tls: true,
  },
};

/** A dot in a name would be one word more, and bindings count words. A logical message has no table. */
function defaultRoutingKey({ databaseName, schema, table, action }: MessageFacts): string {
  const words = ['sequin', databaseName, schema, table, action].filter((word) => word !== '');
  return words.map((word) => word.replaceAll('.', '_')).join('.');
}

/** As max_message_size of RabbitMQ 4; earlier ones take more. */
const BYTES_MAX = 16 * 1024 * 1024;
/** What a message takes besides its body, roughly. */
const MESSAGE_OVERHEAD_BYTES = 512;

function openRabbitmq(config: RabbitmqConfig, connection: RabbitmqLink): PushSink<RabbitmqRoute> {
  return {
    limits: {
      messagesMax: 1_000,
      bytesMax: BYTES_MAX + MESSAGE_OVERHEAD_BYTES,
      messageBytesMax: BYTES_MAX + MESSAGE_OVERHEAD_BYTES,
      concurrency: 8,
      // Each message is confirmed or refused alone.
      groupsShareRequests: false,
    },
    batchKey: ({ route }) => route.exchange,
    sizeOf: ({ body }) => body.length + MESSAGE_OVERHEAD_BYTES,

    async deliver(messages, signal) {
      const exchange = messages[0]?.route.exchange ?? '';
      const given = messages.map((message) => ({
        properties: propertiesOf(message),
        body: message.body,
        keyText: keyTextOf(message),
      }));
      const outcome = await connection.publish(exchange, given, signal);
      if (outcome.every((error) => error === null)) return null;
      return outcome.map((error) => (error === null ? null : { error }));
    },

    test: (signal) => connection.find(config.exchange ?? '', signal),

    close: () => connection.close(),
  };

  function propertiesOf({ route, idempotencyKey, json }: OutMessage<RabbitmqRoute>) {
    return {
      routingKey: route.routing_key,
      messageId: route.message_id ?? fitting(idempotencyKey),
      headers: route.headers,
      contentType: json ? 'application/json' : 'text/plain',
      durable: config.persistent,
      mandatory: config.mandatory,
    };
  }
}

function keyTextOf(message: OutMessage<RabbitmqRoute>): string {
  const { routing_key } = message.route;
  return routing_key === defaultRoutingKey(message) ? routing_key : madeName(routing_key);
}

/** A row of a backfill with a long primary key has a longer one than a message id may be. */
function fitting(key: string): string {
  return Buffer.byteLength(key) <= NAME_BYTES_MAX ? key : `sha256:${createHash('sha256').update(key).digest('hex')}`;
}
