/** What is particular to Kafka, against two brokers of it and beside its own Java clients. */
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type KafkaConfig, kafkaKind } from '@millrace/sinks/kafka';
import { murmur2, partitionOf } from '@millrace/sinks/kafka/murmur2';
import type { OutMessage, PushSink } from '@millrace/sinks/push-sink';
import type { SinkContext } from '@millrace/sinks/sink-kind';
import { KAFKA_SECRETS, type KafkaServer, kafkaMissing, startKafka } from '@millrace/testkit/servers/kafka';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { deliverAll, everythingIn, outcomes } from './push-sink-messages.ts';

const WAIT = { timeout: 30_000, interval: 20 };
const missing = await kafkaMissing();

type Message = OutMessage<never>;

let kafka: KafkaServer;
const sinks: PushSink[] = [];
const logged: string[] = [];

describe.skipIf(missing !== null)(`kafka${missing === null ? '' : ` (${missing})`}`, { timeout: 90_000 }, () => {
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 2 });
  }, 180_000);
  afterAll(async () => kafka?.stop(), 60_000);
  afterEach(async () => {
    await kafka.proxy.pass();
    for (const sink of sinks.splice(0)) await sink.close();
    logged.length = 0;
  });

  async function open(block: Record<string, unknown>, timeoutMs = 20_000): Promise<PushSink> {
    const config = kafkaKind.schema.parse({ type: 'kafka', hosts: kafka.listeners.plain, ...block }) as KafkaConfig;
    const context: SinkContext = {
      name: 'kafka',
      httpEndpoint: () => undefined,
      network: { allowPrivate: true, allow: [] },
      timeoutMs,
      log: (line) => logged.push(line),
    };
    const sink = (await kafkaKind.open(config, context)) as PushSink;
    sinks.push(sink);
    return sink;
  }

  let count = 0;
  function message(
    topic: string,
    more: Partial<OutMessage> & { message_key?: string; headers?: Record<string, string> } = {},
  ) {
    const { message_key, headers, ...facts } = more;
    const n = ++count;
    return {
      action: 'insert',
      schema: 'public',
      table: 'products',
      databaseName: 'shop',
      keys: [String(n)],
      idempotencyKey: `key-${n}`,
      group: `group-${n}`,
      lsn: BigInt(n),
      ordinal: 0,
      body: Buffer.from(`{"n":${n}}`),
      json: true,
      tries: 0,
      route: {
        topic,
        ...(message_key === undefined ? {} : { message_key }),
        ...(headers === undefined ? {} : { headers }),
      },
      ...facts,
    } as unknown as Message;
  }

  const codes = async (sink: PushSink, messages: readonly Message[]) =>
    (await outcomes(sink, messages)).map((outcome) => outcome?.error.code ?? 'arrived');

  describe('keys', () => {
    const keys = [
      Buffer.alloc(0),
      ...[
        'a',
        'ab',
        'abc',
        'abcd',
        'abcde',
        '21',
        'foobar',
        'a-little-bit-long-string',
        'public.users:42',
        'žluťoučký kůň 🐎',
      ].map((text) => Buffer.from(text)),
      ...Array.from({ length: 300 }, (_, n) => randomBytes(n % 67)),
    ];

    test('the hash and the partition of a key are those of the Java client', async () => {
      for (const partitions of [1, 3, 12, 100]) {
        const java = await kafka.javaPartitions(keys, partitions);
        expect(keys.map((key) => ({ hash: murmur2(key), partition: partitionOf(key, partitions) }))).toEqual(java);
      }
    });

    test('a message lands where the Java producer puts the same key', async () => {
      const topic = await kafka.newTopic({ partitions: 7 });
      const texts = Array.from({ length: 60 }, (_, n) => `customer-${n * 7919}`);
      const java = await kafka.javaProduce(
        topic,
        texts.map((text) => Buffer.from(text)),
      );
      const sink = await open({ topic });
      await deliverAll(
        sink,
        texts.map((group) => message(topic, { group })),
      );
      const ours = new Map(
        (await kafka.records(topic))
          .filter(({ value }) => value?.toString() !== 'by java')
          .map(({ key, partition }) => [String(key), partition]),
      );
      expect(texts.map((text) => ours.get(text))).toEqual(java);
    });

    test('the key is what the routing function returned, else the group, else none', async () => {
      const topic = await kafka.newTopic();
      const sink = await open({ topic });
      await deliverAll(sink, [
        message(topic, { group: 'row', message_key: 'routed' }),
        message(topic, { group: 'row' }),
        message(topic, { group: null }),
        message(topic, { group: 'row', message_key: '' }),
      ]);
      const found = (await kafka.records(topic)).map(({ key }) => key?.toString() ?? null);
      expect(found.sort()).toEqual(['', 'routed', 'row', null].sort());
    });

    test('new partitions are used once they are known, and no key changes its order meanwhile', async () => {
      const topic = await kafka.newTopic({ partitions: 1 });
      await deliverAll(await open({ topic }), [message(topic)]);
      await kafka.addPartitions(topic, 6);
      const sink = await open({ topic });
      await vi.waitFor(async () => {
        await deliverAll(
          sink,
          Array.from({ length: 40 }, () => message(topic)),
        );
        expect(new Set((await kafka.records(topic)).map(({ partition }) => partition)).size).toBeGreaterThan(1);
      }, WAIT);
    });
  });

  describe('messages', () => {
    test('carry what they are about, what the sink adds and what the routing function adds, in headers', async () => {
      const topic = await kafka.newTopic();
      const sink = await open({ topic, headers: { origin: 'shop' } });
      await deliverAll(sink, [message(topic, { idempotencyKey: 'k-1', action: 'update', headers: { trace: 'á1' } })]);
      const [record] = await kafka.records(topic);
      expect(Object.fromEntries([...(record?.headers ?? [])].map(([name, value]) => [name, value.toString()]))).toEqual(
        {
          'millrace-idempotency-key': 'k-1',
          'millrace-action': 'update',
          'millrace-table': 'public.products',
          origin: 'shop',
          trace: 'á1',
        },
      );
      expect(Math.abs((record?.timestampMs ?? 0) - Date.now())).toBeLessThan(60_000);
    });

    test('of deleted rows have no value where tombstones are asked for, and one where not', async () => {
      const topic = await kafka.newTopic({ partitions: 1 });
      await deliverAll(await open({ topic, tombstones: true }), [message(topic, { action: 'delete' }), message(topic)]);
      await deliverAll(await open({ topic }), [message(topic, { action: 'delete' })]);
      expect((await kafka.records(topic)).map(({ value }) => value === null)).toEqual([true, false, false]);
    });

    test.each(['none', 'gzip', 'snappy', 'lz4', 'zstd'])(
      'compressed with %s are read by the Java client',
      async (compression) => {
        const topic = await kafka.newTopic({ config: { 'compression.type': 'producer' } });
        const sink = await open({ topic, compression });
        const sent = Array.from({ length: 50 }, (_, n) =>
          message(topic, { body: Buffer.from(`${n} `.repeat(n * 40)) }),
        );
        sent.push(message(topic, { body: randomBytes(70_000) }));
        await deliverAll(sink, sent);
        const bodies = (list: readonly (Buffer | null)[]) => list.map((body) => body?.toString('base64')).sort();
        expect(bodies((await kafka.records(topic)).map(({ value }) => value))).toEqual(
          bodies(sent.map(({ body }) => body)),
        );
      },
    );

    test('larger than the topic takes fail one by one, and no other does', async () => {
      const topic = await kafka.newTopic({ partitions: 1, config: { 'max.message.bytes': '20000' } });
      const sink = await open({ topic });
      const small = () => message(topic, { group: 'row', body: Buffer.alloc(3_000, 'x') });
      const large = message(topic, { group: 'other', body: randomBytes(30_000) });
      // Together more than a batch of this topic: they are sent in smaller ones.
      const all = [small(), small(), small(), small(), large, small(), small(), small(), small()];
      expect(await codes(sink, all)).toEqual(all.map((one) => (one === large ? 'sink_record_too_large' : 'arrived')));
      expect(await codes(sink, [small()])).toEqual(['arrived']);
      expect(await kafka.records(topic)).toHaveLength(9);
    });

    test('behind one of their group that is too large do not go before it', async () => {
      const topic = await kafka.newTopic({ partitions: 1, config: { 'max.message.bytes': '20000' } });
      const sink = await open({ topic });
      const [first, large, last] = [
        message(topic, { group: 'row' }),
        message(topic, { group: 'row', body: randomBytes(30_000) }),
        message(topic, { group: 'row' }),
      ];
      const said = await codes(sink, [first, large, last]);
      expect(said).toEqual(['arrived', 'sink_record_too_large', 'sink_record_too_large']);
      expect((await kafka.records(topic)).map(({ value }) => String(value))).toEqual([String(first.body)]);
    });

    test('behind one of their group that is larger than the sink takes do not go before it either', async () => {
      const topic = await kafka.newTopic({ partitions: 1 });
      const sink = await open({ topic, max_message_bytes: 2_000 });
      const of = (group: string, bytes: number) => message(topic, { group, body: randomBytes(bytes) });
      const said = await codes(sink, [of('row', 10), of('row', 3_000), of('row', 10), of('other', 10)]);
      expect(said).toEqual(['arrived', 'sink_record_too_large', 'sink_record_too_large', 'arrived']);
      expect(await kafka.records(topic)).toHaveLength(2);
    });

    test('without a key are refused one by one by a compacted topic, which takes the others', async () => {
      const topic = await kafka.newTopic({ partitions: 1, config: { 'cleanup.policy': 'compact' } });
      const sink = await open({ topic });
      const messages = [
        message(topic, { group: 'a' }),
        message(topic, { group: null }),
        message(topic, { group: 'b' }),
      ];
      expect(await codes(sink, messages)).toEqual(['arrived', 'sink_refused', 'arrived']);
      expect((await kafka.records(topic)).map(({ key }) => String(key))).toEqual(['a', 'b']);
    });
  });

  describe('topics', () => {
    test('that do not exist are made by the broker when they are first used', async () => {
      const sink = await open({ topic: 'made-when-used' });
      await sink.test(new AbortController().signal);
      expect(logged.join()).toContain('made-when-used');
      expect(await kafka.topics()).not.toContain('made-when-used');
      expect(await codes(sink, [message('made-when-used')])).toEqual(['arrived']);
      expect(await kafka.records('made-when-used')).toHaveLength(1);
    });

    test('that do not exist are missing where they are not to be made, and found once they are there', async () => {
      const sink = await open({ auto_create_topics: false });
      const next = `topic-${Number((await kafka.newTopic()).slice(6)) + 1}`;
      const waiting = message(next);
      const [outcome] = await outcomes(sink, [waiting]);
      expect(outcome?.error).toMatchObject({
        code: 'sink_place_missing',
        hint: expect.stringContaining('Create the topic'),
      });
      expect(await kafka.newTopic()).toBe(next);
      await deliverAll(sink, [waiting]);
      expect(await kafka.records(next)).toHaveLength(1);
    });

    test('that have moved to another broker are followed', async () => {
      const topic = await kafka.newTopic({
        assignment: [
          [1, 2],
          [2, 1],
        ],
      });
      const sink = await open({ topic });
      const messages = Array.from({ length: 60 }, (_, n) => message(topic, { group: `row-${n % 6}` }));
      await deliverAll(sink, messages.slice(0, 20));
      for (const partition of [0, 1]) await kafka.reassign(topic, partition, partition === 0 ? [2] : [1]);
      await vi.waitUntil(async () => String(await kafka.leaders(topic)) === '2,1', WAIT);
      await deliverAll(sink, messages.slice(20));
      const values = (await kafka.records(topic)).map(({ value }) => String(value));
      expect(values.sort()).toEqual(messages.map(({ body }) => String(body)).sort());
    });
  });

  describe('who may', () => {
    const block = () => ({ tls: true, ca: kafka.certificates.ca });

    test.each(['scram_sha_256', 'scram_sha_512'])('connect by %s', async (sasl_mechanism) => {
      const topic = await kafka.newTopic();
      const user = { hosts: kafka.listeners.sasl, topic, sasl_mechanism, username: 'scram-user' };
      const sink = await open({ ...user, password: KAFKA_SECRETS.scram });
      await sink.test(new AbortController().signal);
      await deliverAll(sink, [message(topic)]);
      const wrong = await open({ ...user, password: 'another' });
      expect(await codes(wrong, [message(topic)])).toEqual(['sink_denied']);
    });

    test('write to a topic is looked at by the test, and said by a delivery', async () => {
      const [topic, other] = [await kafka.newTopic(), await kafka.newTopic()];
      await kafka.denyWrite('limited', topic);
      const user = {
        hosts: kafka.listeners.sasl,
        sasl_mechanism: 'plain',
        username: 'limited',
        password: KAFKA_SECRETS.limited,
      };
      const sink = await open({ ...user, topic });
      await vi.waitUntil(async () => {
        const error = await sink.test(new AbortController().signal).catch((error: Error) => error);
        return error instanceof Error && error.message.includes('does not let this user write');
      }, WAIT);
      expect(await codes(sink, [message(topic)])).toEqual(['sink_denied']);
      expect(await codes(sink, [message(other)])).toEqual(['arrived']);
    });

    test('a broker is verified: its authority has to be known', async () => {
      const topic = await kafka.newTopic();
      await deliverAll(await open({ ...block(), hosts: kafka.listeners.tls, topic }), [message(topic)]);
      const stranger = await open({ hosts: kafka.listeners.tls, tls: true, ca: kafka.certificates.strangerCa, topic });
      expect(await codes(stranger, [message(topic)])).toEqual(['sink_unverified']);
      const unset = await open({ hosts: kafka.listeners.tls, tls: true, topic });
      expect(await codes(unset, [message(topic)])).toEqual(['sink_unverified']);
    });

    test('a client certificate is shown where brokers ask for one', async () => {
      const topic = await kafka.newTopic();
      const { clientCert: client_cert, clientKey: client_key } = kafka.certificates;
      const hosts = kafka.listeners.mtls;
      await deliverAll(await open({ ...block(), hosts, topic, client_cert, client_key }), [message(topic)]);
      expect(await codes(await open({ ...block(), hosts, topic }), [message(topic)])).toEqual(['sink_denied']);
    });

    test('a port that speaks TLS is not taken for one that does not, nor the other way round', async () => {
      const topic = await kafka.newTopic();
      const [plain] = await outcomes(await open({ hosts: kafka.listeners.tls, topic }), [message(topic)]);
      expect(plain?.error.hint).toContain('tls: true');
      const [tls] = await outcomes(await open({ ...block(), hosts: kafka.listeners.plain, topic }, 3_000), [
        message(topic),
      ]);
      expect(tls?.error.code).toBe('sink_unavailable');
    });

    test('a user that is not given where one is asked for is hinted at', async () => {
      const topic = await kafka.newTopic();
      const [outcome] = await outcomes(await open({ hosts: kafka.listeners.sasl, topic }), [message(topic)]);
      expect(outcome?.error).toMatchObject({
        code: 'sink_unavailable',
        hint: expect.stringContaining('sasl_mechanism'),
      });
    });

    test('the password is in no error, however deep one looks', async () => {
      const topic = await kafka.newTopic();
      const password = 'never-to-be-seen-5b1';
      const wrong = { topic, username: 'plain-user', password, sasl_mechanism: 'plain' };
      for (const hosts of [kafka.listeners.sasl, kafka.listeners.plain, kafka.listeners.tls]) {
        const [outcome] = await outcomes(await open({ ...wrong, hosts }, 3_000), [message(topic)]);
        expect(outcome).not.toBeNull();
        expect(everythingIn(outcome?.error)).not.toContain(password);
      }
    });
  });

  describe('a lost reply', () => {
    /** The request arrives, its reply does not. Resolves when the message can be read. */
    async function loseReply(topic: string, sink: PushSink, lost: Message, timeout = WAIT): Promise<readonly string[]> {
      await kafka.proxy.delay(200);
      const passed = kafka.proxy.bytesPassed;
      const delivery = codes(sink, [lost]);
      await vi.waitUntil(() => kafka.proxy.bytesPassed > passed + lost.body.length, { ...timeout, interval: 1 });
      await kafka.proxy.blackHole();
      await vi.waitUntil(async () => (await values(topic)).includes(String(lost.body)), timeout);
      return await delivery;
    }

    const values = async (topic: string) => (await kafka.records(topic)).map(({ value }) => String(value));

    test('that nobody waits for any more repeats nothing, however the messages come again', async () => {
      const topic = await kafka.newTopic({ partitions: 1 });
      const sink = await open({ hosts: kafka.listeners.proxied, topic }, 2_000);
      const [before, lost, after] = [1, 2, 3].map(() => message(topic, { group: 'row' })) as [
        Message,
        Message,
        Message,
      ];
      await deliverAll(sink, [before]);
      expect(await loseReply(topic, sink, lost)).toEqual(['sink_unavailable']);
      // Nor does one that is tried meanwhile, while nothing answers, make the doubt forgotten.
      kafka.proxy.cut();
      expect(await codes(sink, [after])).toEqual(['sink_unavailable']);
      kafka.proxy.cut();
      await kafka.proxy.pass();
      // In a request with others, and as other bytes than before: what arrived is what counts.
      await deliverAll(sink, [{ ...lost, body: Buffer.from('again') } as Message, after]);
      expect(await values(topic)).toEqual([before, lost, after].map(({ body }) => String(body)));
    });

    test('that comes after nobody waits for it any more is remembered', async () => {
      const topic = await kafka.newTopic({ partitions: 1 });
      const sink = await open({ hosts: kafka.listeners.proxied, topic }, 2_000);
      await deliverAll(sink, [message(topic)]);
      const lost = message(topic, { group: 'row' });
      await kafka.proxy.delay(200);
      const stop = new AbortController();
      const passed = kafka.proxy.bytesPassed;
      const delivery = outcomes(sink, [lost], stop.signal);
      await vi.waitUntil(() => kafka.proxy.bytesPassed > passed + lost.body.length, { ...WAIT, interval: 1 });
      stop.abort();
      expect((await delivery)[0]?.error.code).toBe('sink_unavailable');
      await kafka.proxy.pass();
      await vi.waitUntil(async () => (await values(topic)).length === 2, WAIT);
      await deliverAll(sink, [lost]);
      await deliverAll(sink, [message(topic)]);
      expect((await values(topic)).filter((text) => text === String(lost.body))).toHaveLength(1);
    });

    test('of the question where a topic is, sends nothing later on its own', async () => {
      const topic = await kafka.newTopic({ partitions: 1 });
      const sink = await open({ hosts: kafka.listeners.proxied, topic }, 1_000);
      // Each answer comes within the timeout, all of them together do not.
      await kafka.proxy.delay(300);
      const late = message(topic, { group: 'row' });
      expect(await codes(sink, [late])).toEqual(['sink_unavailable']);
      await kafka.proxy.pass();
      await deliverAll(sink, [late]);
      await deliverAll(sink, [message(topic, { group: 'row' })]);
      expect(await values(topic)).toHaveLength(2);
    });

    test('repeats a message where the broker is told not to look', async () => {
      const topic = await kafka.newTopic({ partitions: 1 });
      const sink = await open({ hosts: kafka.listeners.proxied, topic, idempotent: false }, 2_000);
      await deliverAll(sink, [message(topic)]);
      const lost = message(topic, { group: 'row' });
      expect(await loseReply(topic, sink, lost)).toEqual(['sink_unavailable']);
      kafka.proxy.cut();
      await kafka.proxy.pass();
      await deliverAll(sink, [lost]);
      expect((await values(topic)).filter((text) => text === String(lost.body))).toHaveLength(2);
    });
  });

  test('many requests at once under resets keep the order of every key, and nothing is there twice', async () => {
    const topic = await kafka.newTopic({ partitions: 5 });
    const sink = await open({ hosts: kafka.listeners.proxied, topic }, 5_000);
    const groups = Array.from({ length: 40 }, (_, g) =>
      Array.from({ length: 12 }, (_, n) =>
        message(topic, { group: `row-${g}`, body: Buffer.from(`${g}/${n} ${'x'.repeat(800)}`) }),
      ),
    );
    let delivering = true;
    // Eight workers, each with groups of its own, as the engine has them.
    const workers = Array.from({ length: 8 }, async (_, worker) => {
      const own = groups.filter((_, g) => g % 8 === worker);
      for (let n = 0; n < 12; n += 3)
        await deliverAll(
          sink,
          own.flatMap((group) => group.slice(n, n + 3)),
          60_000,
        );
    });
    const all = Promise.all(workers).finally(() => {
      delivering = false;
    });
    for (let cuts = 0; delivering && cuts < 12; cuts++) {
      const next = kafka.proxy.bytesPassed + 30_000;
      await vi.waitUntil(() => !delivering || kafka.proxy.bytesPassed >= next, { ...WAIT, interval: 1 });
      kafka.proxy.cut();
      await delay(5);
    }
    await all;
    const found = new Map<string, string[]>();
    for (const { key, value } of await kafka.records(topic)) {
      const list = found.get(String(key)) ?? [];
      list.push(String(value));
      found.set(String(key), list);
    }
    for (const [g, group] of groups.entries())
      expect(found.get(`row-${g}`)).toEqual(group.map(({ body }) => String(body)));
  });
});
