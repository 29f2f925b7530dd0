/**
 * NATS: each message to a subject, acknowledged by the JetStream stream that takes it, which drops what it has already
 * (Nats-Msg-Id). Without JetStream, where asked for, NATS keeps nothing and tells nobody who listened: at most once.
 */
import { MillraceError, madeName } from '@millrace/core/error';
import * as z from 'zod';
import { CA, HOST, PASSWORD, portOr, TLS, USERNAME } from './broker-fields.ts';
import type { NatsLink } from './nats-connection.ts';
import type { DeliveryFailure, MessageFacts, OutMessage, PushSink } from './push-sink.ts';
import type { SinkKind } from './sink-kind.ts';

export interface NatsRoute {
  readonly subject: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** To publish to: no wildcards, no empty tokens, nothing that ends a line of the protocol. */
const subject = z
  .string()
  .max(255)
  .regex(/^[^\s.*>\p{Cc}]+(?:\.[^\s.*>\p{Cc}]+)*$/u, 'must be tokens with dots between them, without spaces, * and >');
const headers = z.record(
  z.string().regex(/^[!-9;-~]{1,128}$/, 'must be the name of a header'),
  z.string().regex(/^[^\r\n]*$/, 'must be text of one line'),
);

const schema = z.strictObject({
  type: z.literal('nats'),
  host: HOST,
  port: portOr(4222),
  servers: z
    .array(
      z.string().regex(/^(?:(?:nats|tls):\/\/)?(?:\[[0-9a-fA-F:.]+\]|[^\s:/@]+)(?::\d{1,5})?$/, 'must be host:port'),
    )
    .max(32)
    .optional()
    .describe('More servers of the same cluster (host:port), for when the first cannot be reached.'),
  username: USERNAME,
  password: PASSWORD,
  token: z.string().min(1).optional().describe('Token, where the server asks for one.').meta({ secret: true }),
  jwt: z
    .string()
    .min(1)
    .optional()
    .describe('JWT of the user, where the server asks for one; with nkey_seed.')
    .meta({ secret: true }),
  nkey_seed: z
    .string()
    .regex(/^SU[A-Z2-7]{50,70}$/, 'must be the seed of a user: SU and letters')
    .optional()
    .describe('Seed of the NKey of the user (SU...): alone, or with the jwt.')
    .meta({ secret: true }),
  tls: TLS,
  ca: CA,
  subject: subject
    .optional()
    .describe('Subject of every message. Default sequin.<database>.<schema>.<table>.<action>.'),
  jetstream: z
    .boolean()
    .default(true)
    .describe(
      'Wait until a JetStream stream has taken each message. false: core NATS, where what nobody is listening to is lost (at most once). Default true.',
    ),
  stream: z
    .string()
    .regex(/^[^\s.*>/\\]{1,255}$/, 'must be the name of a stream')
    .optional()
    .describe('The stream that has to take the messages; those that another one would take are refused.'),
  max_payload: z
    .int()
    .min(1024)
    .max(64 * 1024 * 1024)
    .default(1024 * 1024)
    .describe("The largest message in bytes, as the server's max_payload. Default 1048576, as the server's."),
});

export type NatsConfig = z.infer<typeof schema>;

const routing = z.strictObject({
  subject: subject.exactOptional().describe('Subject: tokens with dots between them, no wildcards.'),
  headers: headers
    .exactOptional()
    .describe('Headers of the message. Nats-Msg-Id is the idempotency key unless it is among them.'),
});

export const natsKind: SinkKind<NatsConfig, NatsRoute> = {
  type: 'nats',
  title: 'NATS',
  summary: 'Publishes each message to a NATS subject and waits until a JetStream stream has taken it.',
  schema,
  routing,
  batchSize: { default: 100, max: 1_000 },
  batchTimeoutMs: 5,
  route: (config, message) => ({ subject: config.subject ?? defaultSubject(message), headers: {} }),
  checkRoute: (_config, { subject, headers = {} }) =>
    subject === undefined ? 'There is no subject.' : { subject, headers },
  async open(config, context) {
    const { natsConnection } = await import('./nats-connection.ts');
    return openNats(config, natsConnection(config, context));
  },
  example: {
    type: 'nats',
    host: 'nats.example.com',
    port: 4222,
    username: 'millrace',
    password: '${NATS_PASSWORD}',
    tls: true,
    stream: 'ORDERS',
  },
};

/** Names of tables can hold what separates tokens, or means many subjects. A logical message has no table. */
function defaultSubject({ databaseName, schema, table, action }: MessageFacts): string {
  const tokens = ['sequin', databaseName, schema, table, action].filter((token) => token !== '');
  return tokens.map((token) => token.replace(/[\s.*>\p{Cc}]/gu, '_')).join('.');
}

const REQUEST_BYTES_MAX = 8 * 1024 * 1024;
const MSG_ID = 'Nats-Msg-Id';
const EXPECTED_STREAM = 'Nats-Expected-Stream';
const HEADER_LINE_BYTES = ': \r\n'.length;
const HEADER_BYTES = 'NATS/1.0\r\n\r\n'.length;

function openNats(config: NatsConfig, connection: NatsLink): PushSink<NatsRoute> {
  function headersOf({ idempotencyKey, route }: OutMessage<NatsRoute>): readonly (readonly [string, string])[] {
    const own = Object.entries(route.headers);
    if (!Object.hasOwn(route.headers, MSG_ID)) own.push([MSG_ID, idempotencyKey]);
    if (config.stream !== undefined) own.push([EXPECTED_STREAM, config.stream]);
    return own;
  }

  /** What the server holds against max_payload: body and headers. */
  function sizeOf(message: OutMessage<NatsRoute>): number {
    let size = message.body.length + HEADER_BYTES;
    for (const [name, value] of headersOf(message)) {
      size += name.length + Buffer.byteLength(value) + HEADER_LINE_BYTES;
    }
    return size;
  }

  return {
    limits: {
      messagesMax: 1_000,
      bytesMax: Math.max(REQUEST_BYTES_MAX, config.max_payload),
      messageBytesMax: config.max_payload,
      concurrency: 8,
      // Each message is taken or refused alone.
      groupsShareRequests: false,
    },
    batchKey: () => '',
    sizeOf,

    async deliver(messages, signal) {
      const outcome = new Array<DeliveryFailure | null>(messages.length).fill(null);
      await connection.use(signal, async ({ maxPayload, publish, flush }) => {
        const limit = Math.min(config.max_payload, maxPayload);
        const waiting = messages.map(async (message, index) => {
          const size = sizeOf(message);
          const error =
            size > limit
              ? tooLarge(size, limit)
              : await publish(message.route.subject, subjectTextOf(config, message), message.body, headersOf(message));
          if (error !== null) outcome[index] = { error };
        });
        await Promise.all(waiting);
        if (!config.jetstream) await flush();
      });
      return outcome.every((failure) => failure === null) ? null : outcome;
    },

    async test(signal) {
      await connection.use(signal, async ({ maxPayload, findStreams, flush }) => {
        if (maxPayload < config.max_payload) {
          throw new MillraceError('sink_refused', {
            detail: `The server takes messages of at most ${maxPayload} bytes, the sink would send ${config.max_payload}.`,
            hint: `Set max_payload: ${maxPayload}, or raise max_payload of the server.`,
          });
        }
        if (config.jetstream) await findStreams();
        else await flush();
      });
    },

    close: () => connection.close(),
  };
}

function subjectTextOf(config: NatsConfig, message: OutMessage<NatsRoute>): string {
  const { subject } = message.route;
  return subject === (config.subject ?? defaultSubject(message)) ? subject : madeName(subject);
}

function tooLarge(size: number, limit: number): MillraceError {
  return new MillraceError('sink_record_too_large', {
    detail: `It has ${size} bytes with its headers, and the limit is ${limit}.`,
    hint: 'Raise max_payload of the server and of the sink, leave columns out, or set the oversize policy of the sink.',
  });
}
