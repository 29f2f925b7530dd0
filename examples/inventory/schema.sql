-- The shop. Full replica identity: an update then tells what the row was before, and functions can go by what changed.
CREATE TABLE users (
  id serial PRIMARY KEY,
  email text NOT NULL UNIQUE,
  name text NOT NULL,
  city text,
  password_hash text NOT NULL,
  last_login_at timestamptz
);
CREATE TABLE products (
  id serial PRIMARY KEY,
  name text NOT NULL,
  category text NOT NULL,
  price numeric(10, 2) NOT NULL,
  cost numeric(10, 2) NOT NULL,
  -- Share of the price that is left over the cost; kept by a consumer of price_alerts, not by whoever sets the price.
  margin numeric(4, 2),
  stock int NOT NULL CHECK (stock >= 0),
  inserted_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE orders (
  id serial PRIMARY KEY,
  user_id int NOT NULL REFERENCES users,
  product_id int NOT NULL REFERENCES products,
  quantity int NOT NULL CHECK (quantity > 0),
  total numeric(10, 2) NOT NULL,
  status text NOT NULL DEFAULT 'new',
  payment_status text NOT NULL DEFAULT 'pending',
  placed_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE users REPLICA IDENTITY FULL;
ALTER TABLE products REPLICA IDENTITY FULL;
ALTER TABLE orders REPLICA IDENTITY FULL;
CREATE PUBLICATION shop FOR TABLE users, products, orders;
