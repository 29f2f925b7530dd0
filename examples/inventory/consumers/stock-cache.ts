/**
 * The storefront's cache in Redis, one hash per product. A product that goes out of stock must not be sold from the cache:
 * what is cached of it is thrown away, and read from Postgres when the next visitor asks.
 */
import type { Redis } from 'ioredis';
import { followStream, type Store } from '../follow-stream.ts';
import type { Product } from '../shop-message.ts';

export const cacheKey = (id: number) => `shop:product:${id}`;

export function revalidateStock(
  store: Store,
  redis: Redis,
  onRevalidated: (product: Product) => void,
  signal: AbortSignal,
): Promise<void> {
  return followStream<Product>(
    store,
    'inventory_updates',
    'beginning',
    async ({ action, record, changes }) => {
      const wasInStock = action === 'update' && changes?.stock !== undefined && changes.stock > 0;
      if (action === 'delete' || (wasInStock && record.stock === 0)) {
        await redis.del(cacheKey(record.id));
        onRevalidated(record);
      } else if (action !== 'read') {
        await redis.hset(cacheKey(record.id), { name: record.name, price: record.price, stock: record.stock });
      }
    },
    signal,
  );
}
