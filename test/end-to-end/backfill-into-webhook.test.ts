/** A backfill into a destination that takes messages one by one is complete when the last of its rows has arrived. */
import { rmSync } from 'node:fs';
import { createServer, type Server as HttpEndpoint } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Server } from '@millrace/server/main';
import { createDatabase, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { ALL_ADDRESSES, startHookServer } from './hook-server.ts';

const WAIT = { timeout: 30_000, interval: 20 };
let db: TestDatabase;
let endpoint: HttpEndpoint;
let server: Server;
const dataDir = testDirectory('webhook-backfill');
const seen: string[] = [];
let refusesRow7 = true;

beforeAll(async () => {
  endpoint = createServer(async (request, response) => {
    let body = '';
    for await (const part of request) body += part;
    const { record, action } = JSON.parse(body) as { record: { id: number }; action: string };
    const refused = refusesRow7 && record.id === 7;
    if (!refused) seen.push(`${action} ${record.id}`);
    response.writeHead(refused ? 422 : 200).end();
  });
  await new Promise<void>((resolve) => endpoint.listen(0, '127.0.0.1', resolve));
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 50)');
  server = await startHookServer(db, {
    dataDir,
    endpoint: { url: `http://127.0.0.1:${(endpoint.address() as AddressInfo).port}` },
    sinks: [{ name: 'hook', initial_backfill: true, destination: { batch: false }, retry: { min_ms: 50, max_ms: 50 } }],
    network: ALL_ADDRESSES,
  });
}, 60_000);

afterAll(async () => {
  await server.stop();
  endpoint.closeAllConnections();
  endpoint.close();
  await db.drop();
  rmSync(dataDir, { recursive: true, force: true });
});

test('a row that is refused holds up neither the others nor the changes, but the end of the backfill', async () => {
  await vi.waitFor(() => expect(seen.length).toBe(49), WAIT);
  await db.sql('INSERT INTO t VALUES (100)');
  await vi.waitFor(() => expect(seen).toContain('insert 100'), WAIT);
  const backfill = () => server.pipelines[0]!.backfills.get('hook')!.list()[0]!;
  expect(backfill()).toMatchObject({ state: 'active', rowsIngested: 50 });
  refusesRow7 = false;
  await vi.waitFor(() => expect(backfill().state).toBe('completed'), WAIT);
  expect(seen.filter((one) => one.startsWith('read')).length).toBe(50);
  expect(new Set(seen).size).toBe(51);
}, 60_000);
