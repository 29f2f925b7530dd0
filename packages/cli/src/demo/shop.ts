import type { EmbeddedPostgres } from '@millrace/embedded-postgres/launcher';
import { PgConnection, type QueryResult } from '@millrace/postgres/connection';

/** The shop's table, and the changes the demo makes to it. */

const TABLE = `CREATE TABLE products (
  id serial PRIMARY KEY,
  name varchar(100),
  price decimal(10,2),
  inserted_at timestamp DEFAULT now(),
  updated_at timestamp DEFAULT now()
)`;

const ROWS = `INSERT INTO products (name, price) VALUES
  ('Avocados (3 pack)', 5.99),
  ('Flank Steak (1 lb)', 8.99),
  ('Salmon Fillet (12 oz)', 14.99),
  ('Baby Spinach (16 oz)', 4.99),
  ('Sourdough Bread', 6.99),
  ('Blueberries (6 oz)', 3.99)`;

export interface Shop {
  /** Whether this run created the table. */
  readonly isNew: boolean;
  readonly rows: number;
  query(sql: string): Promise<QueryResult>;
  close(): Promise<void>;
}

export async function openShop(postgres: EmbeddedPostgres): Promise<Shop> {
  const connection = await PgConnection.connect({
    host: postgres.host,
    port: postgres.port,
    database: postgres.database,
    user: postgres.user,
    password: postgres.password,
    ssl: 'disable',
    applicationName: 'millrace demo',
  });
  const query = (sql: string): Promise<QueryResult> => connection.query(sql);
  const isNew = (await query(`SELECT to_regclass('public.products')`)).rows[0]?.[0] === null;
  // FULL: so that the stream shows the values an update replaced and the row a delete removed.
  if (isNew) await query(`${TABLE};\nALTER TABLE products REPLICA IDENTITY FULL;\n${ROWS}`);
  const rows = Number((await query('SELECT count(*) FROM products')).rows[0]?.[0]);
  return { isNew, rows, query, close: () => connection.close() };
}

/** A message as it stands in the stream: what the demo looks at. */
export interface Message {
  readonly record?: { readonly id?: unknown; readonly price?: unknown; readonly name?: unknown };
  readonly action?: unknown;
}

export interface Change {
  readonly sql: string;
  /** Whether a message of the stream tells of this change. */
  matches(message: Message): boolean;
}

/** Round after round: a price, a new product, and the product gone again. */
export async function* makeChanges(shop: Shop): AsyncGenerator<Change & { readonly committedAtMs: number }> {
  for (let round = 0; ; round++) {
    const cents = 649 + round * 10;
    const price = `${Math.floor(cents / 100)}.${String(cents % 100).padStart(2, '0')}`;
    const update = `UPDATE products SET price = ${price}, updated_at = now() WHERE id = 1`;
    yield await commit(
      shop,
      update,
      (message) => isAbout(message, 'update', 1) && sameNumber(message.record?.price, price),
    );

    const name = 'Heirloom Tomatoes (1 lb)';
    const insert = `INSERT INTO products (name, price) VALUES ('${name}', 3.49)`;
    const { rows } = await shop.query(`${insert} RETURNING id`);
    const id = Number(rows[0]?.[0]);
    yield { sql: insert, committedAtMs: performance.now(), matches: (message) => isAbout(message, 'insert', id) };

    const remove = `DELETE FROM products WHERE id = ${id}`;
    yield await commit(shop, remove, (message) => isAbout(message, 'delete', id));
  }
}

async function commit(
  shop: Shop,
  sql: string,
  matches: Change['matches'],
): Promise<Change & { readonly committedAtMs: number }> {
  await shop.query(sql);
  return { sql, committedAtMs: performance.now(), matches };
}

function isAbout(message: Message, action: string, id: number): boolean {
  return message.action === action && message.record?.id === id;
}

function sameNumber(value: unknown, text: string): boolean {
  return Number(value) === Number(text);
}
