import { type AddressInfo, createServer } from 'node:net';
import { networkGuard } from '@millrace/sinks/http/network-guard';
import { expect, onTestFinished, test } from 'vitest';
import { KafkaCluster } from './kafka-cluster.ts';
import { verdictOfName } from './kafka-verdict.ts';

/** One that nobody gets past, and how many came. */
async function listener() {
  const seen = { port: 0, connections: 0 };
  const server = createServer((socket) => {
    seen.connections++;
    socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  seen.port = (server.address() as AddressInfo).port;
  return seen;
}

function clusterAt(port: number, addresses: readonly string[], allowPrivate = true) {
  const guard = networkGuard({
    policy: { allowPrivate, allow: allowPrivate ? [] : ['127.0.0.2'] },
    resolve: async () => addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 })),
  });
  const bootstrap = [{ host: 'kafka.example', port }];
  const cluster = new KafkaCluster({ bootstrap, tls: undefined, sasl: undefined, timeoutMs: 5_000, guard });
  onTestFinished(() => cluster.close());
  return cluster;
}

test('a broker that listens on one address of its name only is found there', async () => {
  const broker = await listener();
  const cluster = clusterAt(broker.port, ['::1', '127.0.0.2', '127.0.0.1']);
  await expect(cluster.connect()).rejects.toMatchObject({ code: 'sink_unavailable' });
  expect(broker.connections).toBe(1);
});

test('an address that sinks may not connect to is left out, whatever the others say', async () => {
  const broker = await listener();
  const cluster = clusterAt(broker.port, ['127.0.0.2', '127.0.0.1'], false);
  await expect(cluster.connect()).rejects.toMatchObject({ detail: expect.stringContaining('ECONNREFUSED') });
  expect(broker.connections).toBe(0);
});

test('a topic that a routing function named is in no text for logs, the configured one is', () => {
  const guard = networkGuard({ policy: { allowPrivate: true, allow: [] } });
  const options = { bootstrap: [], tls: undefined, sasl: undefined, timeoutMs: 5_000, guard, topic: 'orders' };
  const cluster = new KafkaCluster(options);
  const error = (topic: string) => verdictOfName('UNKNOWN_TOPIC_OR_PARTITION', cluster.asked({ topic })).error;
  expect(error('orders').logText).toContain('for topic orders,');
  expect(error('orders-Ada').message).toContain('for topic orders-Ada,');
  expect(error('orders-Ada').logText).toContain('for topic …,');
});
