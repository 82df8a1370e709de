-- migrate:up
SET lock_timeout = '5s';

CREATE TABLE balances (
  user_id user_key PRIMARY KEY,
  balance bigint NOT NULL DEFAULT 0
    CONSTRAINT balances_not_negative CHECK (balance >= 0)
    CONSTRAINT balances_max CHECK (balance <= 9007199254740991),
  last_seq bigint NOT NULL DEFAULT 0 CONSTRAINT balances_seq_not_negative CHECK (last_seq >= 0)
);

CREATE TABLE journal (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  user_id user_key NOT NULL CONSTRAINT journal_user_fkey REFERENCES balances (user_id),
  amount bigint NOT NULL,
  type text NOT NULL CONSTRAINT journal_type CHECK (type IN ('EARNED', 'SPENT', 'CANCELED')),
  description text NOT NULL CONSTRAINT journal_description_length CHECK (char_length(description) <= 500),
  balance_snapshot minor NOT NULL,
  created_at timestamptz NOT NULL,
  original_transaction_id bigint
    CONSTRAINT journal_original_fkey REFERENCES journal (id)
    CONSTRAINT journal_reverses_key UNIQUE,
  seq bigint NOT NULL,
  command_id uuid NOT NULL CONSTRAINT journal_command_key UNIQUE,
  CONSTRAINT journal_user_seq_key UNIQUE (user_id, seq),
  CONSTRAINT journal_sign CHECK (
    (type = 'EARNED' AND amount > 0 AND original_transaction_id IS NULL)
    OR (type = 'SPENT' AND amount < 0 AND original_transaction_id IS NULL)
    OR (type = 'CANCELED' AND amount <> 0 AND original_transaction_id IS NOT NULL)
  )
);
CREATE INDEX journal_user_idx ON journal (user_id, id DESC);

-- Append-only: a wrong row is undone by another row, never edited.
CREATE FUNCTION journal_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the points journal is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER journal_no_change BEFORE UPDATE OR DELETE ON journal
  FOR EACH ROW EXECUTE FUNCTION journal_is_append_only();
CREATE TRIGGER journal_no_truncate BEFORE TRUNCATE ON journal
  FOR EACH STATEMENT EXECUTE FUNCTION journal_is_append_only();

-- migrate:down
DROP TABLE journal;
DROP FUNCTION journal_is_append_only();
DROP TABLE balances;
