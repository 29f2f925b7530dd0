/** Amazon SNS: a notification on a topic for each change; FIFO topics keep the order of each row and drop duplicates. */
import { madeName } from '@millrace/core/error';
import * as z from 'zod';
import { AWS_FIELDS, checkAwsFields, regionOf, regionProblem } from './aws/aws-fields.ts';
import type { OutMessage, PushSink } from './push-sink.ts';
import type { SinkContext, SinkKind } from './sink-kind.ts';

export interface SnsRoute {
  readonly topic_arn: string;
}

const topicArn = z
  .string()
  .max(2_000)
  .regex(
    /^arn:aws[\w-]*:sns:[a-z0-9-]+:\d{12}:[\w-]{1,256}(?:\.fifo)?$/,
    'must be arn:aws:sns:<region>:<account>:<topic>',
  );

const schema = z
  .strictObject({
    type: z.literal('sns'),
    topic_arn: topicArn
      .optional()
      .describe('ARN of the topic. Absent: a routing function returns it for each message.'),
    ...AWS_FIELDS,
    is_fifo: z.boolean().optional().describe('Taken for compatibility: the name of a FIFO topic ends with .fifo.'),
    max_message_bytes: z
      .int()
      .min(1_024)
      .max(1_048_576)
      .default(262_144)
      .describe('The largest message that the topic takes (its MaximumMessageSize). Default 262144.'),
  })
  .superRefine((value, context) => checkAwsFields(value, context, value.topic_arn));

export type SnsConfig = z.output<typeof schema>;

const routing = z.strictObject({
  topic_arn: topicArn.exactOptional().describe('Topic of this message, in the region of the sink.'),
});
const CONCURRENCY = 32;

export const snsKind: SinkKind<SnsConfig, SnsRoute> = {
  type: 'sns',
  title: 'Amazon SNS',
  summary: 'Publishes a notification to an SNS topic for each change.',
  schema,
  routing,
  batchSize: { default: 10, max: 10 },
  batchTimeoutMs: 1,
  route: ({ topic_arn }) => (topic_arn === undefined ? {} : { topic_arn }),
  checkRoute(config, { topic_arn }) {
    if (topic_arn === undefined) return 'There is no topic: set topic_arn, or have a routing function return it.';
    return regionProblem(config, config.topic_arn, topic_arn) ?? { topic_arn };
  },
  open: async (config, context) => await openTopic(config, context),
  example: {
    type: 'sns',
    topic_arn: 'arn:aws:sns:us-east-1:123456789012:orders',
    access_key_id: 'AKIAIOSFODNN7EXAMPLE',
    secret_access_key: '${SNS_SECRET_ACCESS_KEY}',
  },
};

async function openTopic(config: SnsConfig, context: SinkContext): Promise<PushSink<SnsRoute>> {
  const { GetTopicAttributesCommand, PublishBatchCommand, SNSClient } = await import('@aws-sdk/client-sns');
  const { awsClientConfig, awsFailure } = await import('./aws/aws-client.ts');
  const { awsSession } = await import('./aws/aws-session.ts');
  const { batchLimits, deliverBatch, isFifo } = await import('./aws/batch-queue.ts');
  const { tooLarge } = await import('./sqs.ts');
  const clientConfig = await awsClientConfig(config, regionOf(config.topic_arn), context);
  const make = () => new SNSClient(clientConfig);
  const session = awsSession(make, { role: config.use_task_role, timeoutMs: context.timeoutMs });
  const limits = batchLimits(CONCURRENCY, config.max_message_bytes);
  const nameOf = (arn: string) => {
    const name = arn.slice(arn.lastIndexOf(':') + 1);
    return `topic ${arn === config.topic_arn ? name : madeName(name)}`;
  };
  return {
    limits,
    batchKey: ({ route }) => route.topic_arn,
    sizeOf: ({ body }) => body.length,

    async deliver(messages: readonly OutMessage<SnsRoute>[], signal) {
      const [{ route }] = messages as [OutMessage<SnsRoute>];
      for (const message of messages) {
        if (message.body.length > limits.messageBytesMax) throw tooLarge(message.body.length, limits.messageBytesMax);
      }
      return await deliverBatch(messages, nameOf(route.topic_arn), isFifo(route.topic_arn), (entries) =>
        session.send(signal, (client, options) =>
          client.send(
            new PublishBatchCommand({
              TopicArn: route.topic_arn,
              PublishBatchRequestEntries: entries.map(({ body, ...entry }) => ({ ...entry, Message: body })),
            }),
            options,
          ),
        ),
      );
    },

    async test(signal) {
      const { topic_arn: TopicArn } = config;
      if (TopicArn === undefined) return;
      try {
        const command = new GetTopicAttributesCommand({ TopicArn });
        await session.send(signal, (client, options) => client.send(command, options));
      } catch (error) {
        throw awsFailure(error, nameOf(TopicArn));
      }
    },

    close: session.close,
  };
}
