-- migrate:up
-- What `infra/subscribe.py` needs in the database of a program outside the platform. Not for a worker's: it has these.
SET lock_timeout = '5s';

-- The one clock. Not now(): that is the start of the transaction, before any wait for a lock.
CREATE FUNCTION platform_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp()';

-- Events that were handled, so that each takes effect once.
CREATE TABLE inbox (
  consumer text NOT NULL,
  event_id uuid NOT NULL,
  outcome text NOT NULL CONSTRAINT inbox_outcome CHECK (outcome IN ('done', 'dead')),
  handled_at timestamptz NOT NULL,
  CONSTRAINT inbox_pkey PRIMARY KEY (consumer, event_id)
);
CREATE INDEX inbox_handled_idx ON inbox (handled_at);

-- Records that were given up.
CREATE TABLE dead_letters (
  consumer text NOT NULL,
  event_id uuid NOT NULL,
  topic text NOT NULL,
  partition int NOT NULL,
  record_offset bigint NOT NULL,
  key bytea,
  value bytea,
  headers jsonb NOT NULL,
  reason text NOT NULL,
  error text NOT NULL,
  tries int NOT NULL,
  created_at timestamptz NOT NULL,
  replayed_at timestamptz,
  CONSTRAINT dead_letters_pkey PRIMARY KEY (consumer, event_id)
);

-- What is sent after a commit: dead letters, and whatever the handler adds.
CREATE TABLE outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  event_id uuid NOT NULL CONSTRAINT outbox_event_key UNIQUE,
  topic text NOT NULL,
  key text NOT NULL,
  payload bytea NOT NULL,
  headers jsonb NOT NULL,
  created_at timestamptz NOT NULL,
  sent_at timestamptz
);
CREATE INDEX outbox_unsent_idx ON outbox (id) WHERE sent_at IS NULL;

-- migrate:down
DROP TABLE outbox, dead_letters, inbox;
DROP FUNCTION platform_now();
