/**
 * The shop: users, products and orders go in; each change comes out in the stream that what changed calls for. Its
 * functions, and what they have to come to, worked out anew from messages that no function has seen.
 */
import type { TestDatabase } from '@millrace/testkit/postgres';
import type { Random } from '@millrace/testkit/random';
import type { Message } from './millrace.ts';

export const SHOP_STREAMS = [
  'user_auth_events',
  'user_profile_updates',
  'inventory_updates',
  'price_alerts',
  'category_updates',
  'payment_notifications',
  'order_processing',
] as const;

/** Where nothing of the above is what changed. */
export const REST = 'rest';

/** Routes by table and by what changed; a basket of goods becomes a message for each of them. */
export const SHOP_FUNCTIONS = [
  {
    name: 'by-what-changed',
    type: 'routing',
    sink_type: 's2',
    code: `
interface Row { readonly [column: string]: unknown }
export function route(action: string, record: Row, changes: Row | null, metadata: { table_name: string }) {
  const changed = (column: string) => changes !== null && column in changes;
  switch (metadata.table_name) {
    case 'users':
      return { stream: changed('last_login') || changed('password') ? 'user_auth_events' : 'user_profile_updates' };
    case 'products':
      if (changed('price') && Number(record.price) < Number(changes!.price)) return { stream: 'price_alerts' };
      if (changed('category')) return { stream: 'category_updates' };
      return { stream: 'inventory_updates' };
    case 'orders':
      return { stream: changed('paid') ? 'payment_notifications' : 'order_processing' };
    default:
      return {};
  }
}`,
  },
  {
    name: 'no-drafts',
    type: 'filter',
    code: `(action, record) => record.status !== 'draft'`,
  },
  {
    name: 'short',
    type: 'transform',
    code: `(action, record, changes, metadata) => {
  const one = { key: metadata.idempotency_key, action, id: record.id };
  return metadata.table_name === 'orders' && Array.isArray(record.goods) ? messages(record.goods.map((good) => ({ ...one, good }))) : one;
}`,
  },
];

/** The same in other words. */
export function expectedOf({ action, record, changes, metadata }: Message): { stream: string; bodies: object[] } {
  const has = (column: string) => changes !== null && Object.hasOwn(changes, column);
  const streams: Record<string, () => string> = {
    users: () => (has('last_login') || has('password') ? 'user_auth_events' : 'user_profile_updates'),
    products: () => {
      if (has('price') && Number(record['price']) < Number(changes!['price'])) return 'price_alerts';
      return has('category') ? 'category_updates' : 'inventory_updates';
    },
    orders: () => (has('paid') ? 'payment_notifications' : 'order_processing'),
  };
  const stream = streams[metadata.table_name]?.() ?? REST;
  if (record['status'] === 'draft') return { stream, bodies: [] };
  const body = { key: metadata.idempotency_key, action, id: record['id'] };
  const goods = metadata.table_name === 'orders' ? (record['goods'] as string[] | null) : null;
  return { stream, bodies: goods === null ? [body] : goods.map((good) => ({ ...body, good })) };
}

export async function createShop(db: TestDatabase): Promise<void> {
  await db.sql(`
    CREATE TABLE users (id int PRIMARY KEY, name text, password text, last_login timestamptz);
    CREATE TABLE products (id int PRIMARY KEY, name text, price numeric(10, 2), stock int, category text);
    CREATE TABLE orders (id int PRIMARY KEY, status text, paid boolean, goods text[]);
    CREATE TABLE other (id int PRIMARY KEY);
    ALTER TABLE users REPLICA IDENTITY FULL;
    ALTER TABLE products REPLICA IDENTITY FULL;
    ALTER TABLE orders REPLICA IDENTITY FULL;
    INSERT INTO users SELECT i, 'u' || i, 'secret', now() FROM generate_series(1, 40) i;
    INSERT INTO products SELECT i, 'p' || i, 5, 10, 'fruit' FROM generate_series(1, 40) i;
    INSERT INTO orders SELECT i, 'open', false, NULL FROM generate_series(1, 40) i`);
}

/** SQL of one transaction of a day at the shop. `day`: of every other one. */
export function transactionOf(random: Random, day: number): string {
  const id = () => 1 + random.integer(40);
  const fresh = 100 + day;
  const statements = [
    () => `UPDATE users SET last_login = now() + interval '${day} s' WHERE id = ${id()}`,
    () => `UPDATE users SET name = name || 'x' WHERE id = ${id()}`,
    () => `UPDATE users SET password = md5('${day}') WHERE id = ${id()}`,
    () => `UPDATE products SET price = price - 0.01 WHERE id = ${id()}`,
    () => `UPDATE products SET price = price + 0.05 WHERE id = ${id()}`,
    () => `UPDATE products SET stock = stock - 1 WHERE id BETWEEN ${id()} AND ${id()}`,
    () => `UPDATE products SET category = 'c${day}' WHERE id = ${id()}`,
    () => `UPDATE orders SET paid = NOT paid WHERE id = ${id()}`,
    () => `UPDATE orders SET status = 's${day}' WHERE id BETWEEN ${id()} AND ${id()}`,
    () => `UPDATE orders SET status = 'draft' WHERE id = ${id()}`,
    () => `UPDATE orders SET goods = ARRAY['pear', 'kiwi', 'plum'] WHERE id = ${id()}`,
    () => `UPDATE orders SET goods = '{}' WHERE id = ${id()}`,
  ];
  const some = Array.from({ length: 1 + random.integer(4) }, () => random.pick(statements)());
  some.push(`INSERT INTO orders VALUES (${fresh}, 'new', false, ARRAY['fig', 'lime'])`);
  if (random.chance(0.3)) some.push(`DELETE FROM orders WHERE id = ${fresh - 5}`, `INSERT INTO other VALUES (${day})`);
  return `BEGIN; ${some.join('; ')}; COMMIT`;
}
