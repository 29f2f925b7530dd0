/** Redis strings: the newest message of each row under a key of its own; a deleted row has none. */
import * as z from 'zod';
import { REDIS_FIELDS } from './broker-fields.ts';
import type { MessageAction, OutMessage, PushSink } from './push-sink.ts';
import type { RedisCommand, RedisConnection } from './redis-connection.ts';
import type { SinkKind } from './sink-kind.ts';

export interface RedisStringRoute {
  readonly key: string;
  readonly action: 'set' | 'del';
  /** null: for good. */
  readonly expire_ms: number | null;
}

/** A hundred years: Redis adds the present time to it and must not overflow. */
const EXPIRE_MS_MAX = 3_155_760_000_000;
const expireMs = z.int().min(1).max(EXPIRE_MS_MAX);

const schema = z.strictObject({
  type: z.literal('redis_string'),
  ...REDIS_FIELDS,
  expire_ms: expireMs.optional().describe('Milliseconds after which Redis drops a key that was set. Default: never.'),
  mode: z
    .enum(['static', 'dynamic'])
    .optional()
    .describe("Sequin's; without effect: a routing function decides about keys when there is one."),
});

export type RedisStringConfig = z.infer<typeof schema>;

const routing = z.strictObject({
  key: z
    .union([z.string().min(1).max(512), z.int().transform(String)])
    .exactOptional()
    .describe('Key. A whole number is taken as text.'),
  action: z
    .enum(['set', 'del'])
    .exactOptional()
    .describe('set writes the key, del takes it away. Default: del for a delete, set for everything else.'),
  expire_ms: expireMs
    .nullable()
    .exactOptional()
    .describe('Milliseconds after which Redis drops the key; null: never. Default: as configured.'),
});

/** Messages about something else than a row have no key of their own. */
const OF_A_ROW: ReadonlySet<MessageAction> = new Set(['insert', 'update', 'delete', 'read']);

export const redisStringKind: SinkKind<RedisStringConfig, RedisStringRoute> = {
  type: 'redis_string',
  title: 'Redis strings',
  summary: 'Keeps the newest message of each row under a Redis key, and drops the key with the row.',
  schema,
  routing,
  batchSize: { default: 10, max: 1_000 },
  batchTimeoutMs: 5,
  route: ({ expire_ms }, { table, keys, action }) => ({
    ...(OF_A_ROW.has(action) && keys.length > 0 ? { key: `sequin:${table}:${keys.join('-')}` } : {}),
    action: action === 'delete' ? 'del' : 'set',
    expire_ms: expire_ms ?? null,
  }),
  checkRoute: (_config, { key, action = 'set', expire_ms = null }) =>
    key === undefined
      ? 'A message that is not about a row, or whose primary key is not known, has no default key: have a routing function return key.'
      : { key, action, expire_ms },
  async open(config, context) {
    const { redisConnection } = await import('./redis-connection.ts');
    return openStrings(redisConnection(config, context));
  },
  example: {
    type: 'redis_string',
    host: 'redis.example.com',
    port: 6379,
    database: 0,
    username: 'millrace',
    password: '${REDIS_PASSWORD}',
    tls: true,
    expire_ms: 86_400_000,
  },
};

/** Of one value, and of a request. Redis would take more (512 MB); its memory and ours are the limit. */
const BYTES_MAX = 16 * 1024 * 1024;
/** What a command takes besides its value, roughly. */
const COMMAND_OVERHEAD_BYTES = 128;

function openStrings(connection: RedisConnection): PushSink<RedisStringRoute> {
  return {
    limits: {
      messagesMax: 1_000,
      bytesMax: BYTES_MAX,
      messageBytesMax: BYTES_MAX,
      concurrency: 8,
      // A request is a transaction, and neither SET nor DEL can fail in one that was taken.
      groupsShareRequests: true,
    },
    batchKey: () => '',
    sizeOf: ({ body, route }) => (route.action === 'set' ? body.length : 0) + COMMAND_OVERHEAD_BYTES,
    async deliver(messages, signal) {
      await connection.transaction(messages.map(commandOf), signal);
      return null;
    },
    async test(signal) {
      await connection.ask(['PING'], signal);
    },
    close: () => connection.close(),
  };
}

function commandOf({ route, body, json }: OutMessage<RedisStringRoute>): RedisCommand {
  if (route.action === 'del') return ['DEL', route.key];
  // A JSON string is the text it stands for, as it would be had the transform returned it as text.
  const value = json && body[0] === 0x22 ? textOf(body) : body;
  return route.expire_ms === null
    ? ['SET', route.key, value]
    : ['SET', route.key, value, 'PX', String(route.expire_ms)];
}

function textOf(body: Buffer): string {
  return JSON.parse(body.toString('utf8')) as string;
}
