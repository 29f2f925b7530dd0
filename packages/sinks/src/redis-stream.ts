/** Redis streams: an entry for each message, with a field for each top-level key of it. */
import { MillraceError } from '@millrace/core/error';
import * as z from 'zod';
import { REDIS_FIELDS } from './broker-fields.ts';
import { jsonFields } from './json-fields.ts';
import type { OutMessage, PushSink } from './push-sink.ts';
import type { RedisCommand, RedisConnection } from './redis-connection.ts';
import type { SinkKind } from './sink-kind.ts';

export interface RedisStreamRoute {
  readonly stream_key: string;
}

const streamKey = z.string().min(1).max(255);

const schema = z.strictObject({
  type: z.literal('redis_stream'),
  ...REDIS_FIELDS,
  stream_key: streamKey
    .optional()
    .describe('Key of the stream. Default sequin.<schema>.<table>; a routing function decides for each message.'),
  maxlen: z
    .int()
    .min(1)
    .optional()
    .describe('How many entries a stream keeps: each write drops older ones beyond it (MAXLEN). Default: all.'),
  maxlen_approximate: z
    .boolean()
    .default(true)
    .describe('Let Redis keep somewhat more than maxlen, which costs it less (MAXLEN ~). Default true.'),
});

export type RedisStreamConfig = z.infer<typeof schema>;

const routing = z.strictObject({ stream_key: streamKey.exactOptional().describe('Key of the stream.') });

export const redisStreamKind: SinkKind<RedisStreamConfig, RedisStreamRoute> = {
  type: 'redis_stream',
  aliases: ['redis'],
  title: 'Redis Streams',
  summary: 'Adds an entry to a Redis stream for each message.',
  schema,
  routing,
  batchSize: { default: 50, max: 1_000 },
  batchTimeoutMs: 5,
  route: ({ stream_key }, { schema, table }) => {
    if (stream_key !== undefined) return { stream_key };
    return table === '' ? {} : { stream_key: `sequin.${schema}.${table}` };
  },
  checkRoute: (_config, { stream_key }) =>
    stream_key === undefined
      ? 'A message that is not about a table has no default stream: set stream_key, or have a routing function return it.'
      : { stream_key },
  async open(config, context) {
    const { redisConnection } = await import('./redis-connection.ts');
    return openStream(config, redisConnection(config, context));
  },
  example: {
    type: 'redis_stream',
    host: 'redis.example.com',
    port: 6379,
    stream_key: 'orders',
    username: 'millrace',
    password: '${REDIS_PASSWORD}',
    tls: true,
    maxlen: 1_000_000,
  },
};

/** Of one entry, and of a request. Redis would take more (512 MB in a field); its memory and ours are the limit. */
const BYTES_MAX = 16 * 1024 * 1024;
/** What an entry takes besides its body, roughly: command, key, lengths of fields. */
const ENTRY_OVERHEAD_BYTES = 128;

function openStream(config: RedisStreamConfig, connection: RedisConnection): PushSink<RedisStreamRoute> {
  const trim =
    config.maxlen === undefined ? [] : ['MAXLEN', config.maxlen_approximate ? '~' : '=', String(config.maxlen)];

  return {
    limits: {
      messagesMax: 1_000,
      bytesMax: BYTES_MAX,
      messageBytesMax: BYTES_MAX,
      concurrency: 8,
      // A request is a transaction on one key: all of it or nothing.
      groupsShareRequests: true,
    },
    // What cannot be an entry is refused in a request of its own, so that nothing else waits for it or goes with it.
    batchKey: (message) => (mayBeEntry(message) ? message.route.stream_key : ''),
    sizeOf: ({ body }) => body.length + ENTRY_OVERHEAD_BYTES,

    async deliver(messages, signal) {
      const commands: RedisCommand[] = [];
      for (const message of messages) {
        const fields = mayBeEntry(message) ? jsonFields(message.body.toString('utf8')) : null;
        if (fields === null || fields.length === 0) throw notAnEntry();
        commands.push(['XADD', message.route.stream_key, ...trim, '*', ...fields]);
      }
      await connection.transaction(commands, signal);
      return null;
    },

    async test(signal) {
      if (config.stream_key === undefined) {
        await connection.ask(['PING'], signal);
        return;
      }
      const type = String(await connection.ask(['TYPE', config.stream_key], signal));
      if (type === 'stream' || type === 'none') return;
      throw new MillraceError('sink_refused', {
        detail: `The key "${config.stream_key}" holds a ${type}, not a stream.`,
        hint: 'Delete it, or set another stream_key.',
      });
    },

    close: () => connection.close(),
  };
}

const OPEN_OBJECT = 0x7b;

/** A JSON object with something in it, as far as its first bytes tell. */
function mayBeEntry({ json, body }: OutMessage): boolean {
  return json && body[0] === OPEN_OBJECT && body.length > 2;
}

function notAnEntry(): MillraceError {
  return new MillraceError('sink_refused', {
    detail: 'An entry of a Redis stream has fields, and this message is no JSON object with keys.',
    hint: 'Have the transform function return an object, such as { value: record.name }, or take it out.',
  });
}
