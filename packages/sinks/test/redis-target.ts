/** A Redis server as the contract suite and the tests of the Redis kinds want it, and a client to look into it. */
import { startProxy, type TcpProxy } from '@millrace/testkit/proxy';
import { REDIS_SECRETS, type RedisServer, startRedis } from '@millrace/testkit/servers/redis';
import { Redis } from 'ioredis';
import type { Destination, PushSinkTarget, Way } from './push-sink-subject.ts';

export type RedisPart = Pick<
  PushSinkTarget,
  'proxy' | 'newPlace' | 'freeze' | 'kill' | 'restart' | 'secrets' | 'durable' | 'withWrongCredentials' | 'stop'
>;

export interface RedisBench {
  readonly server: RedisServer;
  readonly proxy: TcpProxy;
  /** Connected past the proxy; connects again after the server was away. */
  readonly client: Redis;
  /** What the destination blocks of both kinds have in common. */
  connection(way: Way): Destination;
  readonly part: RedisPart;
}

export async function startRedisBench(settings: readonly string[] = []): Promise<RedisBench> {
  const server = await startRedis(settings);
  const proxy = await startProxy({ port: server.port });
  const client = new Redis({ host: server.host, port: server.port, password: REDIS_SECRETS.default });
  client.on('error', () => {});
  let places = 0;
  return {
    server,
    proxy,
    client,
    connection: (way) => ({
      host: server.host,
      port: way === 'proxy' ? proxy.port : server.port,
      password: REDIS_SECRETS.default,
    }),
    part: {
      proxy,
      newPlace: async () => `place-${++places}`,
      withWrongCredentials: (destination) => ({ ...destination, password: 'not-the-secret' }),
      freeze: { suspend: server.suspend, resume: server.resume },
      kill: server.kill,
      restart: server.restart,
      secrets: Object.values(REDIS_SECRETS),
      durable: true,
      async stop() {
        client.disconnect();
        await proxy.close();
        await server.stop();
      },
    },
  };
}
