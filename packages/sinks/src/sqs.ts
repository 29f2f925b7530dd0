/** Amazon SQS: a message on a queue for each change; FIFO queues keep the order of each row and drop duplicates. */
import { MillraceError, madeName } from '@millrace/core/error';
import * as z from 'zod';
import { AWS_FIELDS, checkAwsFields, regionOf, regionProblem } from './aws/aws-fields.ts';
import type { OutMessage, PushSink } from './push-sink.ts';
import type { SinkContext, SinkKind } from './sink-kind.ts';

export interface SqsRoute {
  readonly queue_url: string;
}

const queueUrl = z
  .string()
  .max(2_000)
  .regex(
    /^https?:\/\/[^/\s]+\/\d{12}\/[\w-]{1,80}(?:\.fifo)?$/,
    'must be https://sqs.<region>.amazonaws.com/<account>/<queue>',
  );

const schema = z
  .strictObject({
    type: z.literal('sqs'),
    queue_url: queueUrl
      .optional()
      .describe('Address of the queue. Absent: a routing function returns it for each message.'),
    ...AWS_FIELDS,
    is_fifo: z.boolean().optional().describe('Taken for compatibility: the name of a FIFO queue ends with .fifo.'),
    max_message_bytes: z
      .int()
      .min(1_024)
      .max(1_048_576)
      .default(262_144)
      .describe('The largest message that the queue takes (its MaximumMessageSize). Default 262144.'),
  })
  .superRefine((value, context) => checkAwsFields(value, context, value.queue_url));

export type SqsConfig = z.output<typeof schema>;

const routing = z.strictObject({
  queue_url: queueUrl.exactOptional().describe('Queue of this message, in the region of the sink.'),
});
const CONCURRENCY = 32;

export const sqsKind: SinkKind<SqsConfig, SqsRoute> = {
  type: 'sqs',
  title: 'Amazon SQS',
  summary: 'Sends a message to an SQS queue for each change; FIFO queues keep the order of each row.',
  schema,
  routing,
  batchSize: { default: 10, max: 10 },
  batchTimeoutMs: 1,
  route: ({ queue_url }) => (queue_url === undefined ? {} : { queue_url }),
  checkRoute(config, { queue_url }) {
    if (queue_url === undefined) return 'There is no queue: set queue_url, or have a routing function return it.';
    return regionProblem(config, config.queue_url, queue_url) ?? { queue_url };
  },
  open: async (config, context) => await openQueue(config, context),
  example: {
    type: 'sqs',
    queue_url: 'https://sqs.us-east-1.amazonaws.com/123456789012/orders.fifo',
    access_key_id: 'AKIAIOSFODNN7EXAMPLE',
    secret_access_key: '${SQS_SECRET_ACCESS_KEY}',
  },
};

async function openQueue(config: SqsConfig, context: SinkContext): Promise<PushSink<SqsRoute>> {
  const { GetQueueAttributesCommand, SendMessageBatchCommand, SQSClient } = await import('@aws-sdk/client-sqs');
  const { awsClientConfig, awsFailure } = await import('./aws/aws-client.ts');
  const { awsSession } = await import('./aws/aws-session.ts');
  const { batchLimits, deliverBatch, isFifo } = await import('./aws/batch-queue.ts');
  const clientConfig = await awsClientConfig(config, regionOf(config.queue_url), context);
  const make = () => new SQSClient({ ...clientConfig, useQueueUrlAsEndpoint: !config.use_emulator });
  const session = awsSession(make, { role: config.use_task_role, timeoutMs: context.timeoutMs });
  const limits = batchLimits(CONCURRENCY, config.max_message_bytes);
  const nameOf = (url: string) => {
    const name = url.slice(url.lastIndexOf('/') + 1);
    return `queue ${url === config.queue_url ? name : madeName(name)}`;
  };
  return {
    limits,
    batchKey: ({ route }) => route.queue_url,
    sizeOf: ({ body }) => body.length,

    async deliver(messages: readonly OutMessage<SqsRoute>[], signal) {
      const [{ route }] = messages as [OutMessage<SqsRoute>];
      for (const message of messages) {
        if (message.body.length > limits.messageBytesMax) throw tooLarge(message.body.length, limits.messageBytesMax);
      }
      return await deliverBatch(messages, nameOf(route.queue_url), isFifo(route.queue_url), (entries) =>
        session.send(signal, (client, options) =>
          client.send(
            new SendMessageBatchCommand({
              QueueUrl: route.queue_url,
              Entries: entries.map(({ body, ...entry }) => ({ ...entry, MessageBody: body })),
            }),
            options,
          ),
        ),
      );
    },

    async test(signal) {
      const { queue_url: QueueUrl } = config;
      if (QueueUrl === undefined) return;
      try {
        const command = new GetQueueAttributesCommand({ QueueUrl, AttributeNames: ['QueueArn'] });
        await session.send(signal, (client, options) => client.send(command, options));
      } catch (error) {
        throw awsFailure(error, nameOf(QueueUrl));
      }
    },

    close: session.close,
  };
}

export function tooLarge(bytes: number, bytesMax: number): MillraceError {
  return new MillraceError('sink_record_too_large', { detail: `It has ${bytes} bytes; ${bytesMax} are taken.` });
}
