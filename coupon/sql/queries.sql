-- insert_policy --
-- summary: INSERT policies
-- No row when the command made one before: a racing repeat waits here for the first and then reads its outcome.
INSERT INTO policies (title, description, total_quantity, start_time, end_time, discount_type, discount_value,
  minimum_order_amount, maximum_discount_amount, created_at, per_user_limit, bonus_points, command_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT ON CONSTRAINT policies_command_key DO NOTHING
RETURNING id

-- read_policy --
-- summary: SELECT policies
SELECT platform_now() AS at, id, title, description, total_quantity, issued_quantity, start_time, end_time,
  discount_type, discount_value, minimum_order_amount, maximum_discount_amount, created_at, per_user_limit, bonus_points
FROM policies
WHERE id = $1

-- read_made_policy --
-- summary: SELECT policies
-- The policy this command made: the last word once the commands table has forgotten it.
SELECT platform_now() AS at, id, title, description, total_quantity, issued_quantity, start_time, end_time,
  discount_type, discount_value, minimum_order_amount, maximum_discount_amount, created_at, per_user_limit, bonus_points
FROM policies
WHERE command_id = $1

-- list_policies --
-- summary: SELECT policies
SELECT platform_now() AS at, id, title, description, total_quantity, issued_quantity, start_time, end_time,
  discount_type, discount_value, minimum_order_amount, maximum_discount_amount, created_at, per_user_limit, bonus_points
FROM policies
ORDER BY id DESC
LIMIT $1 OFFSET $2

-- count_policies --
-- summary: SELECT policies
SELECT count(*) FROM policies

-- lock_policies --
-- summary: SELECT policies
-- operation: pg.query SELECT coupon_policy
-- Locks and reads only what it locks: a clock or a count in this statement may be older than the lock.
SELECT id, title, description, total_quantity, issued_quantity, start_time, end_time, discount_type, discount_value,
  minimum_order_amount, maximum_discount_amount, created_at, per_user_limit, bonus_points
FROM policies
WHERE id = ANY($1::bigint[])
ORDER BY id
FOR NO KEY UPDATE

-- read_refusal_facts --
-- summary: SELECT policies
-- One snapshot without locks for all who wait for an early no: the clock, the known commands, the policies.
-- A command is also known by the coupon it made, once the commands table has forgotten it.
SELECT facts.at, facts.known, id, title, description, total_quantity, issued_quantity, start_time, end_time,
  discount_type, discount_value, minimum_order_amount, maximum_discount_amount, created_at, per_user_limit, bonus_points
FROM (
  SELECT platform_now() AS at, ARRAY(
    SELECT command_id FROM commands WHERE command_id = ANY($2::uuid[])
    UNION ALL
    SELECT command_id FROM coupons WHERE command_id = ANY($2::uuid[])
  ) AS known
) AS facts
JOIN policies ON policies.id = ANY($1::bigint[])

-- read_claim_facts --
-- summary: SELECT coupons
-- A row per claim, in their order: what its user has under the policy, the coupon its command made before, a new id for
-- the first $4 of them. After the lock, under which alone coupons of these policies come.
SELECT last.user_seq, last.id AS last_id,
  (SELECT id FROM coupons WHERE command_id = given.command_id) AS made_id,
  CASE WHEN given.ord <= $4 THEN nextval('coupons_id_seq') END AS new_id
FROM unnest($1::bigint[], $2::text[], $3::uuid[]) WITH ORDINALITY AS given (policy_id, user_id, command_id, ord)
LEFT JOIN LATERAL (
  SELECT id, user_seq
  FROM coupons
  WHERE coupon_policy_id = given.policy_id AND user_id = given.user_id
  ORDER BY user_seq DESC
  LIMIT 1
) AS last ON true
ORDER BY given.ord

-- insert_coupons --
-- summary: INSERT coupons
-- operation: pg.query INSERT coupon
INSERT INTO coupons (id, user_id, status, expiration_time, issued_at, coupon_policy_id, user_seq, user_limit, command_id)
OVERRIDING SYSTEM VALUE
SELECT given.id, given.user_id, 'AVAILABLE', policies.end_time, $1, given.policy_id, given.user_seq,
  policies.per_user_limit, given.command_id
FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::int[], $6::uuid[]) WITH ORDINALITY
  AS given (id, user_id, policy_id, user_seq, command_id, ord)
JOIN policies ON policies.id = given.policy_id
ORDER BY given.ord

-- update_policies --
-- summary: UPDATE policies
-- operation: pg.query UPDATE coupon_policy
UPDATE policies
SET issued_quantity = policies.issued_quantity + given.issued
FROM unnest($1::bigint[], $2::int[]) AS given (id, issued)
WHERE policies.id = given.id

-- lock_coupon --
-- summary: SELECT coupons
-- operation: pg.query SELECT coupon
-- Locks and reads only what it locks, and the terms, which never change.
SELECT coupons.id, coupons.user_id, coupons.order_id, coupons.status, coupons.expiration_time, coupons.issued_at,
  coupons.coupon_policy_id, coupons.order_amount, coupons.discount_amount, coupons.used_at, coupons.canceled_at,
  coupons.expired_at, coupons.user_seq, policies.title, policies.description, policies.total_quantity,
  policies.start_time, policies.end_time, policies.discount_type, policies.discount_value,
  policies.minimum_order_amount, policies.maximum_discount_amount, policies.created_at, policies.per_user_limit,
  policies.bonus_points
FROM coupons
JOIN policies ON policies.id = coupons.coupon_policy_id
WHERE coupons.id = $1
FOR NO KEY UPDATE OF coupons

-- lock_due_coupons --
-- summary: SELECT coupons
-- Coupons of one policy that are over at $2, oldest first, but those that somebody else is at.
SELECT coupons.id, coupons.user_id, coupons.order_id, coupons.status, coupons.expiration_time, coupons.issued_at,
  coupons.coupon_policy_id, coupons.order_amount, coupons.discount_amount, coupons.used_at, coupons.canceled_at,
  coupons.expired_at, coupons.user_seq, policies.title, policies.description, policies.total_quantity,
  policies.start_time, policies.end_time, policies.discount_type, policies.discount_value,
  policies.minimum_order_amount, policies.maximum_discount_amount, policies.created_at, policies.per_user_limit,
  policies.bonus_points
FROM coupons
JOIN policies ON policies.id = coupons.coupon_policy_id
WHERE coupons.status = 'AVAILABLE' AND coupons.expiration_time <= $2 AND coupons.coupon_policy_id = $1
ORDER BY coupons.expiration_time, coupons.id
LIMIT $3
FOR NO KEY UPDATE OF coupons SKIP LOCKED

-- read_due_policy --
-- summary: SELECT coupons
-- Whose coupon has been overdue longest. Their time is never before the one read here, so no lock is needed.
SELECT coupon_policy_id, expiration_time
FROM coupons
WHERE status = 'AVAILABLE' AND expiration_time <= $1
ORDER BY expiration_time
LIMIT 1

-- update_coupons --
-- summary: UPDATE coupons
-- operation: pg.query UPDATE coupon
UPDATE coupons
SET status = given.status, order_id = given.order_id, order_amount = given.order_amount,
  discount_amount = given.discount_amount, used_at = given.used_at, canceled_at = given.canceled_at,
  expired_at = given.expired_at
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::timestamptz[],
    $8::timestamptz[])
  AS given (id, status, order_id, order_amount, discount_amount, used_at, canceled_at, expired_at)
WHERE coupons.id = given.id

-- read_clock --
-- summary: SELECT clock
SELECT platform_now()

-- read_coupons --
-- summary: SELECT coupons
SELECT coupons.id, coupons.user_id, coupons.order_id, coupons.status, coupons.expiration_time, coupons.issued_at,
  coupons.coupon_policy_id, coupons.order_amount, coupons.discount_amount, coupons.used_at, coupons.canceled_at,
  coupons.expired_at, coupons.user_seq, policies.title, policies.description, policies.total_quantity,
  policies.start_time, policies.end_time, policies.discount_type, policies.discount_value,
  policies.minimum_order_amount, policies.maximum_discount_amount, policies.created_at, policies.per_user_limit,
  policies.bonus_points
FROM coupons
JOIN policies ON policies.id = coupons.coupon_policy_id
WHERE coupons.id = ANY($1::bigint[])

-- list_user_coupons --
-- summary: SELECT coupons
-- $3: only coupons of this status (null: all), as the clock ($2) tells it; the stored one may be behind.
SELECT coupons.id, coupons.user_id, coupons.order_id, coupons.status, coupons.expiration_time, coupons.issued_at,
  coupons.coupon_policy_id, coupons.order_amount, coupons.discount_amount, coupons.used_at, coupons.canceled_at,
  coupons.expired_at, coupons.user_seq, policies.title, policies.description, policies.total_quantity,
  policies.start_time, policies.end_time, policies.discount_type, policies.discount_value,
  policies.minimum_order_amount, policies.maximum_discount_amount, policies.created_at, policies.per_user_limit,
  policies.bonus_points
FROM coupons
JOIN policies ON policies.id = coupons.coupon_policy_id
WHERE coupons.user_id = $1
  AND ($3::text IS NULL OR $3 = CASE
    WHEN coupons.status = 'AVAILABLE' AND coupons.expiration_time <= $2::timestamptz THEN 'EXPIRED'
    ELSE coupons.status
  END)
ORDER BY coupons.id DESC
LIMIT $4 OFFSET $5

-- count_user_coupons --
-- summary: SELECT coupons
SELECT count(*)
FROM coupons
WHERE user_id = $1
  AND ($3::text IS NULL OR $3 = CASE
    WHEN status = 'AVAILABLE' AND expiration_time <= $2::timestamptz THEN 'EXPIRED'
    ELSE status
  END)

-- invariant_issued_is_coupons --
-- summary: SELECT policies
SELECT policies.id, policies.total_quantity, policies.issued_quantity, count(coupons.id) AS coupons
FROM policies
LEFT JOIN coupons ON coupons.coupon_policy_id = policies.id
GROUP BY policies.id
HAVING policies.issued_quantity <> count(coupons.id) OR policies.issued_quantity > policies.total_quantity
LIMIT 100

-- invariant_users_within_limit --
-- summary: SELECT coupons
SELECT coupons.coupon_policy_id, coupons.user_id, count(*) AS coupons, policies.per_user_limit
FROM coupons
JOIN policies ON policies.id = coupons.coupon_policy_id
GROUP BY coupons.coupon_policy_id, coupons.user_id, policies.per_user_limit
HAVING count(*) > policies.per_user_limit
LIMIT 100

-- invariant_user_seq_without_gaps --
-- summary: SELECT coupons
-- With coupons_policy_user_seq_key, n numbers up to n are each there once.
SELECT coupon_policy_id, user_id, count(*) AS coupons, max(user_seq) AS highest
FROM coupons
GROUP BY coupon_policy_id, user_id
HAVING max(user_seq) <> count(*)
LIMIT 100

-- invariant_coupon_as_its_policy --
-- summary: SELECT coupons
SELECT coupons.id, coupons.expiration_time, policies.end_time, coupons.user_limit, policies.per_user_limit
FROM coupons
JOIN policies ON policies.id = coupons.coupon_policy_id
WHERE coupons.expiration_time <> policies.end_time OR coupons.user_limit <> policies.per_user_limit
LIMIT 100

-- invariant_each_coupon_has_its_event --
-- summary: SELECT coupons
-- Sent outbox rows are kept 7 days. Exactly one coupon.issued each, and none without its coupon.
WITH since AS MATERIALIZED (SELECT platform_now() - interval '6 days' AS at)
SELECT coalesce(made.id::text, told.key) AS coupon_id, coalesce(told.events, 0) AS events
FROM (SELECT id FROM coupons WHERE issued_at > (SELECT at FROM since)) AS made
FULL JOIN (
  SELECT key, count(*) AS events
  FROM outbox
  WHERE topic = 'coupon.issued' AND created_at > (SELECT at FROM since)
  GROUP BY key
) AS told ON told.key = made.id::text
WHERE told.events IS DISTINCT FROM 1 OR made.id IS NULL
LIMIT 100

-- invariant_each_end_has_its_event --
-- summary: SELECT coupons
-- The same of coupon.used, coupon.canceled and coupon.expired; an expiry is dated by the coupon, so any is looked at
-- whose coupon was over in these days, if it was issued in them (a sweep may come late).
WITH since AS MATERIALIZED (SELECT platform_now() - interval '6 days' AS at),
ended AS (
  SELECT id, 'coupon.used' AS topic FROM coupons WHERE used_at > (SELECT at FROM since)
  UNION ALL
  SELECT id, 'coupon.canceled' FROM coupons WHERE canceled_at > (SELECT at FROM since)
  UNION ALL
  SELECT id, 'coupon.expired' FROM coupons WHERE expired_at > (SELECT at FROM since)
),
told AS (
  SELECT topic, key, count(*) AS events
  FROM outbox
  WHERE topic IN ('coupon.used', 'coupon.canceled', 'coupon.expired') AND created_at > (SELECT at FROM since)
  GROUP BY topic, key
)
SELECT coalesce(ended.topic, told.topic) AS topic, coalesce(ended.id::text, told.key) AS coupon_id,
  coalesce(told.events, 0) AS events
FROM ended
FULL JOIN told ON told.topic = ended.topic AND told.key = ended.id::text
WHERE told.events IS DISTINCT FROM 1
  OR ended.id IS NULL AND NOT EXISTS (
    SELECT 1
    FROM coupons
    WHERE coupons.id::text = told.key AND coupons.status = 'EXPIRED' AND told.topic = 'coupon.expired'
  )
LIMIT 100
