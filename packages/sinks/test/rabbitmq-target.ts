/** A RabbitMQ node as the contract suite and the tests of the kind want it, and a client to look into it. */
import { startProxy, type TcpProxy } from '@millrace/testkit/proxy';
import { RABBITMQ_SECRETS, type RabbitmqServer, startRabbitmq } from '@millrace/testkit/servers/rabbitmq';
import { Connection, type SyncMessage } from 'rabbitmq-client';
import type { Destination, PushSinkTarget, Received, Way } from './push-sink-subject.ts';

export interface RabbitmqBench {
  readonly server: RabbitmqServer;
  readonly proxy: TcpProxy;
  readonly client: Connection;
  /** Makes a topic exchange and a durable queue of the same name that takes everything of it. */
  newPlace(queueArguments?: Record<string, unknown>): Promise<string>;
  destination(place: string, way: Way): Destination;
  /** What is in the queue; it stays there. */
  messages(place: string): Promise<readonly SyncMessage[]>;
  target(): PushSinkTarget;
  stop(): Promise<void>;
}

export async function startRabbitmqBench(): Promise<RabbitmqBench> {
  const server = await startRabbitmq();
  const proxy = await startProxy({ port: server.port });
  const client = new Connection({
    hostname: server.host,
    port: server.port,
    username: 'millrace',
    password: RABBITMQ_SECRETS.millrace,
    retryLow: 50,
    retryHigh: 200,
  });
  client.on('error', () => {});
  let places = 0;

  const bench: RabbitmqBench = {
    server,
    proxy,
    client,
    async newPlace(queueArguments = {}) {
      const place = `place-${++places}`;
      await client.exchangeDeclare({ exchange: place, type: 'topic', durable: true });
      await client.queueDeclare({ queue: place, durable: true, arguments: queueArguments });
      await client.queueBind({ queue: place, exchange: place, routingKey: '#' });
      return place;
    },
    destination: (place, way) => ({
      type: 'rabbitmq',
      host: server.host,
      port: way === 'proxy' ? proxy.port : server.port,
      username: 'millrace',
      password: RABBITMQ_SECRETS.millrace,
      exchange: place,
    }),
    async messages(place) {
      const channel = await client.acquire();
      try {
        // Looked at and put back, in their places: the queue gives unacknowledged messages back in order.
        const found: SyncMessage[] = [];
        for (;;) {
          const message = await channel.basicGet({ queue: place, noAck: false });
          if (message === undefined) return found;
          found.push(message);
        }
      } finally {
        await channel.close();
      }
    },
    target: () => ({
      proxy,
      newPlace: () => bench.newPlace(),
      destination: bench.destination,
      withWrongCredentials: (destination) => ({ ...destination, password: 'not-the-secret' }),
      withWrongPlace: (destination) => ({ ...destination, exchange: 'nowhere' }),
      routeTo: (place) => ({ exchange: place }),
      async received(place): Promise<readonly Received[]> {
        const messages = await bench.messages(place);
        return messages.map(({ body, messageId }) => ({ body: bytesOf(body), idempotencyKey: messageId }));
      },
      freeze: { suspend: server.suspend, resume: server.resume },
      kill: server.kill,
      restart: server.restart,
      secrets: Object.values(RABBITMQ_SECRETS),
      durable: true,
      // An Erlang machine takes its time.
      recoveryTimeoutMs: 60_000,
      dedupes: false,
      keepsHistory: true,
      takesText: true,
      stop: bench.stop,
    }),
    async stop() {
      client.unsafeDestroy();
      await proxy.close();
      await server.stop();
    },
  };
  return bench;
}

/** The client makes of a body what its content type says. The suite's own texts survive that as they are. */
function bytesOf(body: unknown): Buffer {
  if (Buffer.isBuffer(body)) return body;
  return Buffer.from(typeof body === 'string' ? body : JSON.stringify(body));
}
