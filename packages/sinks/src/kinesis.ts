/** Amazon Kinesis Data Streams: a record for each change, on the shard of its row. */
import { createHash } from 'node:crypto';
import { madeName } from '@millrace/core/error';
import * as z from 'zod';
import { AWS_FIELDS, checkAwsFields, regionOf, regionProblem } from './aws/aws-fields.ts';
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
    max_message_bytes: z
      .int()
      .min(1_024)
      .max(10_485_760)
      .default(1_048_576)
      .describe(
        'The largest record that the stream takes, its partition key included (MaxRecordSize). Default 1048576.',
      ),
  })
  .superRefine((value, context) => checkAwsFields(value, context, value.stream_arn));

export type KinesisConfig = z.output<typeof schema>;

const routing = z.strictObject({
  stream_arn: streamArn.exactOptional().describe('Stream of this message, in the region of the sink.'),
});
const RECORDS_MAX = 500;
/** Partition keys included. Kinesis takes 10 MiB by now, emulators 5; only a larger record needs more. */
const REQUEST_BYTES_MAX = 5 * 1024 * 1024;
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
  checkRoute(config, { stream_arn }) {
    if (stream_arn === undefined) return 'There is no stream: set stream_arn, or have a routing function return it.';
    return regionProblem(config, config.stream_arn, stream_arn) ?? { stream_arn };
  },
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
  const { awsSession } = await import('./aws/aws-session.ts');
  const { tooLarge } = await import('./sqs.ts');
  const clientConfig = await awsClientConfig(config, regionOf(config.stream_arn), context);
  const make = () => new KinesisClient(clientConfig);
  const session = awsSession(make, { role: config.use_task_role, timeoutMs: context.timeoutMs });
  const nameOf = (arn: string) => {
    const name = arn.slice(arn.lastIndexOf('/') + 1);
    return `stream ${arn === config.stream_arn ? name : madeName(name)}`;
  };
  const sizeOf = (message: OutMessage) => message.body.length + Buffer.byteLength(partitionKey(message));
  return {
    limits: {
      messagesMax: RECORDS_MAX,
      bytesMax: Math.max(REQUEST_BYTES_MAX, config.max_message_bytes),
      messageBytesMax: config.max_message_bytes,
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
        if (bytes > config.max_message_bytes) throw tooLarge(bytes, config.max_message_bytes);
      }
      const Records = messages.map((message) => ({ Data: message.body, PartitionKey: partitionKey(message) }));
      try {
        const command = new PutRecordsCommand({ StreamARN: route.stream_arn, Records });
        const answer = await session.send(signal, (client, options) => client.send(command, options));
        if ((answer.FailedRecordCount ?? 0) === 0) return null;
        return messages.map((_, i) => {
          const record = answer.Records?.[i];
          if (record !== undefined && record.ErrorCode === undefined) return null;
          return { error: awsVerdict(record?.ErrorCode ?? '', undefined, place) };
        });
      } catch (error) {
        throw awsFailure(error, place);
      }
    },

    async test(signal) {
      const { stream_arn: StreamARN } = config;
      if (StreamARN === undefined) return;
      try {
        const command = new DescribeStreamSummaryCommand({ StreamARN });
        await session.send(signal, (client, options) => client.send(command, options));
      } catch (error) {
        throw awsFailure(error, nameOf(StreamARN));
      }
    },

    close: session.close,
  };
}
