-- migrate:up
SET lock_timeout = '5s';

CREATE TABLE products (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL CONSTRAINT products_name_length CHECK (char_length(name) BETWEEN 1 AND 200),
  price minor NOT NULL,
  description text NOT NULL CONSTRAINT products_description_length CHECK (char_length(description) <= 2000),
  created_at timestamptz NOT NULL,
  command_id uuid NOT NULL CONSTRAINT products_command_key UNIQUE
);

-- One row is updated by every batch of its orders: the free half of its page keeps those updates out of the indexes.
CREATE TABLE sales (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  product_id bigint NOT NULL CONSTRAINT sales_product_fkey REFERENCES products (id),
  quantity int NOT NULL CONSTRAINT sales_quantity CHECK (quantity BETWEEN 1 AND 1000000000),
  remaining_quantity int NOT NULL CONSTRAINT sales_remaining_not_negative CHECK (remaining_quantity >= 0),
  held_quantity int NOT NULL DEFAULT 0 CONSTRAINT sales_held_not_negative CHECK (held_quantity >= 0),
  sold_quantity int NOT NULL DEFAULT 0 CONSTRAINT sales_sold_not_negative CHECK (sold_quantity >= 0),
  discount_price minor NOT NULL,
  start_at timestamptz NOT NULL,
  end_at timestamptz NOT NULL,
  status text NOT NULL
    CONSTRAINT sales_status CHECK (status IN ('SCHEDULED', 'ACTIVE', 'SOLD_OUT', 'ENDED')),
  created_at timestamptz NOT NULL,
  per_user_limit int CONSTRAINT sales_per_user_limit CHECK (per_user_limit BETWEEN 1 AND 1000000000),
  reward_points int NOT NULL CONSTRAINT sales_reward_points CHECK (reward_points BETWEEN 0 AND 100),
  last_queue_number int NOT NULL DEFAULT 0
    CONSTRAINT sales_queue_number_not_negative CHECK (last_queue_number >= 0),
  version bigint NOT NULL DEFAULT 0,
  command_id uuid NOT NULL CONSTRAINT sales_command_key UNIQUE,
  CONSTRAINT sales_window CHECK (start_at < end_at),
  CONSTRAINT sales_units_conserved CHECK (remaining_quantity + held_quantity + sold_quantity = quantity)
) WITH (fillfactor = 50);
CREATE INDEX sales_due_idx ON sales (status, start_at, end_at) WHERE status <> 'ENDED';

-- hold_id names no row for ever: closed holds are purged, their orders stay.
CREATE TABLE orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  time_sale_id bigint NOT NULL CONSTRAINT orders_sale_fkey REFERENCES sales (id),
  user_id user_key NOT NULL,
  quantity int NOT NULL CONSTRAINT orders_quantity CHECK (quantity BETWEEN 1 AND 1000000000),
  status text NOT NULL
    CONSTRAINT orders_status CHECK (status IN ('PENDING', 'COMPLETED', 'FAILED', 'CANCELED')),
  queue_number int NOT NULL CONSTRAINT orders_queue_number CHECK (queue_number >= 1),
  created_at timestamptz NOT NULL,
  hold_id bigint CONSTRAINT orders_hold_key UNIQUE,
  unit_price minor NOT NULL,
  total_price minor NOT NULL,
  reward_points int NOT NULL CONSTRAINT orders_reward_points CHECK (reward_points BETWEEN 0 AND 100),
  command_id uuid NOT NULL CONSTRAINT orders_command_key UNIQUE,
  CONSTRAINT orders_sale_queue_number_key UNIQUE (time_sale_id, queue_number)
);
CREATE INDEX orders_user_idx ON orders (user_id, id DESC);

-- A user's units in a sale, held and bought; unit_limit is the sale's, copied so that the row can guard itself.
-- Without a foreign key: rows come and move under their sale's row lock only, and the check costs as much as the insert.
CREATE TABLE buyers (
  time_sale_id bigint NOT NULL,
  user_id user_key NOT NULL,
  units int NOT NULL CONSTRAINT buyers_not_negative CHECK (units >= 0),
  unit_limit int,
  CONSTRAINT buyers_pkey PRIMARY KEY (time_sale_id, user_id),
  CONSTRAINT buyers_within_limit CHECK (units <= unit_limit)
) WITH (fillfactor = 80);

-- migrate:down
DROP TABLE buyers;
DROP TABLE orders;
DROP TABLE sales;
DROP TABLE products;
