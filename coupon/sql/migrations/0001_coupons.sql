-- migrate:up
SET lock_timeout = '5s';

-- One row is updated by every batch of its claims: the free half of its page keeps those updates out of the indexes.
CREATE TABLE policies (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  title text NOT NULL CONSTRAINT policies_title_length CHECK (char_length(title) BETWEEN 1 AND 200),
  description text NOT NULL CONSTRAINT policies_description_length CHECK (char_length(description) <= 2000),
  total_quantity int NOT NULL CONSTRAINT policies_total_quantity CHECK (total_quantity BETWEEN 1 AND 1000000000),
  issued_quantity int NOT NULL DEFAULT 0,
  start_time timestamptz NOT NULL,
  end_time timestamptz NOT NULL,
  discount_type text NOT NULL
    CONSTRAINT policies_discount_type CHECK (discount_type IN ('FIXED_AMOUNT', 'PERCENTAGE')),
  discount_value minor NOT NULL CONSTRAINT policies_discount_value CHECK (discount_value >= 1),
  minimum_order_amount minor NOT NULL,
  maximum_discount_amount minor CONSTRAINT policies_cap CHECK (maximum_discount_amount >= 1),
  created_at timestamptz NOT NULL,
  per_user_limit int NOT NULL CONSTRAINT policies_per_user_limit CHECK (per_user_limit BETWEEN 1 AND 1000000000),
  bonus_points minor NOT NULL,
  command_id uuid NOT NULL CONSTRAINT policies_command_key UNIQUE,
  CONSTRAINT policies_issued_within_total CHECK (issued_quantity BETWEEN 0 AND total_quantity),
  CONSTRAINT policies_window CHECK (start_time < end_time),
  CONSTRAINT policies_percentage CHECK (discount_type <> 'PERCENTAGE' OR discount_value <= 100)
) WITH (fillfactor = 50);

-- user_seq numbers a user's coupons under a policy; user_limit is the policy's, copied so that the row guards itself.
CREATE TABLE coupons (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  user_id user_key NOT NULL,
  order_id bigint CONSTRAINT coupons_order_id CHECK (order_id >= 1),
  status text NOT NULL
    CONSTRAINT coupons_status CHECK (status IN ('AVAILABLE', 'USED', 'EXPIRED', 'CANCELED')),
  expiration_time timestamptz NOT NULL,
  issued_at timestamptz NOT NULL,
  coupon_policy_id bigint NOT NULL CONSTRAINT coupons_policy_fkey REFERENCES policies (id),
  order_amount minor,
  discount_amount minor,
  used_at timestamptz,
  canceled_at timestamptz,
  expired_at timestamptz,
  user_seq int NOT NULL,
  user_limit int NOT NULL,
  command_id uuid NOT NULL CONSTRAINT coupons_command_key UNIQUE,
  CONSTRAINT coupons_policy_user_seq_key UNIQUE (coupon_policy_id, user_id, user_seq),
  CONSTRAINT coupons_user_limit CHECK (user_seq BETWEEN 1 AND user_limit),
  CONSTRAINT coupons_discount_within_order CHECK (discount_amount <= order_amount),
  CONSTRAINT coupons_used_whole CHECK (
    num_nonnulls(used_at, order_amount, discount_amount) = CASE WHEN status IN ('USED', 'CANCELED') THEN 3 ELSE 0 END
  ),
  CONSTRAINT coupons_canceled_whole CHECK ((status = 'CANCELED') = (canceled_at IS NOT NULL)),
  CONSTRAINT coupons_expired_whole CHECK ((status = 'EXPIRED') = (expired_at IS NOT NULL))
);
CREATE INDEX coupons_user_idx ON coupons (user_id, id DESC);
CREATE INDEX coupons_due_idx ON coupons (expiration_time) WHERE status = 'AVAILABLE';

-- migrate:down
DROP TABLE coupons;
DROP TABLE policies;
