/** A day in the shop: a fixed list of transactions, each a few statements. */

export const MORNING = [
  `INSERT INTO users (email, name, city, password_hash) VALUES
     ('ada@example.com', 'Ada', 'London', 'x1'), ('grace@example.com', 'Grace', 'New York', 'x2'),
     ('alan@example.com', 'Alan', NULL, 'x3')`,
  `INSERT INTO products (name, category, price, cost, stock) VALUES
     ('Avocados', 'fruit', 5.99, 3.00, 120), ('Oranges', 'fruit', 3.49, 1.80, 80), ('Basil', 'herbs', 1.99, 0.70, 40),
     ('Tomatoes', 'vegetables', 2.79, 1.10, 200), ('Walnuts', 'nuts', 8.50, 5.20, 15)`,
] as const;

/** One transaction each. */
export const DAY: readonly string[] = [
  `UPDATE users SET last_login_at = now() WHERE email = 'ada@example.com'`,
  `INSERT INTO orders (user_id, product_id, quantity, total) SELECT u.id, p.id, 2, 2 * p.price FROM users u, products p
     WHERE u.name = 'Ada' AND p.name = 'Avocados';
   UPDATE products SET stock = stock - 2, updated_at = now() WHERE name = 'Avocados'`,
  `UPDATE orders SET payment_status = 'paid'`,
  `UPDATE products SET price = 4.99, updated_at = now() WHERE name = 'Avocados'`,
  `UPDATE users SET city = 'Bletchley' WHERE name = 'Alan'`,
  `UPDATE products SET category = 'greens', updated_at = now() WHERE name = 'Basil'`,
  `INSERT INTO orders (user_id, product_id, quantity, total) SELECT u.id, p.id, 15, 15 * p.price FROM users u, products p
     WHERE u.name = 'Grace' AND p.name = 'Walnuts';
   UPDATE products SET stock = 0, updated_at = now() WHERE name = 'Walnuts'`,
  `UPDATE orders SET payment_status = 'failed', status = 'on hold' WHERE total > 100`,
  `UPDATE products SET price = price * 0.9, updated_at = now() WHERE category = 'fruit'`,
  `UPDATE products SET price = 3.19, updated_at = now() WHERE name = 'Tomatoes'`,
  `INSERT INTO users (email, name, password_hash) VALUES ('edsger@example.com', 'Edsger', 'x4')`,
  `UPDATE users SET password_hash = 'x5' WHERE name = 'Grace'`,
  `UPDATE users SET name = 'Grace H.', email = 'hopper@example.com' WHERE name = 'Grace'`,
  `INSERT INTO products (name, category, price, cost, stock) VALUES ('Figs', 'fruit', 6.20, 4.00, 12)`,
  `UPDATE orders SET payment_status = 'paid' WHERE payment_status = 'failed'`,
  `UPDATE orders SET status = 'shipped' WHERE payment_status = 'paid'`,
  `UPDATE products SET stock = stock + 60, updated_at = now() WHERE name = 'Walnuts'`,
  `DELETE FROM orders WHERE status = 'shipped' AND total < 50`,
  `DELETE FROM products WHERE name = 'Basil'`,
  `DELETE FROM users WHERE name = 'Edsger'`,
];
