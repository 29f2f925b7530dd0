/** Every kind of destination but the streams of S2, which have a port of their own (sink.ts). */
import { kafkaKind } from './kafka.ts';
import { kinesisKind } from './kinesis.ts';
import { natsKind } from './nats.ts';
import { rabbitmqKind } from './rabbitmq.ts';
import { redisStreamKind } from './redis-stream.ts';
import { redisStringKind } from './redis-string.ts';
import { sequinStreamKind } from './sequin-stream.ts';
import type { SinkKind } from './sink-kind.ts';
import { snsKind } from './sns.ts';
import { sqsKind } from './sqs.ts';
import { webhookKind } from './webhook.ts';

// biome-ignore lint/suspicious/noExplicitAny: each kind has its own configuration; `schema` tells them apart.
export const SINK_KINDS: readonly SinkKind<any, any>[] = [
  webhookKind,
  kafkaKind,
  sequinStreamKind,
  redisStreamKind,
  redisStringKind,
  natsKind,
  rabbitmqKind,
  sqsKind,
  snsKind,
  kinesisKind,
];

// biome-ignore lint/suspicious/noExplicitAny: as above.
export function sinkKind(type: string): SinkKind<any, any> | undefined {
  return SINK_KINDS.find((kind) => kind.type === type || kind.aliases?.includes(type));
}
