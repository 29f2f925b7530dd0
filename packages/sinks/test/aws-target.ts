/** Moto as the contract suite and the tests of the AWS kinds want it, and clients to look into it. */
import { KinesisClient } from '@aws-sdk/client-kinesis';
import { SNSClient } from '@aws-sdk/client-sns';
import { CreateQueueCommand, SQSClient } from '@aws-sdk/client-sqs';
import type { SinkKind } from '@millrace/sinks/sink-kind';
import { startProxy, type TcpProxy } from '@millrace/testkit/proxy';
import { type AwsKey, type AwsServer, BENCH_AGENT, startAws } from '@millrace/testkit/servers/aws';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import { expect } from 'vitest';
import { deliver, messageTo, openSink, refusalOf } from './broker-message.ts';
import { everythingIn } from './push-sink-messages.ts';
import type { Destination, PushSinkTarget, Received, Way } from './push-sink-subject.ts';

export const ACCOUNT = '123456789012';
export const REGION = 'us-east-1';
/** The pair of AWS's documentation. */
export const KEY = {
  access_key_id: 'AKIAIOSFODNN7EXAMPLE',
  secret_access_key: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY',
};

export interface AwsBench {
  readonly server: AwsServer;
  readonly proxy: TcpProxy;
  /** Past the proxy. */
  sqs(): SQSClient;
  sns(): SNSClient;
  kinesis(): KinesisClient;
  /** What the destination blocks have in common. */
  connection(way: Way): Destination;
  /** Everything is in memory: what is made again after a restart. */
  readonly places: Map<string, () => Promise<void>>;
  /** A new queue, which is there again after a restart. Returns its address. */
  queue(name: string): Promise<string>;
  /** What is in a queue. */
  queued(name: string): Promise<readonly Received[]>;
  readonly part: Pick<
    PushSinkTarget,
    | 'proxy'
    | 'freeze'
    | 'kill'
    | 'restart'
    | 'recoveryTimeoutMs'
    | 'secrets'
    | 'durable'
    | 'withWrongCredentials'
    | 'stop'
  >;
}

export async function startAwsBench(): Promise<AwsBench> {
  const server = await startAws();
  const proxy = await startProxy({ port: server.port });
  const places = new Map<string, () => Promise<void>>();
  const client = () => ({
    region: REGION,
    endpoint: server.url,
    credentials: { accessKeyId: KEY.access_key_id, secretAccessKey: KEY.secret_access_key },
    customUserAgent: BENCH_AGENT,
    requestHandler: new NodeHttpHandler({}),
  });
  const sqs = () => new SQSClient({ ...client(), useQueueUrlAsEndpoint: false });
  return {
    server,
    proxy,
    places,
    sqs,
    sns: () => new SNSClient(client()),
    kinesis: () => new KinesisClient(client()),
    connection: (way) => ({
      region: REGION,
      ...KEY,
      use_emulator: true,
      emulator_base_url: way === 'proxy' ? `http://127.0.0.1:${proxy.port}` : server.url,
    }),
    async queue(name) {
      const Attributes = name.endsWith('.fifo') ? { FifoQueue: 'true' } : {};
      const make = async () => void (await sqs().send(new CreateQueueCommand({ QueueName: name, Attributes })));
      await make();
      places.set(name, make);
      return `${server.url}/${ACCOUNT}/${name}`;
    },
    queued: async (name) => (await server.queued(name)).map(({ body }) => ({ body: Buffer.from(body) })),
    part: {
      proxy,
      // Keys are checked by tests of their own: whoever has users forgets them with a restart.
      withWrongCredentials: () => null,
      freeze: { suspend: server.suspend, resume: server.resume },
      kill: server.kill,
      async restart() {
        await server.restart(async () => {
          for (const make of places.values()) await make();
        });
      },
      secrets: [KEY.secret_access_key],
      // Python loads for seconds on a busy machine.
      recoveryTimeoutMs: 60_000,
      durable: false,
      async stop() {
        await proxy.close();
        await server.stop();
      },
    },
  };
}

/** The bench of a file: its tests and the contract suite share a server, which the first of them starts. */
export function awsBench() {
  let bench: Promise<AwsBench> | undefined;
  return {
    async started(): Promise<AwsBench> {
      const { part, ...rest } = await (bench ??= startAwsBench());
      // It is the file's to stop, not the suite's.
      return { ...rest, part: { ...part, stop: async () => {} } };
    },
    stop: async () => await (await bench)?.part.stop(),
  };
}

/** Where keys are checked: another key and another secret are denied, and nothing of them is told; the right key is served. */
export async function expectDenied(
  // biome-ignore lint/suspicious/noExplicitAny: each kind has its own configuration and routes.
  kind: SinkKind<any, any>,
  destination: Destination,
  { accessKeyId, secretAccessKey }: AwsKey,
): Promise<void> {
  const right = { ...destination, access_key_id: accessKeyId, secret_access_key: secretAccessKey };
  const wrongs = [destination, { ...right, secret_access_key: KEY.secret_access_key }];
  for (const wrong of wrongs) {
    const sink = await openSink(kind, wrong);
    const [error] = await deliver(sink, messageTo(kind, wrong));
    for (const one of [error, await refusalOf(sink)]) {
      expect(one).toMatchObject({ code: 'sink_denied', hint: expect.stringContaining('secret_access_key') });
      const all = everythingIn(one);
      expect(one?.detail).not.toMatch(/SyntaxError/);
      for (const secret of [KEY.secret_access_key, secretAccessKey]) expect(all.includes(secret)).toBe(false);
    }
  }
  const sink = await openSink(kind, right);
  await sink.test(new AbortController().signal);
  expect(await deliver(sink, messageTo(kind, right))).toEqual([null]);
}
