/** Twenty sinks on one log in one process; half of them stall, crash, refuse or are slow. The others do not notice. */
import { rmSync } from 'node:fs';
import { createServer, type Server as HttpEndpoint } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Server } from '@millrace/server/main';
import { createDatabase, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { ALL_ADDRESSES, startHookServer } from './hook-server.ts';

const WAIT = { timeout: 60_000, interval: 50 };
const ROWS = 150;
const KEYS = 30;
const WINDOW = 100;
const GOOD = Array.from({ length: 10 }, (_, i) => `good-${i}`);
const BAD = ['stall-0', 'stall-1', 'stall-2', 'crash-0', 'crash-1', 'crash-2', 'busy-0', 'busy-1', 'slow-0', 'slow-1'];

let db: TestDatabase;
let endpoint: HttpEndpoint;
let server: Server;
const dataDir = testDirectory('isolation');
/** By sink, in the order of arrival. */
const seen = new Map<string, { k: number; v: number }[]>();

beforeAll(async () => {
  endpoint = createServer(async (request, response) => {
    let body = '';
    for await (const part of request) body += part;
    const sink = request.url!.slice(1);
    const take = () => {
      const { record } = JSON.parse(body) as { record: { k: number; v: number } };
      seen.set(sink, [...(seen.get(sink) ?? []), record]);
      response.end();
    };
    if (sink.startsWith('good')) take();
    else if (sink.startsWith('crash')) request.socket.destroy();
    else if (sink.startsWith('busy')) response.writeHead(503).end();
    else if (sink.startsWith('slow')) setTimeout(take, 500);
    // A stall: no answer, ever.
  });
  await new Promise<void>((resolve) => endpoint.listen(0, '127.0.0.1', resolve));
  db = await createDatabase();
  await db.sql('CREATE TABLE t (k int PRIMARY KEY, v int)');
  server = await startHookServer(db, {
    dataDir,
    endpoint: { url: `http://127.0.0.1:${(endpoint.address() as AddressInfo).port}` },
    sinks: [...GOOD, ...BAD].map((name) => ({
      name,
      destination: { http_endpoint_path: `/${name}`, batch: false },
      max_ack_pending: WINDOW,
      retry: { min_ms: 20, max_ms: 200 },
    })),
    network: ALL_ADDRESSES,
  });
}, 60_000);

afterAll(async () => {
  endpoint.closeAllConnections();
  await server.stop();
  endpoint.close();
  await db.drop();
  rmSync(dataDir, { recursive: true, force: true });
});

test('the good ones get everything once and in order, the slot moves on, and the bad ones hold no more than their window', async () => {
  for (let v = 0; v < ROWS / KEYS; v++) {
    const rows = Array.from({ length: KEYS }, (_, k) => `(${k}, ${v})`).join(', ');
    await db.sql(`INSERT INTO t VALUES ${rows} ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v`);
  }
  await vi.waitFor(() => expect(GOOD.map((sink) => seen.get(sink)?.length)).toEqual(GOOD.map(() => ROWS)), WAIT);
  for (const sink of GOOD) {
    const next = new Map<number, number>();
    for (const { k, v } of seen.get(sink)!) {
      expect(v).toBe(next.get(k) ?? 0);
      next.set(k, v + 1);
    }
  }
  const [pipeline] = server.pipelines;
  const figures = new Map(pipeline!.deliveries.map(({ name, control }) => [name, control!.push!.figures] as const));
  for (const sink of BAD) {
    expect(figures.get(sink)!.pending).toBeGreaterThan(0);
    expect(figures.get(sink)!.pending).toBeLessThanOrEqual(WINDOW);
  }
  // Postgres has been told of all of it, whatever the sinks do with it.
  await vi.waitFor(async () => {
    const [row] = (await db.sql(
      `SELECT confirmed_flush_lsn >= '${lsn(pipeline!.log.durableLsn)}' AS told FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
    )) as unknown as { told: unknown }[];
    expect(String(row!.told)).toMatch(/^t/);
  }, WAIT);
}, 90_000);

function lsn(value: bigint): string {
  return `${(value >> 32n).toString(16)}/${(value & 0xffff_ffffn).toString(16)}`;
}
