/** Amazon Kinesis Data Streams: a record for each change, on the shard of its row. */
import { createHash } from 'node:crypto';
import * as z from 'zod';
import { AWS_FIELDS, checkAwsFields } from './aws/aws-fields.ts';
import type { DeliveryOutcome, OutMessage, PushSink } from './push-sink.ts';
import type { SinkContext, SinkKind } from './sink-kind.ts';

export interface KinesisRoute {
  readonly stream_arn: string;
}

const streamArn = z
  .string()
  .max(2_048)
  .regex(
    /^arn:aws[\w-]*:kinesis:[a-z0-9-]+:\d{12}:stream\/[\w.-]{1,128}$/,
    'must be arn:aws:kinesis:<region>:<account>:stream/<stream>',
  );

const schema = z
  .strictObject({
    type: z.literal('kinesis'),
    stream_arn: streamArn
      .optional()
      .describe('ARN of the stream. Absent: a routing function returns it for each message.'),
    ...AWS_FIELDS,
  })
  .superRefine(checkAwsFields);

export type KinesisConfig = z.output<typeof schema>;

const routing = z.strictObject({ stream_arn: streamArn.exactOptional() });
const RECORDS_MAX = 500;
/** Partition keys included. */
const REQUEST_BYTES_MAX = 5 * 1024 * 1024;
const RECORD_BYTES_MAX = 1024 * 1024;
const PARTITION_KEY_MAX = 256;
const CONCURRENCY = 8;

export const kinesisKind: SinkKind<KinesisConfig, KinesisRoute> = {
  type: 'kinesis',
  title: 'Amazon Kinesis Data Streams',
  summary: 'Puts a record on a Kinesis stream for each change; those of a row share a shard, in order.',
  schema,
  routing,
  batchSize: { default: 100, max: RECORDS_MAX },
  batchTimeoutMs: 5,
  route: ({ stream_arn }) => (stream_arn === undefined ? {} : { stream_arn }),
  checkRoute: (_config, { stream_arn }) =>
    stream_arn === undefined
      ? 'There is no stream: set stream_arn, or have a routing function return it.'
      : { stream_arn },
  open: async (config, context) => await openStream(config, context),
  example: {
    type: 'kinesis',
    stream_arn: 'arn:aws:kinesis:us-east-1:123456789012:stream/orders',
    access_key_id: 'AKIAIOSFODNN7EXAMPLE',
    secret_access_key: '${KINESIS_SECRET_ACCESS_KEY}',
  },
};

/** Messages of a group go to one shard. Without a group any shard will do. */
export function partitionKey({ group, idempotencyKey }: OutMessage): string {
  const key = group ?? idempotencyKey;
  return key.length <= PARTITION_KEY_MAX && key !== '' ? key : createHash('md5').update(key).digest('hex');
}

async function openStream(config: KinesisConfig, context: SinkContext): Promise<PushSink<KinesisRoute>> {
  const { DescribeStreamSummaryCommand, KinesisClient, PutRecordsCommand } = await import('@aws-sdk/client-kinesis');
  const { awsClientConfig, awsFailure, awsVerdict } = await import('./aws/aws-client.ts');
  const { tooLarge } = await import('./sqs.ts');
  const client = new KinesisClient(await awsClientConfig(config, config.stream_arn?.split(':')[3], context));
  const nameOf = (arn: string) => `stream ${arn.slice(arn.lastIndexOf('/') + 1)}`;
  const sizeOf = (message: OutMessage) => message.body.length + Buffer.byteLength(partitionKey(message));
  return {
    limits: {
      messagesMax: RECORDS_MAX,
      bytesMax: REQUEST_BYTES_MAX,
      messageBytesMax: RECORD_BYTES_MAX,
      concurrency: CONCURRENCY,
      // Records of a request fail one by one: two of a group could change places.
      groupsShareRequests: false,
    },
    batchKey: ({ route }) => route.stream_arn,
    sizeOf,

    async deliver(messages: readonly OutMessage<KinesisRoute>[], signal): Promise<DeliveryOutcome | null> {
      const [{ route }] = messages as [OutMessage<KinesisRoute>];
      const place = nameOf(route.stream_arn);
      for (const message of messages) {
        const bytes = sizeOf(message);
        if (bytes > RECORD_BYTES_MAX) throw tooLarge(bytes, RECORD_BYTES_MAX);
      }
      const Records = messages.map((message) => ({ Data: message.body, PartitionKey: partitionKey(message) }));
      try {
        const command = new PutRecordsCommand({ StreamARN: route.stream_arn, Records });
        const answer = await client.send(command, { abortSignal: signal });
        if ((answer.FailedRecordCount ?? 0) === 0) return null;
        return messages.map((_, i) => {
          const code = answer.Records?.[i]?.ErrorCode;
          return code === undefined ? null : { error: awsVerdict(code, undefined, place) };
        });
      } catch (error) {
        throw awsFailure(error, place);
      }
    },

    async test(signal) {
      const { stream_arn: StreamARN } = config;
      if (StreamARN === undefined) return;
      try {
        await client.send(new DescribeStreamSummaryCommand({ StreamARN }), { abortSignal: signal });
      } catch (error) {
        throw awsFailure(error, nameOf(StreamARN));
      }
    },

    async close() {
      client.destroy();
    },
  };
}
