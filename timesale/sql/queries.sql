-- insert_product --
-- summary: INSERT products
-- No row when the command made one before: a racing repeat waits here for the first and then reads its outcome.
INSERT INTO products (name, price, description, created_at, command_id)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT ON CONSTRAINT products_command_key DO NOTHING
RETURNING id

-- read_product --
-- summary: SELECT products
SELECT id, name, price, description, created_at FROM products WHERE id = $1

-- read_made_product --
-- summary: SELECT products
SELECT id, name, price, description, created_at FROM products WHERE command_id = $1

-- list_products --
-- summary: SELECT products
SELECT id, name, price, description, created_at FROM products ORDER BY id DESC LIMIT $1 OFFSET $2

-- count_products --
-- summary: SELECT products
SELECT count(*) FROM products

-- insert_sale --
-- summary: INSERT sales
-- No row when the command made one before, as in insert_product.
INSERT INTO sales (product_id, quantity, remaining_quantity, discount_price, start_at, end_at, status, created_at,
  per_user_limit, reward_points, command_id)
VALUES ($1, $2, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT ON CONSTRAINT sales_command_key DO NOTHING
RETURNING id

-- lock_sales --
-- summary: SELECT sales
-- Locks and reads only what it locks: a clock or a count in this statement may be older than the lock.
SELECT id, product_id, quantity, discount_price, start_at, end_at, status, created_at, per_user_limit, reward_points,
  remaining_quantity, held_quantity, sold_quantity, last_queue_number, version
FROM sales
WHERE id = ANY($1::bigint[])
ORDER BY id
FOR NO KEY UPDATE

-- lock_buyers --
-- summary: SELECT buyers
-- After the sales' locks, under which alone these rows come and move.
SELECT buyers.time_sale_id, buyers.user_id, buyers.units
FROM unnest($1::bigint[], $2::text[]) AS wanted (time_sale_id, user_id)
JOIN buyers ON buyers.time_sale_id = wanted.time_sale_id AND buyers.user_id = wanted.user_id
ORDER BY buyers.time_sale_id, buyers.user_id
FOR NO KEY UPDATE OF buyers

-- read_refusal_facts --
-- summary: SELECT sales
-- One snapshot without locks for all who wait for an early no: the clock, the known commands, the sales.
SELECT facts.at, facts.known, id, product_id, quantity, discount_price, start_at, end_at, status, created_at,
  per_user_limit, reward_points, remaining_quantity, held_quantity, sold_quantity, last_queue_number, version
FROM (
  SELECT platform_now() AS at,
    ARRAY(SELECT command_id FROM commands WHERE command_id = ANY($2::uuid[])) AS known
) AS facts
JOIN sales ON sales.id = ANY($1::bigint[])

-- insert_orders --
-- summary: INSERT orders
-- operation: pg.query INSERT time_sale_order
INSERT INTO orders (time_sale_id, user_id, quantity, status, queue_number, created_at, unit_price, total_price,
  reward_points, command_id)
SELECT time_sale_id, user_id, quantity, 'COMPLETED', queue_number, $1, unit_price, total_price, reward_points,
  command_id
FROM unnest($2::bigint[], $3::text[], $4::int[], $5::int[], $6::bigint[], $7::bigint[], $8::int[], $9::uuid[])
  WITH ORDINALITY
  AS row (time_sale_id, user_id, quantity, queue_number, unit_price, total_price, reward_points, command_id, ord)
ORDER BY ord
RETURNING id, command_id

-- add_buyers --
-- summary: UPSERT buyers
-- One row per buyer: the statement may not touch a row twice.
INSERT INTO buyers (time_sale_id, user_id, units, unit_limit)
SELECT time_sale_id, user_id, units, unit_limit
FROM unnest($1::bigint[], $2::text[], $3::int[], $4::int[]) AS row (time_sale_id, user_id, units, unit_limit)
ORDER BY time_sale_id, user_id
ON CONFLICT (time_sale_id, user_id)
DO UPDATE SET units = buyers.units + excluded.units, unit_limit = excluded.unit_limit

-- update_sales --
-- summary: UPDATE sales
UPDATE sales
SET remaining_quantity = row.remaining, held_quantity = row.held, sold_quantity = row.sold,
  last_queue_number = row.last_queue_number, version = row.version, status = row.status
FROM unnest($1::bigint[], $2::int[], $3::int[], $4::int[], $5::int[], $6::bigint[], $7::text[])
  AS row (id, remaining, held, sold, last_queue_number, version, status)
WHERE sales.id = row.id

-- read_clock --
-- summary: SELECT clock
SELECT platform_now()

-- read_due_sales --
-- summary: SELECT sales
-- Sales whose stored status is behind the clock; without locks.
SELECT id FROM sales WHERE status = 'SCHEDULED' AND start_at <= $1
UNION ALL
SELECT id FROM sales WHERE status IN ('ACTIVE', 'SOLD_OUT') AND end_at <= $1
ORDER BY id
LIMIT $2

-- update_status --
-- summary: UPDATE sales
UPDATE sales SET status = $2 WHERE id = $1

-- read_live_stock --
-- summary: SELECT sales
-- The sales that are on now, newest first, for the gauge of their stock.
SELECT id, remaining_quantity FROM sales WHERE status IN ('ACTIVE', 'SOLD_OUT') ORDER BY id DESC LIMIT $1

-- read_listing --
-- summary: SELECT sales
SELECT platform_now() AS at, sales.id, sales.product_id, sales.quantity, sales.discount_price, sales.start_at,
  sales.end_at, sales.status, sales.created_at, sales.per_user_limit, sales.reward_points, sales.remaining_quantity,
  sales.held_quantity, sales.sold_quantity, sales.last_queue_number, sales.version,
  products.name AS product_name, products.price AS product_price, products.description AS product_description,
  products.created_at AS product_created_at
FROM sales
JOIN products ON products.id = sales.product_id
WHERE sales.id = $1

-- read_made_listing --
-- summary: SELECT sales
SELECT platform_now() AS at, sales.id, sales.product_id, sales.quantity, sales.discount_price, sales.start_at,
  sales.end_at, sales.status, sales.created_at, sales.per_user_limit, sales.reward_points, sales.remaining_quantity,
  sales.held_quantity, sales.sold_quantity, sales.last_queue_number, sales.version,
  products.name AS product_name, products.price AS product_price, products.description AS product_description,
  products.created_at AS product_created_at
FROM sales
JOIN products ON products.id = sales.product_id
WHERE sales.command_id = $1

-- list_listings --
-- summary: SELECT sales
-- $2: only sales of this status (null: all), as the clock ($1) and the counters tell it; the stored one may be behind.
SELECT $1::timestamptz AS at, sales.id, sales.product_id, sales.quantity, sales.discount_price, sales.start_at,
  sales.end_at, sales.status, sales.created_at, sales.per_user_limit, sales.reward_points, sales.remaining_quantity,
  sales.held_quantity, sales.sold_quantity, sales.last_queue_number, sales.version,
  products.name AS product_name, products.price AS product_price, products.description AS product_description,
  products.created_at AS product_created_at
FROM sales
JOIN products ON products.id = sales.product_id
WHERE $2::text IS NULL OR $2 = CASE
  WHEN $1 >= sales.end_at THEN 'ENDED'
  WHEN $1 < sales.start_at THEN 'SCHEDULED'
  WHEN sales.remaining_quantity = 0 THEN 'SOLD_OUT'
  ELSE 'ACTIVE'
END
ORDER BY sales.id DESC
LIMIT $3 OFFSET $4

-- count_listings --
-- summary: SELECT sales
SELECT count(*)
FROM sales
WHERE $2::text IS NULL OR $2 = CASE
  WHEN $1::timestamptz >= end_at THEN 'ENDED'
  WHEN $1 < start_at THEN 'SCHEDULED'
  WHEN remaining_quantity = 0 THEN 'SOLD_OUT'
  ELSE 'ACTIVE'
END

-- read_order --
-- summary: SELECT orders
SELECT id, time_sale_id, user_id, quantity, status, queue_number, created_at, hold_id, unit_price, total_price,
  reward_points
FROM orders
WHERE id = $1

-- read_made_orders --
-- summary: SELECT orders
-- The orders these commands made: the last word once the commands table has forgotten them.
SELECT id, time_sale_id, user_id, quantity, status, queue_number, created_at, hold_id, unit_price, total_price,
  reward_points, command_id
FROM orders
WHERE command_id = ANY($1::uuid[])

-- list_user_orders --
-- summary: SELECT orders
SELECT id, time_sale_id, user_id, quantity, status, queue_number, created_at, hold_id, unit_price, total_price,
  reward_points
FROM orders
WHERE user_id = $1
ORDER BY id DESC
LIMIT $2 OFFSET $3

-- count_user_orders --
-- summary: SELECT orders
SELECT count(*) FROM orders WHERE user_id = $1

-- invariant_units_are_orders --
-- summary: SELECT sales
SELECT sales.id, sales.sold_quantity, coalesce(sum(orders.quantity), 0) AS ordered
FROM sales
LEFT JOIN orders ON orders.time_sale_id = sales.id
GROUP BY sales.id
HAVING sales.sold_quantity <> coalesce(sum(orders.quantity), 0)
LIMIT 100

-- invariant_units_conserved --
-- summary: SELECT sales
SELECT id, quantity, remaining_quantity, held_quantity, sold_quantity
FROM sales
WHERE remaining_quantity < 0 OR remaining_quantity + held_quantity + sold_quantity <> quantity
LIMIT 100

-- invariant_buyers_are_orders --
-- summary: SELECT buyers
-- From both sides: a buyer without orders, and orders without a buyer.
SELECT time_sale_id, user_id, coalesce(buyers.units, 0) AS units, coalesce(ordered.units, 0) AS ordered
FROM buyers
FULL JOIN (
  SELECT time_sale_id, user_id, sum(quantity) AS units FROM orders GROUP BY time_sale_id, user_id
) AS ordered USING (time_sale_id, user_id)
WHERE coalesce(buyers.units, 0) <> coalesce(ordered.units, 0)
LIMIT 100

-- invariant_buyers_within_limit --
-- summary: SELECT buyers
SELECT buyers.time_sale_id, buyers.user_id, buyers.units, sales.per_user_limit
FROM buyers
JOIN sales ON sales.id = buyers.time_sale_id
WHERE buyers.units > sales.per_user_limit
LIMIT 100

-- invariant_queue_numbers_without_gaps --
-- summary: SELECT sales
-- With orders_sale_queue_number_key, n numbers from 1 to n are each there once.
SELECT sales.id, sales.last_queue_number, count(orders.id) AS orders, min(orders.queue_number) AS lowest,
  max(orders.queue_number) AS highest
FROM sales
LEFT JOIN orders ON orders.time_sale_id = sales.id
GROUP BY sales.id
HAVING sales.last_queue_number <> count(orders.id)
  OR coalesce(min(orders.queue_number), 1) <> 1
  OR coalesce(max(orders.queue_number), 0) <> count(orders.id)
LIMIT 100

-- invariant_each_order_has_its_event --
-- summary: SELECT orders
-- Sent outbox rows are kept 7 days. Exactly one event each, and no event without its order.
WITH since AS MATERIALIZED (SELECT platform_now() - interval '6 days' AS at)
SELECT coalesce(made.id::text, told.key) AS order_id, coalesce(told.events, 0) AS events
FROM (SELECT id FROM orders WHERE created_at > (SELECT at FROM since)) AS made
FULL JOIN (
  SELECT key, count(*) AS events
  FROM outbox
  WHERE topic = 'order.created' AND created_at > (SELECT at FROM since)
  GROUP BY key
) AS told ON told.key = made.id::text
WHERE told.events IS DISTINCT FROM 1 OR made.id IS NULL
LIMIT 100

-- invariant_each_sale_has_its_events --
-- summary: SELECT sales
-- What each status tells of the way to it. A sale created after its end told nothing but that.
WITH since AS MATERIALIZED (SELECT platform_now() - interval '6 days' AS at)
SELECT sales.id, sales.status, told.created, told.started, told.soldout, told.ended
FROM sales
CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE topic = 'timesale.created') AS created,
    count(*) FILTER (WHERE topic = 'timesale.started') AS started,
    count(*) FILTER (WHERE topic = 'timesale.soldout') AS soldout,
    count(*) FILTER (WHERE topic = 'timesale.ended') AS ended
  FROM outbox
  WHERE outbox.key = sales.id::text
    AND outbox.topic IN ('timesale.created', 'timesale.started', 'timesale.soldout', 'timesale.ended')
) AS told
WHERE sales.created_at > (SELECT at FROM since)
  AND (
    told.created <> 1
    OR told.started > 1
    OR told.started = 0 AND sales.status IN ('ACTIVE', 'SOLD_OUT')
    OR told.soldout = 0 AND sales.status = 'SOLD_OUT'
    OR told.ended <> (sales.status = 'ENDED' AND sales.created_at < sales.end_at)::int
  )
LIMIT 100
