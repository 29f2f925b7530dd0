/** A price that falls takes the margin with it: kept in the table, by whoever hears of the price. */
import type pg from 'pg';
import { followStream, type Store } from '../follow-stream.ts';
import type { Product } from '../shop-message.ts';

export function adjustMargins(
  store: Store,
  database: pg.Pool,
  onAdjusted: (product: Product) => void,
  signal: AbortSignal,
): Promise<void> {
  return followStream<Product>(
    store,
    'price_alerts',
    'beginning',
    async ({ record }) => {
      // From the row as it is now: a message may be an old one, read again after a restart.
      await database.query(
        'UPDATE products SET margin = CASE WHEN price = 0 THEN 0 ELSE greatest(-9.99, (price - cost) / price) END WHERE id = $1',
        [record.id],
      );
      onAdjusted(record);
    },
    signal,
  );
}
