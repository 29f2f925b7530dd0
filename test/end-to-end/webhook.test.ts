/** A webhook from end to end: refused where its address is private, until the process is told otherwise; then in order. */
import { rmSync } from 'node:fs';
import type { Server, ServerOptions } from '@millrace/server/main';
import { createDatabase, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { Webhook } from 'standardwebhooks';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startEndpoint, type WebhookEndpoint } from '../../packages/sinks/test/webhook-endpoint.ts';
import { startHookServer } from './hook-server.ts';
import { eventually, type Message } from './millrace.ts';

const SECRET = `whsec_${Buffer.from('a secret of the end-to-end test').toString('base64')}`;

let db: TestDatabase;
let endpoint: WebhookEndpoint;
let server: Server;
let dataDir: string;

beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE products (id int PRIMARY KEY, price int)');
  endpoint = await startEndpoint();
  dataDir = testDirectory('webhook');
});

afterEach(async () => {
  await server?.stop();
  await endpoint.close();
  await db.drop();
  rmSync(dataDir, { recursive: true, force: true });
});

async function start(network?: ServerOptions['network']): Promise<void> {
  server = await startHookServer(db, {
    dataDir,
    endpoint: { url: endpoint.url, encrypted_headers: { authorization: 'Bearer x' } },
    sinks: [{ name: 'hook', batch_size: 10, destination: { http_endpoint_path: '/p', signing: { secret: SECRET } } }],
    network,
  });
}

test('a webhook to a private address is refused and says how to allow it, and loses nothing until it is', async () => {
  await start();
  for (let n = 0; n < 20; n++) await db.sql(`INSERT INTO products VALUES (${n}, 0)`);
  const state = () => server.pipelines[0]?.deliveries[0]?.state;
  await eventually('it is refused', () => state()?.kind === 'retrying');
  expect(state()).toMatchObject({
    error: { code: 'sink_address_refused', hint: expect.stringContaining('--sinks-allow 127.0.0.1') },
  });
  expect(endpoint.connections).toBe(0);
  await server.stop();

  await start({ brokers: { allowPrivate: true, allow: [] }, webhooks: { allowPrivate: false, allow: ['127.0.0.1'] } });
  for (let price = 1; price <= 3; price++) await db.sql(`UPDATE products SET price = ${price}`);
  const messages = () => endpoint.seen.flatMap(({ text }) => (JSON.parse(text) as { data: Message[] }).data);
  await eventually('all has arrived', () => messages().length >= 80);
  for (let id = 0; id < 20; id++) {
    const prices = messages().filter(({ record }) => record['id'] === id);
    expect(prices.map(({ record }) => record['price'])).toEqual([0, 1, 2, 3]);
  }
  for (const { url, headers, text } of endpoint.seen) {
    expect([url, headers.authorization]).toEqual(['/p', 'Bearer x']);
    expect(new Webhook(SECRET).verify(text, headers as Record<string, string>)).toEqual(JSON.parse(text));
  }
  expect(endpoint.seen.length).toBeLessThan(80);
});
