/**
 * Delivery to Kafka: each message to the partition of its key, through that partition's lane (partition-lane.ts), where
 * messages of several requests share a batch. Loaded when the first Kafka sink opens; it brings the client library.
 */
import { promisify } from 'node:util';
import { gzip, zstdCompress } from 'node:zlib';
import { MillraceError } from '@millrace/core/error';
import { pause } from '@millrace/core/pause';
import { compressionsAlgorithms, crc32c } from '@platformatic/kafka';
import { networkGuard } from '../http/network-guard.ts';
import type { KafkaConfig, KafkaRoute } from '../kafka.ts';
import type { DeliveryFailure, DeliveryOutcome, OutMessage, PushLimits, PushSink } from '../push-sink.ts';
import { settleWithin } from '../settle-within.ts';
import type { SinkContext } from '../sink-kind.ts';
import { type BrokerAddress, KafkaCluster, type TopicLayout } from './kafka-cluster.ts';
import { verdictOf } from './kafka-verdict.ts';
import { partitionOf } from './murmur2.ts';
import { type LaneEntry, PartitionLane } from './partition-lane.ts';
import {
  BATCH_OVERHEAD_BYTES,
  encodeBatch,
  encodeRecords,
  type KafkaRecord,
  type ProducerStamp,
  recordBytesMax,
} from './record-batch.ts';

/** Of one request to us; the lanes put messages of several together. */
const MESSAGES_MAX = 1_000;
const BYTES_MAX = 8 * 1024 * 1024;
const CONCURRENCY = 16;
/** Partitions that something is remembered of; those beyond it start over with a new producer. */
const LANES_MAX = 10_000;
/** Of batches whose replies were lost, all partitions together. Beyond it the oldest are given up. */
const DOUBT_BYTES_MAX = 64 * 1024 * 1024;
/** Messages that arrived after they were said not to have; the oldest beyond it may be repeated. */
const LATE_MAX = 100_000;
/** A topic that is made when it is first used is there a moment later. */
const CREATION_ATTEMPTS = 8;
const CREATION_PAUSE_MS = 100;
const TEST_ATTEMPTS = 4;
const TEST_PAUSE_MS = 250;

const SASL_MECHANISMS = {
  plain: 'PLAIN',
  scram_sha_256: 'SCRAM-SHA-256',
  scram_sha_512: 'SCRAM-SHA-512',
} as const;

const COMPRESSIONS: Readonly<Record<KafkaConfig['compression'], Compression>> = {
  none: { number: 0, compress: null },
  gzip: { number: 1, compress: promisify<Buffer, Buffer>(gzip) },
  snappy: { number: 2, compress: async (bytes) => compressionsAlgorithms.snappy.compressSync(bytes) },
  lz4: { number: 3, compress: async (bytes) => compressionsAlgorithms.lz4.compressSync(bytes) },
  zstd: { number: 4, compress: promisify<Buffer, Buffer>(zstdCompress) },
};

interface Compression {
  /** In the attributes of a batch. */
  readonly number: number;
  readonly compress: ((bytes: Buffer) => Promise<Buffer>) | null;
}

type KafkaMessage = OutMessage<KafkaRoute>;

export class KafkaSink implements PushSink<KafkaRoute> {
  readonly limits: PushLimits;
  readonly #config: KafkaConfig;
  readonly #context: SinkContext;
  readonly #cluster: KafkaCluster;
  readonly #lanes = new Map<string, PartitionLane>();
  readonly #doubts = new Map<PartitionLane, number>();
  readonly #late = new Set<string>();
  readonly #closing = new AbortController();
  readonly #headers: readonly Buffer[];
  #keyless = 0;

  constructor(config: KafkaConfig, context: SinkContext) {
    this.#config = config;
    this.#context = context;
    this.#headers = headerList(config.headers);
    this.#cluster = new KafkaCluster({
      bootstrap: addressesOf(config.hosts),
      tls: config.tls
        ? {
            ...(config.ca === undefined ? {} : { ca: config.ca }),
            ...(config.client_cert === undefined ? {} : { cert: config.client_cert }),
            ...(config.client_key === undefined ? {} : { key: config.client_key }),
          }
        : undefined,
      sasl: saslOf(config),
      timeoutMs: context.timeoutMs,
      guard: networkGuard({ policy: context.network }),
      topic: config.topic,
    });
    this.limits = {
      messagesMax: MESSAGES_MAX,
      bytesMax: Math.max(BYTES_MAX, config.max_message_bytes),
      messageBytesMax: config.max_message_bytes,
      concurrency: CONCURRENCY,
      // A batch is written whole or not at all, and behind one that failed nothing of its group goes on.
      groupsShareRequests: true,
    };
  }

  batchKey({ route }: KafkaMessage): string {
    return route.topic;
  }

  /** What it takes up in a batch of its own, without compression, at most. */
  sizeOf(message: KafkaMessage): number {
    return batchBytesOf(this.#recordOf(message));
  }

  async deliver(messages: readonly KafkaMessage[], signal: AbortSignal): Promise<DeliveryOutcome | null> {
    const stopped = AbortSignal.any([signal, this.#closing.signal]);
    const outcomes: (DeliveryFailure | null)[] = messages.map(() => null);
    const waits: { readonly lane: PartitionLane; readonly entry: LaneEntry; readonly index: number }[] = [];
    let over = false;
    try {
      await settleWithin(this.#context.timeoutMs, stopped, async () => {
        const layouts = await this.#layouts(messages, outcomes, stopped);
        // Nobody waits any more: what went on its way now would come again.
        if (over) return;
        await new Promise<void>((done) => this.#enter(messages, layouts, outcomes, waits, done));
      });
    } catch (error) {
      over = true;
      const failure = { error: verdictOf(error, this.#cluster.asked()).error };
      for (const { lane, entry, index } of waits) {
        if (entry.waiter === null) continue;
        lane.abandon(entry);
        outcomes[index] = failure;
      }
      // It failed before anything was on its way.
      if (waits.length === 0) throw failure.error;
    }
    return outcomes.some((outcome) => outcome !== null) ? outcomes : null;
  }

  /** Of each topic where its partitions are; what cannot go there has its outcome. */
  async #layouts(
    messages: readonly KafkaMessage[],
    outcomes: (DeliveryFailure | null)[],
    signal: AbortSignal,
  ): Promise<ReadonlyMap<string, TopicLayout>> {
    const layouts = new Map<string, TopicLayout>();
    for (const topic of new Set(messages.map(({ route }) => route.topic))) {
      try {
        layouts.set(topic, await this.#layout(topic, signal));
      } catch (error) {
        const failure = { error: verdictOf(error, this.#cluster.asked({ topic })).error };
        for (const [index, { route }] of messages.entries()) if (route.topic === topic) outcomes[index] = failure;
      }
    }
    return layouts;
  }

  async #layout(topic: string, signal: AbortSignal): Promise<TopicLayout> {
    const create = this.#config.auto_create_topics;
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#cluster.topic(topic, { create });
      } catch (error) {
        const made = create && error instanceof MillraceError && error.code === 'sink_place_missing';
        if (!made || attempt === CREATION_ATTEMPTS || signal.aborted) throw error;
        await pause(CREATION_PAUSE_MS, signal);
      }
    }
  }

  #enter(
    messages: readonly KafkaMessage[],
    layouts: ReadonlyMap<string, TopicLayout>,
    outcomes: (DeliveryFailure | null)[],
    waits: { lane: PartitionLane; entry: LaneEntry; index: number }[],
    done: () => void,
  ): void {
    const delivery = {};
    const lanes = new Set<PartitionLane>();
    const tooLarge = new Set<string | null>();
    const sticky = this.#keyless++;
    let left = messages.length;
    const end = (count: number) => {
      left -= count;
      if (left === 0) done();
    };
    for (const [index, message] of messages.entries()) {
      const layout = layouts.get(message.route.topic);
      // Without a layout it has its outcome; what is remembered was written when nobody waited for it any more.
      if (layout === undefined || this.#forget(message.idempotencyKey)) {
        end(1);
        continue;
      }
      const record = this.#recordOf(message);
      const follows = message.group !== null && tooLarge.has(message.group);
      if (follows || batchBytesOf(record) > this.limits.messageBytesMax) {
        tooLarge.add(message.group);
        outcomes[index] = { error: new MillraceError('sink_record_too_large', { hint: TOO_LARGE_HINT }) };
        end(1);
        continue;
      }
      const partition =
        record.key === null ? sticky % layout.leaders.length : partitionOf(record.key, layout.leaders.length);
      const lane = this.#lane(message.route.topic, partition);
      const entry: LaneEntry = {
        record,
        idempotencyKey: message.idempotencyKey,
        group: message.group,
        waiter: {
          delivery,
          settle(outcome) {
            outcomes[index] = outcome;
            end(1);
          },
        },
      };
      waits.push({ lane, entry: lane.add(entry), index });
      lanes.add(lane);
    }
    for (const lane of lanes) lane.start();
  }

  #lane(topic: string, partition: number): PartitionLane {
    const key = `${partition}/${topic}`;
    let lane = this.#lanes.get(key);
    if (lane !== undefined) return lane;
    lane = new PartitionLane({
      cluster: this.#cluster,
      topic,
      partition,
      create: this.#config.auto_create_topics,
      idempotent: this.#config.idempotent,
      bytesMax: this.limits.messageBytesMax,
      encode: (records, stamp) => this.#encode(records, stamp),
      onLate: (idempotencyKey) => this.#remember(idempotencyKey),
      onDoubt: (which, bytes) => this.#doubt(which, bytes),
      closed: this.#closing.signal,
    });
    if (this.#lanes.size >= LANES_MAX) this.#evict();
    this.#lanes.set(key, lane);
    return lane;
  }

  /** The oldest that nothing is known of but its producer. */
  #evict(): void {
    for (const [key, lane] of this.#lanes) {
      if (!lane.idle) continue;
      this.#lanes.delete(key);
      return;
    }
  }

  #forget(idempotencyKey: string): boolean {
    return this.#late.size > 0 && this.#late.delete(idempotencyKey);
  }

  #remember(idempotencyKey: string): void {
    this.#late.add(idempotencyKey);
    if (this.#late.size > LATE_MAX) for (const oldest of this.#late) return void this.#late.delete(oldest);
  }

  #doubt(lane: PartitionLane, bytes: number): void {
    this.#doubts.delete(lane);
    if (bytes === 0) return;
    this.#doubts.set(lane, bytes);
    let sum = 0;
    for (const each of this.#doubts.values()) sum += each;
    for (const [oldest, each] of this.#doubts) {
      if (sum <= DOUBT_BYTES_MAX) break;
      sum -= each;
      oldest.forget();
    }
  }

  async #encode(records: readonly KafkaRecord[], stamp: ProducerStamp): Promise<Buffer> {
    const { number, compress } = COMPRESSIONS[this.#config.compression];
    const plain = encodeRecords(records);
    const packed = compress === null ? plain : await compress(plain);
    return encodeBatch(packed, { count: records.length, timestampMs: Date.now(), stamp, compression: number, crc32c });
  }

  #recordOf(message: KafkaMessage): KafkaRecord {
    const { route, group, action, body } = message;
    const key = route.message_key ?? group;
    return {
      key: key === null ? null : Buffer.from(key, 'utf8'),
      value: this.#config.tombstones && action === 'delete' ? null : body,
      headers: this.#headersOf(message),
    };
  }

  #headersOf({ idempotencyKey, action, schema, table, route }: KafkaMessage): readonly Buffer[] {
    const headers: Buffer[] = [
      IDEMPOTENCY_KEY,
      Buffer.from(idempotencyKey, 'utf8'),
      ACTION,
      Buffer.from(action, 'latin1'),
    ];
    if (table !== '') headers.push(TABLE, Buffer.from(`${schema}.${table}`, 'utf8'));
    if (this.#headers.length > 0) headers.push(...this.#headers);
    if (route.headers !== undefined) headers.push(...headerList(route.headers));
    return headers;
  }

  async test(signal: AbortSignal): Promise<void> {
    const stopped = AbortSignal.any([signal, this.#closing.signal]);
    await settleWithin(this.#context.timeoutMs, stopped, async () => {
      const { topic, idempotent } = this.#config;
      if (idempotent) await this.#newProducer(stopped);
      else await this.#cluster.connect();
      if (topic === undefined) return;
      const writable = await this.#writable(topic);
      if (writable !== false) return;
      throw new MillraceError('sink_denied', {
        detail: `Kafka does not let this user write to topic ${topic}.`,
        hint: 'Grant the user Write and Describe on the topic.',
      });
    });
  }

  /** A cluster that has just started has to find who gives the numbers out. */
  async #newProducer(signal: AbortSignal): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#cluster.newProducer();
        return;
      } catch (error) {
        const later = error instanceof MillraceError && error.retry === 'backoff';
        if (!later || attempt === TEST_ATTEMPTS || signal.aborted) throw error;
        await pause(TEST_PAUSE_MS, signal);
      }
    }
  }

  /** Asks without having the topic made. One that would be made is as good as there. */
  async #writable(topic: string): Promise<boolean | null> {
    try {
      return (await this.#cluster.topic(topic, { create: false, fresh: true })).writable;
    } catch (error) {
      const missing = error instanceof MillraceError && error.code === 'sink_place_missing';
      if (!missing || !this.#config.auto_create_topics) throw error;
      this.#context.log(`Topic ${topic} does not exist yet: the broker makes it with the first message, if it may.`);
      return null;
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#cluster.close();
    this.#lanes.clear();
    this.#doubts.clear();
  }
}

function batchBytesOf(record: KafkaRecord): number {
  return BATCH_OVERHEAD_BYTES + recordBytesMax(record);
}

const TOO_LARGE_HINT = 'Raise max_message_bytes, and max.message.bytes of the topic, or choose an oversize policy.';
const IDEMPOTENCY_KEY = Buffer.from('millrace-idempotency-key');
const ACTION = Buffer.from('millrace-action');
const TABLE = Buffer.from('millrace-table');

function headerList(headers: Readonly<Record<string, string>>): Buffer[] {
  return Object.entries(headers).flatMap(([name, value]) => [Buffer.from(name, 'utf8'), Buffer.from(value, 'utf8')]);
}

/** `a:9092,[::1]:9093`, checked by the schema. */
export function addressesOf(hosts: string): BrokerAddress[] {
  return hosts.split(',').map((one) => {
    const [, host, port] = /^\s*(.*):(\d+)\s*$/.exec(one) ?? [];
    return { host: (host ?? '').replace(/^\[|\]$/g, ''), port: Number(port) };
  });
}

function saslOf({ sasl_mechanism, username, password }: KafkaConfig) {
  if (sasl_mechanism === undefined || sasl_mechanism === 'aws_msk_iam') return undefined;
  return { mechanism: SASL_MECHANISMS[sasl_mechanism], username: username ?? '', password: password ?? '' };
}
