/**
 * The connections to the brokers of a cluster, and what they say of its topics: which brokers there are and which of
 * them leads each partition. Connections are opened when first needed and again after they were lost.
 */
import type { LookupAddress } from 'node:dns';
import { isIP } from 'node:net';
import { MillraceError, madeName } from '@millrace/core/error';
import {
  apiVersionsV1,
  Connection,
  type ConnectionOptions,
  initProducerIdV0,
  initProducerIdV1,
  initProducerIdV2,
  initProducerIdV3,
  initProducerIdV4,
  metadataV4,
  metadataV5,
  metadataV6,
  metadataV7,
  metadataV8,
  metadataV9,
  metadataV10,
  metadataV11,
  metadataV12,
  produceV3,
  produceV4,
  produceV5,
  produceV6,
  produceV7,
  produceV8,
  produceV9,
  produceV10,
  produceV11,
  protocolErrorsCodesById,
  Writer,
} from '@platformatic/kafka';
import type { NetworkGuard } from '../http/network-guard.ts';
import { type Asked, verdictOf, verdictOfName } from './kafka-verdict.ts';

/** What is known of a topic is asked again after so long, so that new partitions are used. */
const TOPIC_MAX_AGE_MS = 60_000;
/** Topics that something is known of; beyond it the oldest are asked again. */
const TOPICS_MAX = 10_000;
/** Requests without an answer yet on one connection; each partition has one at most. */
const INFLIGHT_MAX = 64;
const CONNECT_TIMEOUT_MAX_MS = 10_000;
const CLIENT_ID = 'millrace';
const ACKS_ALL = -1;
/** From this version on a request has the compact form. */
const PRODUCE_COMPACT_FROM = 9;
const WRITE_ALLOWED = (1 << 2) | (1 << 4);
const OPERATIONS_UNKNOWN = -2_147_483_648;

// By version, from the oldest one: only what all of them understand is used.
const PRODUCE_FROM = 3;
const PRODUCE = [
  produceV3,
  produceV4,
  produceV5,
  produceV6,
  produceV7,
  produceV8,
  produceV9,
  produceV10,
  produceV11,
] as unknown as readonly (typeof produceV11)[];
const METADATA_FROM = 4;
const METADATA = [
  metadataV4,
  metadataV5,
  metadataV6,
  metadataV7,
  metadataV8,
  metadataV9,
  metadataV10,
  metadataV11,
  metadataV12,
] as unknown as readonly (typeof metadataV12)[];
const METADATA_COMPACT_FROM = 9;
const INIT_PRODUCER = [
  initProducerIdV0,
  initProducerIdV1,
  initProducerIdV2,
  initProducerIdV3,
  initProducerIdV4,
] as unknown as readonly (typeof initProducerIdV4)[];

type MetadataResponse = metadataV12.MetadataResponse;
type ProduceResponse = produceV11.ProduceResponse;

export interface BrokerAddress {
  readonly host: string;
  readonly port: number;
}

export interface TopicLayout {
  /** Of each partition the node that leads it; -1: none at the moment. */
  readonly leaders: readonly number[];
  /** Whether the broker says that we may write; null: it does not say. */
  readonly writable: boolean | null;
}

export interface ClusterOptions {
  readonly bootstrap: readonly BrokerAddress[];
  readonly tls: ConnectionOptions['tls'];
  readonly sasl: ConnectionOptions['sasl'];
  readonly timeoutMs: number;
  readonly guard: NetworkGuard;
  /** The configured one: of others, routing functions have made the names. */
  readonly topic?: string | undefined;
}

interface Broker {
  readonly address: string;
  readonly connection: Connection;
  readonly versions: ReadonlyMap<number, apiVersionsV1.ApiVersionsResponseApi>;
}

interface Dialled {
  readonly connection: Connection;
  /** What it broke of. A request only hears that it was closed, not why. */
  heard: unknown;
}

interface KnownTopic {
  readonly layout: TopicLayout;
  readonly atMs: number;
}

export class KafkaCluster {
  readonly #options: ClusterOptions;
  readonly #brokers = new Map<string, Promise<Broker>>();
  readonly #connections = new Set<Connection>();
  readonly #nodes = new Map<number, BrokerAddress>();
  readonly #topics = new Map<string, KnownTopic>();
  readonly #asking = new Map<string, Promise<TopicLayout>>();
  #next = 0;
  #closed = false;

  constructor(options: ClusterOptions) {
    this.#options = options;
  }

  /** For the words of an error. */
  asked(more: Pick<Asked, 'address' | 'topic'> = {}): Asked {
    const { address, topic } = more;
    const named = topic === undefined || topic === this.#options.topic ? topic : madeName(topic);
    return { address, topic: named, tls: this.#options.tls !== undefined, sasl: this.#options.sasl !== undefined };
  }

  /** The partitions of a topic, as known or asked for. Rejects with coded errors: sink_place_missing, sink_denied, ... */
  topic(name: string, { create, fresh = false }: { create: boolean; fresh?: boolean }): Promise<TopicLayout> {
    const known = this.#topics.get(name);
    if (!fresh && known !== undefined && performance.now() - known.atMs < TOPIC_MAX_AGE_MS) {
      return Promise.resolve(known.layout);
    }
    let asking = this.#asking.get(name);
    if (asking === undefined) {
      asking = this.#ask(name, create).finally(() => this.#asking.delete(name));
      this.#asking.set(name, asking);
    }
    return asking;
  }

  /** The next time it is needed it is asked for. */
  forgetTopic(name: string): void {
    this.#topics.delete(name);
  }

  async #ask(name: string, create: boolean): Promise<TopicLayout> {
    const broker = await this.#any();
    const asked = this.asked({ topic: name });
    let answer: MetadataResponse;
    try {
      answer = await this.#metadata(broker, name, create);
    } catch (error) {
      throw verdictOf(error, asked).error;
    }
    for (const { nodeId, host, port } of answer.brokers) this.#nodes.set(nodeId, { host, port });
    const topic = answer.topics.find((one) => one.name === name);
    const wrong = topic === undefined ? 'UNKNOWN_TOPIC_OR_PARTITION' : nameOf(topic.errorCode);
    if (topic === undefined || wrong !== 'NONE') throw verdictOfName(wrong, asked).error;
    const leaders: number[] = new Array(topic.partitions.length).fill(-1);
    for (const { partitionIndex, leaderId } of topic.partitions) leaders[partitionIndex] = leaderId;
    if (leaders.length === 0) throw verdictOfName('LEADER_NOT_AVAILABLE', asked).error;
    const operations = topic.topicAuthorizedOperations;
    const writable =
      operations === undefined || operations === OPERATIONS_UNKNOWN ? null : (operations & WRITE_ALLOWED) !== 0;
    const layout: TopicLayout = { leaders, writable };
    this.#topics.delete(name);
    this.#topics.set(name, { layout, atMs: performance.now() });
    for (const oldest of this.#topics.keys()) {
      if (this.#topics.size <= TOPICS_MAX) break;
      this.#topics.delete(oldest);
    }
    return layout;
  }

  /** Errors of single topics and partitions are in the answer, not thrown. */
  async #metadata(broker: Broker, topic: string, create: boolean): Promise<MetadataResponse> {
    const { version, api } = newest(broker, METADATA, METADATA_FROM);
    return await new Promise<MetadataResponse>((resolve, reject) => {
      const writer = () => {
        // v8 to v10 have one more flag, of the cluster, which is left at false.
        const make = api.createRequest as (...given: unknown[]) => Writer;
        return make([topic], create, true, false);
      };
      const compact = version >= METADATA_COMPACT_FROM;
      const done = (error: unknown, answer?: MetadataResponse) => {
        const partly = (error as { response?: MetadataResponse } | null)?.response;
        if (error === null || error === undefined) resolve(answer as MetadataResponse);
        else if (Array.isArray(partly?.topics)) resolve(partly);
        else reject(error);
      };
      broker.connection.send(metadataV12.api.key, version, writer, api.parseResponse, compact, compact, done);
    });
  }

  /** Resolves when some broker has answered. */
  async connect(): Promise<void> {
    await this.#any();
  }

  /** The number of a producer that nobody else has. */
  async newProducer(): Promise<{ id: bigint; epoch: number }> {
    const broker = await this.#any();
    try {
      const { api } = newest(broker, INIT_PRODUCER, 0);
      const { producerId, producerEpoch } = await api.api.async(
        broker.connection,
        null,
        this.#options.timeoutMs,
        -1n,
        -1,
      );
      return { id: producerId, epoch: producerEpoch };
    } catch (error) {
      throw verdictOf(error, this.asked({ address: broker.address })).error;
    }
  }

  /** To the leader of the partition. The connection is there, or the error is one of ours. */
  async leader(node: number): Promise<Broker> {
    const address = this.#nodes.get(node);
    if (address === undefined) throw verdictOfName('LEADER_NOT_AVAILABLE', this.asked()).error;
    return await this.#broker(address);
  }

  /** Resolves when all replicas in sync have it. Rejects with an error for verdictOf. */
  async produce(broker: Broker, topic: string, partition: number, batch: Buffer): Promise<void> {
    const { version, api } = newest(broker, PRODUCE, PRODUCE_FROM);
    const compact = version >= PRODUCE_COMPACT_FROM;
    const request = () => {
      const writer = Writer.create()
        .appendString(null, compact)
        .appendInt16(ACKS_ALL)
        .appendInt32(this.#options.timeoutMs);
      const records = (to: Writer) => {
        to.appendInt32(partition);
        if (compact) to.appendUnsignedVarInt(batch.length + 1);
        else to.appendInt32(batch.length);
        to.append(batch);
      };
      const partitions = (to: Writer) =>
        to.appendString(topic, compact).appendArray([partition], records, compact, compact);
      writer.appendArray([topic], partitions, compact, compact);
      return compact ? writer.appendTaggedFields() : writer;
    };
    await new Promise<ProduceResponse>((resolve, reject) => {
      broker.connection.send<ProduceResponse>(
        produceV11.api.key,
        version,
        request,
        api.parseResponse,
        compact,
        compact,
        (error, answer) => (error === null || error === undefined ? resolve(answer as ProduceResponse) : reject(error)),
      );
    });
  }

  /** A broker that answers: one that is connected, or the first that can be. */
  async #any(): Promise<Broker> {
    const { bootstrap } = this.#options;
    const all = [...new Map([...this.#nodes.values(), ...bootstrap].map((one) => [addressOf(one), one])).values()];
    const connected = all.find((one) => this.#brokers.has(addressOf(one)));
    const start = this.#next++;
    const tries = all.map((_, index) => all[(start + index) % all.length] as BrokerAddress);
    let failure: unknown;
    for (const one of connected === undefined ? tries : [connected, ...tries]) {
      try {
        return await this.#broker(one);
      } catch (error) {
        failure = error;
        // The others would say the same.
        if (error instanceof MillraceError && error.retry !== 'backoff') break;
      }
    }
    throw failure;
  }

  #broker(address: BrokerAddress): Promise<Broker> {
    const key = addressOf(address);
    let broker = this.#brokers.get(key);
    if (broker === undefined) {
      broker = this.#connect(address, () => {
        if (this.#brokers.get(key) === broker) this.#brokers.delete(key);
      });
      this.#brokers.set(key, broker);
    }
    return broker;
  }

  async #connect(broker: BrokerAddress, ended: () => void): Promise<Broker> {
    const address = addressOf(broker);
    let dialled: Dialled | null = null;
    try {
      dialled = await this.#dial(broker);
      const { connection } = dialled;
      const { apiKeys } = await apiVersionsV1.api.async(connection, CLIENT_ID, '');
      const made: Broker = { address, connection, versions: new Map(apiKeys.map((api) => [api.apiKey, api])) };
      connection.once('close', () => {
        ended();
        this.#destroy(connection);
      });
      if (!connection.isConnected()) throw closedError();
      return made;
    } catch (error) {
      ended();
      if (dialled !== null) this.#destroy(dialled.connection);
      throw verdictOf(dialled?.heard ?? error, this.asked({ address })).error;
    }
  }

  /** One address of its name after the other: a broker may listen on some of them only. */
  async #dial({ host, port }: BrokerAddress): Promise<Dialled> {
    const { timeoutMs, tls, sasl } = this.#options;
    const addresses = await this.#resolve(host);
    let failure: unknown;
    for (const to of addresses) {
      if (this.#closed) throw closedError();
      const connection = new Connection(CLIENT_ID, {
        connectTimeout: Math.ceil(Math.min(timeoutMs, CONNECT_TIMEOUT_MAX_MS) / addresses.length),
        requestTimeout: timeoutMs,
        maxInflights: INFLIGHT_MAX,
        ...(tls === undefined ? {} : { tls, ...(isIP(host) === 0 ? { tlsServerName: host } : {}) }),
        ...(sasl === undefined ? {} : { sasl }),
      });
      this.#connections.add(connection);
      const dialled: Dialled = { connection, heard: undefined };
      connection.on('error', (error) => {
        dialled.heard = error;
      });
      try {
        await connection.connect(to, port);
        return dialled;
      } catch (error) {
        this.#destroy(connection);
        failure = dialled.heard ?? error;
        // The others would say the same.
        if (verdictOf(failure, this.asked()).error.retry !== 'backoff') break;
      }
    }
    throw failure;
  }

  /** The addresses to connect to: those that sinks may. */
  async #resolve(host: string): Promise<readonly string[]> {
    const { guard } = this.#options;
    const refused = guard.refusal(host);
    if (refused !== null) throw refused;
    if (isIP(host) !== 0) return [host];
    return await new Promise<readonly string[]>((resolve, reject) =>
      guard.lookup(host, { all: true }, (error, found: string | LookupAddress[]) =>
        error === null
          ? resolve(typeof found === 'string' ? [found] : found.map(({ address }) => address))
          : reject(error),
      ),
    );
  }

  /** At once: the library would first wait for what is written, which a peer that is gone never reads. */
  #destroy(connection: Connection): void {
    this.#connections.delete(connection);
    connection.close().catch(() => {});
    connection.socket?.destroy();
  }

  close(): void {
    this.#closed = true;
    for (const connection of this.#connections) this.#destroy(connection);
    this.#brokers.clear();
  }
}

function addressOf({ host, port }: BrokerAddress): string {
  return `${host}:${port}`;
}

function nameOf(code: number): string {
  return (protocolErrorsCodesById as Record<number, string>)[code] ?? 'UNKNOWN_SERVER_ERROR';
}

/** The newest version that both sides know. */
function newest<Api extends { readonly api: { readonly key: number } }>(
  broker: Broker,
  versions: readonly Api[],
  oldest: number,
): { version: number; api: Api } {
  const theirs = broker.versions.get(versions[0]!.api.key);
  const version = Math.min(oldest + versions.length - 1, theirs?.maxVersion ?? oldest);
  const api = versions[version - oldest];
  if (api === undefined || (theirs !== undefined && theirs.minVersion > version)) {
    throw verdictOfName('UNSUPPORTED_VERSION', { address: broker.address, tls: false, sasl: false }).error;
  }
  return { version, api };
}

function closedError(): MillraceError {
  return new MillraceError('sink_unavailable', { detail: 'The connection was closed.' });
}
