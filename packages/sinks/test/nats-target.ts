/** A NATS server as the contract suite and the tests of the kind want it, and a client to look into it. */
import { startProxy, type TcpProxy } from '@millrace/testkit/proxy';
import { NATS_SECRETS, type NatsServer, startNats } from '@millrace/testkit/servers/nats';
import { type JetStreamManager, jetstreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import type { Destination, PushSinkTarget, Received, Way } from './push-sink-subject.ts';

export interface NatsBench {
  readonly server: NatsServer;
  readonly proxy: TcpProxy;
  /** Another one after a restart. */
  readonly connection: NatsConnection;
  readonly manager: JetStreamManager;
  restart(): Promise<void>;
  /** Makes a stream `place-<n>` that takes the subject `place-<n>.>`. */
  newPlace(config?: Record<string, unknown>): Promise<string>;
  destination(place: string, way: Way): Destination;
  received(place: string): Promise<readonly (Received & { readonly subject: string; header(name: string): string })[]>;
  target(): PushSinkTarget;
  stop(): Promise<void>;
}

export async function startNatsBench(): Promise<NatsBench> {
  const server = await startNats();
  const proxy = await startProxy({ port: server.port });
  const look = async () => {
    const made = await connect({
      servers: `127.0.0.1:${server.port}`,
      user: 'millrace',
      pass: NATS_SECRETS.millrace,
      reconnect: false,
    });
    return { made, manager: await jetstreamManager(made, { timeout: 20_000 }) };
  };
  let { made: connection, manager } = await look();
  let places = 0;

  const bench: NatsBench = {
    server,
    proxy,
    get connection() {
      return connection;
    },
    get manager() {
      return manager;
    },
    async restart() {
      await server.restart();
      await connection.close();
      ({ made: connection, manager } = await look());
    },
    async newPlace(config = {}) {
      const name = `place-${++places}`;
      await manager.streams.add({ name, subjects: [`${name}.>`], ...config });
      return name;
    },
    destination: (place, way) => ({
      type: 'nats',
      host: server.host,
      port: way === 'proxy' ? proxy.port : server.port,
      username: 'millrace',
      password: NATS_SECRETS.millrace,
      subject: `${place}.all`,
    }),
    async received(place) {
      const { state } = await manager.streams.info(place);
      const messages: Awaited<ReturnType<NatsBench['received']>>[number][] = [];
      if (state.messages === 0) return messages;
      for (let seq = state.first_seq; seq <= state.last_seq; seq++) {
        const message = await manager.streams.getMessage(place, { seq });
        if (message === null) continue;
        messages.push({
          body: Buffer.from(message.data),
          idempotencyKey: message.header?.get('Nats-Msg-Id'),
          subject: message.subject,
          header: (name: string) => message.header?.get(name) ?? '',
        });
      }
      return messages;
    },
    target: () => ({
      proxy,
      newPlace: () => bench.newPlace(),
      destination: bench.destination,
      withWrongCredentials: (destination) => ({ ...destination, password: 'not-the-secret' }),
      withWrongPlace: (destination) => ({ ...destination, subject: 'nowhere.all' }),
      routeTo: (place) => ({ subject: `${place}.routed` }),
      received: bench.received,
      freeze: { suspend: server.suspend, resume: server.resume },
      kill: server.kill,
      restart: bench.restart,
      secrets: Object.values(NATS_SECRETS),
      durable: true,
      dedupes: true,
      keepsHistory: true,
      takesText: true,
      stop: bench.stop,
    }),
    async stop() {
      await connection.close();
      await proxy.close();
      await server.stop();
    },
  };
  return bench;
}
