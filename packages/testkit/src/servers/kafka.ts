/**
 * Apache Kafka for tests: brokers in KRaft mode from their published jars, fetched once by Maven with the machine's own
 * settings. Beside them runs a process of Kafka's own Java clients, through which tests make topics, read what arrived
 * and compare partitions: nothing of the client under test.
 */
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { assert } from '@millrace/core/assert';
import { type ProcessHarness, processHarness } from '../process-harness.ts';
import { startProxy, type TcpProxy } from '../proxy.ts';
import { makeCertificates, signCertificate } from './certificates.ts';
import { cached, freePorts, missing, onPath, run } from './provision.ts';
import { resumeProcess, suspendProcess } from './suspend.ts';

const KAFKA = '4.1.0';
/** Kafka's jars bring no logger that writes; without one nobody knows when the broker has started. */
const LOG4J = '2.24.3';
const CLUSTER_ID = 'MillraceTestCluster-AA';
const JAVA_CLIENT = fileURLToPath(new URL('kafka-java-client.java', import.meta.url));
const START_TIMEOUT_MS = 60_000;
const START_ATTEMPTS = 3;
const PROXY_RETARGET_PORT = 1;
/** Short heap, quick start: a broker of a test lives for seconds. */
const JVM = ['-Xmx256m', '-Xss512k', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-Xshare:auto'];

export const KAFKA_SECRETS = { plain: 'plain-secret-8c1f', scram: 'scram-secret-77ab', limited: 'limited-secret-90de' };

/** A record as Kafka's Java consumer read it. */
export interface KafkaRecord {
  readonly partition: number;
  readonly offset: number;
  readonly timestampMs: number;
  readonly key: Buffer | null;
  readonly value: Buffer | null;
  readonly headers: ReadonlyMap<string, Buffer>;
}

/** Where each listener of the first broker is: `127.0.0.1:<port>`. */
export interface KafkaListeners {
  readonly plain: string;
  /** Behind the proxy, which is what the broker says its address is there. */
  readonly proxied: string;
  /** SASL (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512) without TLS. */
  readonly sasl: string;
  /** As `sasl`, behind the proxy. */
  readonly saslProxied: string;
  readonly tls: string;
  /** TLS that asks for a certificate of the client. */
  readonly mtls: string;
}

/** PEM texts. */
export interface KafkaCertificates {
  readonly ca: string;
  readonly clientCert: string;
  readonly clientKey: string;
  /** Of nobody that the broker is signed by. */
  readonly strangerCa: string;
}

export interface KafkaServer {
  readonly listeners: KafkaListeners;
  readonly certificates: KafkaCertificates;
  readonly proxy: TcpProxy;
  readonly saslProxy: TcpProxy;
  /** Of each broker, the first one first. */
  readonly processes: readonly ProcessHarness[];
  newTopic(options?: TopicOptions): Promise<string>;
  /** Everything in it. */
  records(topic: string): Promise<readonly KafkaRecord[]>;
  topics(): Promise<readonly string[]>;
  addPartitions(topic: string, count: number): Promise<void>;
  leaders(topic: string): Promise<readonly number[]>;
  /** Moves a partition to these brokers, the first of them its leader. */
  reassign(topic: string, partition: number, brokers: readonly number[]): Promise<void>;
  denyWrite(user: string, topic: string): Promise<void>;
  /** By Kafka's Java client: hash and partition of each key. */
  javaPartitions(keys: readonly Buffer[], partitions: number): Promise<readonly { hash: number; partition: number }[]>;
  /** Produces with Kafka's Java producer; the partition it chose for each key. */
  javaProduce(topic: string, keys: readonly Buffer[]): Promise<readonly number[]>;
  /** SIGKILL of the first broker. */
  kill(): Promise<void>;
  /** The same broker on the same ports. Resolves when it answers. */
  restart(): Promise<void>;
  suspend(): void;
  resume(): void;
  stop(): Promise<void>;
}

export interface TopicOptions {
  readonly partitions?: number;
  /** As `max.message.bytes`. */
  readonly config?: Readonly<Record<string, string>>;
  /** Of each partition the brokers, the leader first. Absent: all of them on the first broker. */
  readonly assignment?: readonly (readonly number[])[];
}

/** Why there is no Kafka for tests here, or null. */
export function kafkaMissing(): Promise<string | null> {
  return missing({ title: 'Apache Kafka', provide: provideKafka });
}

interface Provided {
  readonly java: string;
  readonly classpath: string;
  /** A data directory of node 1 that has been formatted, to be copied. */
  readonly template: string;
}

async function provideKafka(): Promise<Provided> {
  const java = onPath('java');
  if (java === null) throw new Error('there is no Java, which it runs on');
  const directory = await cached(`kafka-${KAFKA}`, async (into) => {
    if (onPath('mvn') === null) throw new Error('there is no Maven, which fetches it');
    writeFileSync(join(into, 'pom.xml'), pom());
    const jars = join(into, 'jars');
    await run(
      'mvn',
      ['-q', '-B', 'dependency:copy-dependencies', '-DincludeScope=runtime', `-DoutputDirectory=${jars}`],
      {
        cwd: into,
      },
    );
    await format(java, join(jars, '*'), into);
  });
  return { java, classpath: join(directory, 'jars', '*'), template: join(directory, 'formatted') };
}

function pom(): string {
  const dependency = (group: string, artifact: string, version: string) =>
    `<dependency><groupId>${group}</groupId><artifactId>${artifact}</artifactId><version>${version}</version></dependency>`;
  return `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>millrace.test</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
${dependency('org.apache.kafka', 'kafka_2.13', KAFKA)}
${dependency('org.apache.logging.log4j', 'log4j-slf4j-impl', LOG4J)}
</dependencies></project>\n`;
}

/** A second of Java that every start would cost, done once: the cluster's id, and the users of SCRAM. */
async function format(java: string, classpath: string, into: string): Promise<void> {
  const formatted = join(into, 'formatted');
  const properties = join(into, 'format.properties');
  writeFileSync(
    properties,
    [
      'process.roles=broker,controller',
      'node.id=1',
      'controller.quorum.voters=1@127.0.0.1:1',
      'listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1',
      'controller.listener.names=CONTROLLER',
      `log.dirs=${formatted}`,
    ].join('\n'),
  );
  const scram = (['SCRAM-SHA-256', 'SCRAM-SHA-512'] as const).flatMap((mechanism) => [
    '--add-scram',
    `${mechanism}=[name=scram-user,password=${KAFKA_SECRETS.scram}]`,
  ]);
  await run(java, [
    ...JVM,
    '-cp',
    classpath,
    'kafka.tools.StorageTool',
    'format',
    '-t',
    CLUSTER_ID,
    '-c',
    properties,
    ...scram,
  ]);
}

/** `brokers`: 1 (absent) or 2. The second one is there so that leaders can move. */
export async function startKafka({ brokers = 1 }: { brokers?: 1 | 2 } = {}): Promise<KafkaServer> {
  const provided = await provideKafka();
  const root = mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-kafka-`));
  const certificates = await makeIdentities(root);
  // Before the brokers, which have to say the proxies' addresses.
  const [proxy, saslProxy] = [
    await startProxy({ port: PROXY_RETARGET_PORT }),
    await startProxy({ port: PROXY_RETARGET_PORT }),
  ];
  try {
    for (let attempt = 1; ; attempt++) {
      try {
        return await startCluster({ provided, root, certificates, proxy, saslProxy, brokers });
      } catch (error) {
        // Most likely somebody else took a port that was free.
        if (attempt === START_ATTEMPTS) throw error;
      }
    }
  } catch (error) {
    await Promise.all([proxy.close(), saslProxy.close()]);
    rmSync(root, { recursive: true, force: true });
    throw error;
  }
}

interface ClusterParts {
  readonly provided: Provided;
  readonly root: string;
  readonly certificates: KafkaCertificates;
  readonly proxy: TcpProxy;
  readonly saslProxy: TcpProxy;
  readonly brokers: 1 | 2;
}

async function startCluster(parts: ClusterParts): Promise<KafkaServer> {
  const { provided, root, certificates, proxy, saslProxy } = parts;
  const [controller, plain, proxied, sasl, saslProxied, tls, mtls, ...more] = await freePorts(7 + parts.brokers - 1);
  const at = (port: number | undefined) => `127.0.0.1:${port}`;
  const shared = [
    `controller.quorum.voters=1@${at(controller)}`,
    'controller.listener.names=CONTROLLER',
    'inter.broker.listener.name=PLAIN',
    'listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,PROXIED:PLAINTEXT,SASL:SASL_PLAINTEXT,' +
      'SASLPROXIED:SASL_PLAINTEXT,TLS:SSL,MTLS:SSL',
    'offsets.topic.replication.factor=1',
    'offsets.topic.num.partitions=1',
    'transaction.state.log.replication.factor=1',
    'transaction.state.log.min.isr=1',
    'transaction.state.log.num.partitions=1',
    'group.initial.rebalance.delay.ms=0',
    'num.partitions=3',
    'num.network.threads=2',
    'num.io.threads=2',
    'background.threads=1',
    'log.cleaner.enable=false',
    // The index of each segment is mapped whole: 10 MiB of each partition by default.
    'log.index.size.max.bytes=65536',
    // A broker that was killed is taken back when its session is over.
    'broker.session.timeout.ms=1000',
    'broker.heartbeat.interval.ms=200',
    'authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer',
    'allow.everyone.if.no.acl.found=true',
    'super.users=User:ANONYMOUS',
  ];
  const first = [
    'process.roles=broker,controller',
    'node.id=1',
    `listeners=CONTROLLER://${at(controller)},PLAIN://${at(plain)},PROXIED://${at(proxied)},SASL://${at(sasl)},` +
      `SASLPROXIED://${at(saslProxied)},TLS://${at(tls)},MTLS://${at(mtls)}`,
    `advertised.listeners=PLAIN://${at(plain)},PROXIED://${at(proxy.port)},SASL://${at(sasl)},` +
      `SASLPROXIED://${at(saslProxy.port)},TLS://${at(tls)},MTLS://${at(mtls)}`,
    'sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512',
    ...['sasl', 'saslproxied'].flatMap(jaas),
    'ssl.keystore.type=PEM',
    `ssl.keystore.location=${join(root, 'identity.pem')}`,
    'ssl.truststore.type=PEM',
    `ssl.truststore.location=${join(root, 'ca.pem')}`,
    'listener.name.mtls.ssl.client.auth=required',
  ];
  const second = [
    'process.roles=broker',
    'node.id=2',
    `listeners=PLAIN://${at(more[0])}`,
    `advertised.listeners=PLAIN://${at(more[0])}`,
  ];
  const processes = [first, second]
    .slice(0, parts.brokers)
    .map((own, index) => brokerProcess(provided, join(root, `node-${index + 1}`), index + 1, [...shared, ...own]));
  const client = processHarness({
    command: provided.java,
    args: ['-Xmx512m', ...JVM.slice(1), '-cp', provided.classpath, JAVA_CLIENT, at(plain)],
  });
  const everything = [...processes, client];
  try {
    for (const each of everything) each.start();
    const started = processes.map((each) => each.waitForLine(STARTED, { timeoutMs: START_TIMEOUT_MS }));
    const listening = await client.waitForLine(/^listening on \d+/, { timeoutMs: START_TIMEOUT_MS });
    await Promise.all(started);
    proxy.retarget({ port: proxied as number });
    saslProxy.retarget({ port: saslProxied as number });
    const listeners: KafkaListeners = {
      plain: at(plain),
      proxied: at(proxy.port),
      sasl: at(sasl),
      saslProxied: at(saslProxy.port),
      tls: at(tls),
      mtls: at(mtls),
    };
    const ask = askAt(`http://127.0.0.1:${listening.replace(/^listening on /, '')}`);
    return cluster(parts, listeners, processes, client, ask, certificates);
  } catch (error) {
    const said = everything.map((each) => each.transcript()).join('\n');
    await Promise.all(everything.map((each) => each.kill('SIGKILL')));
    for (const node of ['node-1', 'node-2']) rmSync(join(root, node), { recursive: true, force: true });
    throw new Error(`Kafka does not start. It said:\n${said}`, { cause: error });
  }
}

const STARTED = /Kafka Server started/;

function jaas(listener: string): string[] {
  const plain = Object.entries({ 'plain-user': KAFKA_SECRETS.plain, limited: KAFKA_SECRETS.limited });
  const users = plain.map(([name, password]) => `user_${name}="${password}"`).join(' ');
  const scram = 'org.apache.kafka.common.security.scram.ScramLoginModule required;';
  return [
    `listener.name.${listener}.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required ${users};`,
    `listener.name.${listener}.scram-sha-256.sasl.jaas.config=${scram}`,
    `listener.name.${listener}.scram-sha-512.sasl.jaas.config=${scram}`,
  ];
}

function brokerProcess(provided: Provided, data: string, node: number, properties: string[]): ProcessHarness {
  rmSync(data, { recursive: true, force: true });
  cpSync(provided.template, data, { recursive: true });
  const meta = join(data, 'meta.properties');
  const text = readFileSync(meta, 'utf8').replace(/^node\.id=.*$/m, `node.id=${node}`);
  // Each directory of a cluster has an id of its own.
  writeFileSync(meta, node === 1 ? text : text.replace(/^directory\.id=.*\n/m, ''));
  const config = `${data}.properties`;
  writeFileSync(config, [...properties, `log.dirs=${data}`].join('\n'));
  const logging = `${data}-log4j2.properties`;
  writeFileSync(
    logging,
    [
      'status=off',
      'appender.out.type=Console',
      'appender.out.name=out',
      'appender.out.layout.type=PatternLayout',
      'appender.out.layout.pattern=%p %c{1}: %m%n%throwable{short.message}%n',
      'rootLogger.level=warn',
      'rootLogger.appenderRef.out.ref=out',
      'logger.started.name=kafka.server.KafkaRaftServer',
      'logger.started.level=info',
    ].join('\n'),
  );
  return processHarness({
    command: provided.java,
    args: [...JVM, `-Dlog4j2.configurationFile=${logging}`, '-cp', provided.classpath, 'kafka.Kafka', config],
    env: { KAFKA_OPTS: undefined },
  });
}

type Ask = (path: string, query: Record<string, string | number>, body?: string) => Promise<string>;

function askAt(url: string): Ask {
  return async (path, query, body = '') => {
    const search = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) search.set(name, String(value));
    const answer = await fetch(`${url}${path}?${search}`, { method: 'POST', body });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`Kafka's Java client: ${text}`);
    return text;
  };
}

function cluster(
  { root, proxy, saslProxy }: ClusterParts,
  listeners: KafkaListeners,
  processes: readonly ProcessHarness[],
  client: ProcessHarness,
  ask: Ask,
  certificates: KafkaCertificates,
): KafkaServer {
  const broker = processes[0];
  assert(broker !== undefined, 'a cluster has a broker');
  let topics = 0;
  const lines = (text: string) => text.split('\n').filter((line) => line !== '');
  // A sign before each, so that the empty key is a line, too.
  const encoded = (keys: readonly Buffer[]) => keys.map((key) => `=${key.toString('base64')}`).join('\n');
  return {
    listeners,
    certificates,
    proxy,
    saslProxy,
    processes,
    async newTopic({ partitions = 3, config = {}, assignment } = {}) {
      const name = `topic-${++topics}`;
      const settings = Object.entries(config).map(([key, value]) => `${key}=${value}`);
      // The second broker has the first listener only.
      const alone = processes.length === 1 ? undefined : Array.from({ length: partitions }, () => [1]);
      const where = (assignment ?? alone)?.map((nodes, partition) => `${partition}:${nodes.join(',')}`).join(';');
      await ask(
        '/topic',
        { name, partitions, ...(where === undefined ? {} : { assignment: where }) },
        settings.join('\n'),
      );
      return name;
    },
    async records(topic) {
      return lines(await ask('/consume', { topic })).map(recordOf);
    },
    topics: async () => lines(await ask('/topics', {})),
    async addPartitions(name, count) {
      await ask('/partitions', { name, count });
    },
    leaders: async (name) => lines(await ask('/describe', { name })).map((line) => Number(line.split(' ')[1])),
    async reassign(name, partition, nodes) {
      await ask('/reassign', { name, partition, brokers: nodes.join(',') });
    },
    async denyWrite(user, topic) {
      await ask('/deny', { user, topic });
    },
    async javaPartitions(keys, partitions) {
      return lines(await ask('/murmur2', { partitions }, encoded(keys))).map((line) => {
        const [hash, partition] = line.split(' ').map(Number);
        return { hash: hash as number, partition: partition as number };
      });
    },
    javaProduce: async (topic, keys) => lines(await ask('/produce', { topic }, encoded(keys))).map(Number),
    async kill() {
      await broker.kill('SIGKILL');
    },
    async restart() {
      broker.start();
      await broker.waitForLine(STARTED, { timeoutMs: START_TIMEOUT_MS });
    },
    suspend: () => suspendProcess(broker.pid),
    resume: () => resumeProcess(broker.pid),
    async stop() {
      await Promise.all([client, ...processes].map((each) => each.kill('SIGKILL')));
      await Promise.all([proxy.close(), saslProxy.close()]);
      // A process that was killed may still be giving its files back.
      for (let tries = 0; existsSync(root) && tries < 50; tries++) {
        rmSync(root, { recursive: true, force: true, maxRetries: 5 });
        if (existsSync(root)) await delay(20);
      }
    },
  };
}

function recordOf(line: string): KafkaRecord {
  const [partition, offset, timestampMs, key, value, ...headers] = line.split(' ');
  const bytes = (text: string | undefined) =>
    text === undefined || text === '-' ? null : Buffer.from(text.slice(1), 'base64');
  const named = new Map<string, Buffer>();
  for (let at = 0; at < headers.length; at += 2) {
    named.set(String(bytes(headers[at])), bytes(headers[at + 1]) ?? Buffer.alloc(0));
  }
  return {
    partition: Number(partition),
    offset: Number(offset),
    timestampMs: Number(timestampMs),
    key: bytes(key),
    value: bytes(value),
    headers: named,
  };
}

/** Certificates of the brokers, in the one file that they read, and of a client. */
async function makeIdentities(root: string): Promise<KafkaCertificates> {
  const { ca, strangerCa, certificateFile, keyFile } = await makeCertificates(root);
  const client = await signCertificate(root, 'client');
  const text = (file: string) => readFileSync(file, 'utf8');
  writeFileSync(join(root, 'identity.pem'), text(keyFile) + text(certificateFile) + ca);
  return { ca, strangerCa, clientCert: text(client.certificateFile), clientKey: text(client.keyFile) };
}
