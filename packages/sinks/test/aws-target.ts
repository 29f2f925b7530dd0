/** Moto as the contract suite and the tests of the AWS kinds want it, and clients to look into it. */
import { KinesisClient } from '@aws-sdk/client-kinesis';
import { SNSClient } from '@aws-sdk/client-sns';
import { SQSClient } from '@aws-sdk/client-sqs';
import { startProxy, type TcpProxy } from '@millrace/testkit/proxy';
import { type AwsServer, startAws } from '@millrace/testkit/servers/aws';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import type { Destination, PushSinkTarget, Way } from './push-sink-subject.ts';

export const ACCOUNT = '123456789012';
export const REGION = 'us-east-1';

export interface AwsBench {
  readonly server: AwsServer;
  readonly proxy: TcpProxy;
  /** Past the proxy, with the key of now. */
  sqs(): SQSClient;
  sns(): SNSClient;
  kinesis(): KinesisClient;
  /** What the destination blocks have in common. */
  connection(way: Way): Destination;
  /** Everything is in memory: what is made again after a restart. */
  readonly places: Map<string, () => Promise<void>>;
  readonly part: Pick<
    PushSinkTarget,
    'proxy' | 'freeze' | 'kill' | 'restart' | 'secrets' | 'durable' | 'withWrongCredentials' | 'stop'
  >;
}

export async function startAwsBench(): Promise<AwsBench> {
  const server = await startAws();
  const proxy = await startProxy({ port: server.port });
  const places = new Map<string, () => Promise<void>>();
  const secrets = [server.key.secretAccessKey];
  // The same key before and after a restart: sinks that are open keep theirs.
  const { accessKeyId, secretAccessKey } = server.key;
  const client = () => ({
    region: REGION,
    endpoint: server.url,
    credentials: { ...server.key },
    requestHandler: new NodeHttpHandler({}),
  });
  return {
    server,
    proxy,
    places,
    sqs: () => new SQSClient({ ...client(), useQueueUrlAsEndpoint: false }),
    sns: () => new SNSClient(client()),
    kinesis: () => new KinesisClient(client()),
    connection: (way) => ({
      region: REGION,
      access_key_id: accessKeyId,
      secret_access_key: secretAccessKey,
      use_emulator: true,
      emulator_base_url: way === 'proxy' ? `http://127.0.0.1:${proxy.port}` : server.url,
    }),
    part: {
      proxy,
      withWrongCredentials: (destination) => ({ ...destination, access_key_id: 'AKIAIOSFODNN7EXAMPLE' }),
      freeze: { suspend: server.suspend, resume: server.resume },
      kill: server.kill,
      async restart() {
        await server.restart();
        for (const make of places.values()) await make();
      },
      secrets,
      durable: false,
      async stop() {
        await proxy.close();
        await server.stop();
      },
    },
  };
}
