-- migrate:up
SET lock_timeout = '5s';

CREATE TABLE users (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- in lower case, so that one mailbox is one user
  email         text NOT NULL CONSTRAINT users_email_key UNIQUE
                CONSTRAINT users_email_form CHECK (email = lower(email) AND length(email) BETWEEN 3 AND 254),
  name          text NOT NULL CONSTRAINT users_name_length CHECK (length(name) BETWEEN 2 AND 50),
  password_hash text NOT NULL,
  role          text NOT NULL CONSTRAINT users_role CHECK (role IN ('user', 'admin', 'service')),
  created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- migrate:down
DROP TABLE users;
