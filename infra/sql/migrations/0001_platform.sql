-- migrate:up
SET lock_timeout = '5s';

CREATE DOMAIN user_key AS text CONSTRAINT user_key_form CHECK (VALUE ~ '^[A-Za-z0-9_.:@-]{1,64}$');
-- Money and points in the smallest unit: what a JSON number can hold exactly.
CREATE DOMAIN minor AS bigint CONSTRAINT minor_range CHECK (VALUE BETWEEN 0 AND 9007199254740991);

-- The one clock of every decision. Not now(): that is the start of the transaction, before any wait for a lock.
CREATE FUNCTION platform_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp()';

CREATE TABLE commands (
  command_id uuid CONSTRAINT commands_pkey PRIMARY KEY,
  verb text NOT NULL,
  fingerprint bytea NOT NULL,
  answer bytea,
  refusal bytea,
  created_at timestamptz NOT NULL,
  CONSTRAINT commands_one_outcome CHECK (num_nonnulls(answer, refusal) = 1)
);
CREATE INDEX commands_created_idx ON commands (created_at);

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

CREATE TABLE inbox (
  consumer text NOT NULL,
  event_id uuid NOT NULL,
  outcome text NOT NULL CONSTRAINT inbox_outcome CHECK (outcome IN ('done', 'dead')),
  handled_at timestamptz NOT NULL,
  CONSTRAINT inbox_pkey PRIMARY KEY (consumer, event_id)
);
CREATE INDEX inbox_handled_idx ON inbox (handled_at);

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

-- migrate:down
DROP TABLE dead_letters, inbox, outbox, commands;
DROP FUNCTION platform_now();
DROP DOMAIN minor, user_key;
