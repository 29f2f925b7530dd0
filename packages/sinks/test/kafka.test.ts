/** The contract of push sinks, against Apache Kafka itself: what arrived is read by its own Java consumer. */
import { kafkaKind } from '@millrace/sinks/kafka';
import { KAFKA_SECRETS, kafkaMissing, startKafka } from '@millrace/testkit/servers/kafka';
import { registerPushSinkContract } from './push-sink-contract.ts';
import type { PushSinkTarget } from './push-sink-subject.ts';

registerPushSinkContract({
  kind: kafkaKind,
  module: import.meta.resolve('@millrace/sinks/kafka'),
  exportName: 'kafkaKind',
  missing: await kafkaMissing(),
  start: startTarget,
});

async function startTarget(): Promise<PushSinkTarget> {
  const kafka = await startKafka();
  return {
    proxy: kafka.saslProxy,
    newPlace: () => kafka.newTopic(),
    destination: (topic, way) => ({
      type: 'kafka',
      hosts: way === 'proxy' ? kafka.listeners.saslProxied : kafka.listeners.sasl,
      topic,
      username: 'plain-user',
      password: KAFKA_SECRETS.plain,
      sasl_mechanism: 'plain',
    }),
    withWrongCredentials: (destination) => ({ ...destination, password: `${KAFKA_SECRETS.plain}-not` }),
    withWrongPlace: (destination) => ({ ...destination, topic: 'no-such-topic', auto_create_topics: false }),
    routeTo: (topic) => ({ topic }),
    async received(topic) {
      return (await kafka.records(topic)).map(({ value, headers }) => ({
        body: value ?? Buffer.alloc(0),
        idempotencyKey: headers.get('millrace-idempotency-key')?.toString(),
      }));
    },
    freeze: { suspend: kafka.suspend, resume: kafka.resume },
    kill: kafka.kill,
    restart: kafka.restart,
    secrets: [KAFKA_SECRETS.plain],
    durable: true,
    dedupes: true,
    keepsHistory: true,
    takesText: true,
    recoveryTimeoutMs: 40_000,
    stop: kafka.stop,
  };
}
