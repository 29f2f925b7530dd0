/** The shop's web server: a page, the products as they are, and every change of them as it happens. */
import { readFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Redis } from 'ioredis';
import type pg from 'pg';
import { cacheKey } from '../consumers/stock-cache.ts';
import { followStream, type Store } from '../follow-stream.ts';
import type { Product, ShopMessage } from '../shop-message.ts';

const PAGE = readFileSync(new URL('./index.html', import.meta.url));
/** The streams that tell of products. */
const SHOWN = ['inventory_updates', 'price_alerts', 'category_updates'];

export interface Storefront {
  readonly url: string;
  close(): Promise<void>;
}

/** `redis` is null where there is none: every visit then asks Postgres. */
export async function openStorefront(
  store: Store,
  database: pg.Pool,
  redis: Redis | null,
  port: number,
): Promise<Storefront> {
  const visitors = new Set<ServerResponse>();
  const stopping = new AbortController();
  // One reader for all visitors; each gets what comes while he is there.
  const following = SHOWN.map((name) =>
    followStream<Product>(store, name, 'end', (message) => tell(visitors, message), stopping.signal),
  );
  const server = createServer((request, response) => {
    if (request.url === '/events') {
      response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
      response.write(': welcome\n\n');
      visitors.add(response);
      response.once('close', () => visitors.delete(response));
    } else if (request.url === '/products') {
      readProducts(database, redis).then(
        (products) => response.setHeader('content-type', 'application/json').end(JSON.stringify(products)),
        () => response.writeHead(503).end(),
      );
    } else if (request.url === '/') response.setHeader('content-type', 'text/html; charset=utf-8').end(PAGE);
    else response.writeHead(404).end();
  });
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async close() {
      stopping.abort();
      for (const visitor of visitors) visitor.end();
      await new Promise((resolve) => server.close(resolve));
      await Promise.allSettled(following);
    },
  };
}

function tell(visitors: ReadonlySet<ServerResponse>, { action, record, changes }: ShopMessage<Product>): void {
  const data = JSON.stringify({ action, product: record, changes });
  for (const visitor of visitors) visitor.write(`data: ${data}\n\n`);
}

async function readProducts(database: pg.Pool, redis: Redis | null): Promise<unknown[]> {
  const { rows } = await database.query<Product>(
    `SELECT id, name, category, price::text, stock, to_json(updated_at) AS updated_at FROM products ORDER BY id`,
  );
  await Promise.all(rows.map(({ id, name, price, stock }) => redis?.hset(cacheKey(id), { name, price, stock })));
  return rows;
}
