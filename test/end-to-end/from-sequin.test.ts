/** What docs/from-sequin.md says: its configuration, on the slot that Sequin had, goes on without a gap. */
import { once } from 'node:events';
import { readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { loadApplied } from '@millrace/api/applied/config-file';
import { startServer } from '@millrace/server/main';
import { createDatabase, testDirectory } from '@millrace/testkit/postgres';
import { expect, test } from 'vitest';
import { markdownFile, ROOT } from '../docs/markdown.ts';
import { eventually } from './millrace.ts';

const HERE = { allowPrivate: true, allow: [] };

test('the slot of Sequin is taken over where it stands, and the functions of the page decide what is delivered', async () => {
  const db = await createDatabase();
  const received: { path: string | undefined; authorization: string | undefined; body: unknown }[] = [];
  const service = createServer(async (request, response) => {
    const { url: path, headers } = request;
    received.push({ path, authorization: headers.authorization, body: JSON.parse(await text(request)) });
    response.end();
  }).listen(0, '127.0.0.1');
  await once(service, 'listening');
  const dataDir = testDirectory('from-sequin');
  // As Sequin left them.
  await db.sql('CREATE TABLE orders (id int PRIMARY KEY, status text, total numeric)');
  await db.sql('CREATE PUBLICATION sequin_pub FOR ALL TABLES WITH (publish_via_partition_root = true)');
  await db.sql("INSERT INTO orders VALUES (1, 'paid', 10)");
  await db.sql('SELECT pg_create_logical_replication_slot($1, $2)', [db.name, 'pgoutput']);
  // While nobody reads.
  await db.sql("SELECT pg_logical_emit_message(true, 'sequin.heartbeat.1', '{}')");
  await db.sql("INSERT INTO orders VALUES (2, 'open', 20), (3, 'paid', 30)");
  await db.sql("UPDATE orders SET status = 'paid' WHERE id = 2");

  const page = markdownFile('docs/from-sequin.md').blocks.find(({ info }) => info === 'yaml config')!.text;
  const { host, port, user, password, database } = db.config;
  const env = {
    ...{ PGHOST: host, PGPORT: String(port), PGUSER: user, PGPASSWORD: password, PGDATABASE: database },
    ...{ SEQUIN_SLOT: db.name, ORDERS_TOKEN: 't0ken' },
    ORDERS_URL: `http://127.0.0.1:${(service.address() as AddressInfo).port}/hooks`,
  };
  const server = await startServer({
    config: loadApplied(page, {
      file: 'sequin.yaml',
      env,
      readText: (path) => readFileSync(`${ROOT}/${path}`, 'utf8'),
    }),
    dataDir,
    host: '127.0.0.1',
    port: 0,
    log: () => {},
    network: { brokers: HERE, webhooks: HERE },
  });
  try {
    await eventually('what waited in the slot is delivered', () => received.length >= 2);
    await db.sql("INSERT INTO orders VALUES (4, 'paid', 40.50)");
    await eventually('and what comes after it', () => received.length >= 3);
    // Two rows are two groups: in any order.
    const bodies = received.map(({ body }) => body as { order: number });
    expect(bodies.sort((a, b) => a.order - b.order)).toEqual([
      { order: 2, total: '20', action: 'update' },
      { order: 3, total: '30', action: 'insert' },
      { order: 4, total: '40.50', action: 'insert' },
    ]);
    expect(new Set(received.map(({ path }) => path))).toEqual(new Set(['/hooks/paid']));
    expect(received[0]!.authorization).toBe('Bearer t0ken');
  } finally {
    await server.stop();
    service.close();
    service.closeAllConnections();
    rmSync(dataDir, { recursive: true, force: true });
    await db.drop();
  }
});
