/** What the consumers did in the day, against what they should have done by Postgres' account. */
import type { Redis } from 'ioredis';
import type pg from 'pg';
import { cacheKey } from './consumers/stock-cache.ts';

const POLL_MS = 50;

/** In the order in which it happened. */
export interface Told {
  readonly alerts: string[];
  /** Names of products. */
  readonly revalidated: string[];
  readonly margins: string[];
}

export async function checkConsumers(
  told: Told,
  database: pg.Pool,
  redis: Redis | null,
  timeoutMs: number,
  say: (line: string) => void,
): Promise<boolean> {
  const rows = async (text: string) => (await database.query<{ value: string }>(text)).rows.map(({ value }) => value);
  const alerts = await rows(
    `SELECT (row ->> 'name') || ' are now $' || (row ->> 'price') || '!' AS value FROM audit.expected WHERE stream = 'price_alerts' ORDER BY id`,
  );
  const emptied = await rows(
    `SELECT old ->> 'name' AS value FROM audit.changes WHERE table_name = 'products'
       AND (action = 'delete' OR (old ->> 'stock')::int > 0 AND (new ->> 'stock')::int = 0) ORDER BY id`,
  );
  const margins = `SELECT name AS value FROM products p WHERE margin IS DISTINCT FROM (price - cost) / price
    AND EXISTS (SELECT FROM audit.expected e WHERE e.stream = 'price_alerts' AND (e.row ->> 'id')::int = p.id)
    AND round((price - cost) / price, 2) IS DISTINCT FROM margin`;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const wrongMargins = await rows(margins);
    const stale = redis === null ? [] : await staleKeys(database, redis);
    const good =
      same(told.alerts, alerts) &&
      told.margins.length === alerts.length &&
      wrongMargins.length === 0 &&
      (redis === null || (same(told.revalidated, emptied) && stale.length === 0));
    if (good || performance.now() > deadline) {
      say(`alerts sent            ${told.alerts.length} of ${alerts.length}`);
      say(
        `margins adjusted       ${told.margins.length} of ${alerts.length}${wrongMargins.length > 0 ? `, wrong: ${wrongMargins}` : ''}`,
      );
      if (redis !== null)
        say(
          `cache thrown out       ${told.revalidated.length} of ${emptied.length}${stale.length > 0 ? `, stale: ${stale}` : ''}`,
        );
      return good;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** Products of which the cache says another stock or price than the table, or that are not sold any more. */
async function staleKeys(database: pg.Pool, redis: Redis): Promise<string[]> {
  const { rows } = await database.query<{ id: number; price: string; stock: number }>(
    'SELECT id, price::text, stock FROM products',
  );
  const stale: string[] = [];
  for (const key of await redis.keys(cacheKey('*' as never))) {
    const cached = await redis.hgetall(key);
    const row = rows.find(({ id }) => cacheKey(id) === key);
    if (row === undefined || Number(cached['stock']) !== row.stock) stale.push(key);
  }
  return stale;
}

function same(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((text, i) => text === b[i]);
}
