-- add_balances --
-- summary: INSERT balances
-- A user's first earning. In id order and before any lock, so that two first earnings cannot wait for each other in a ring.
INSERT INTO balances (user_id)
SELECT wanted.user_id
FROM unnest($1::text[]) AS wanted (user_id)
WHERE NOT EXISTS (SELECT FROM balances WHERE balances.user_id = wanted.user_id)
ORDER BY wanted.user_id
ON CONFLICT (user_id) DO NOTHING

-- lock_balances --
-- summary: SELECT balances
-- Locks and nothing else: a clock or a sum in this statement may be older than the lock.
SELECT user_id FROM balances WHERE user_id = ANY($1::text[]) ORDER BY user_id FOR NO KEY UPDATE

-- read_balances --
-- summary: SELECT balances
SELECT user_id, balance, last_seq FROM balances WHERE user_id = ANY($1::text[])

-- read_balance --
-- summary: SELECT balances
SELECT user_id, balance, last_seq FROM balances WHERE user_id = $1

-- read_originals --
-- summary: SELECT journal
SELECT original.id, original.user_id, original.amount, original.type, reversal.id IS NOT NULL AS reversed
FROM journal AS original
LEFT JOIN journal AS reversal ON reversal.original_transaction_id = original.id
WHERE original.id = ANY($1::bigint[])

-- read_made --
-- summary: SELECT journal
-- Rows that these commands made earlier: the last word once the commands table has forgotten them.
SELECT id, user_id, amount, type, description, balance_snapshot, created_at, original_transaction_id, seq, command_id
FROM journal
WHERE command_id = ANY($1::uuid[])

-- read_user_of_transaction --
-- summary: SELECT journal
SELECT user_id FROM journal WHERE id = $1

-- insert_transactions --
-- summary: INSERT journal
INSERT INTO journal
  (user_id, amount, type, description, balance_snapshot, created_at, original_transaction_id, seq, command_id)
SELECT user_id, amount, type, description, balance_snapshot, $8, original_transaction_id, seq, command_id
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $9::uuid[])
  WITH ORDINALITY
  AS row (user_id, amount, type, description, balance_snapshot, original_transaction_id, seq, command_id, ord)
ORDER BY ord
RETURNING id, command_id

-- update_balances --
-- summary: UPDATE balances
UPDATE balances
SET balance = row.balance, last_seq = row.last_seq
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS row (user_id, balance, last_seq)
WHERE balances.user_id = row.user_id

-- read_history --
-- summary: SELECT journal
SELECT id, user_id, amount, type, description, balance_snapshot, created_at, original_transaction_id, seq
FROM journal
WHERE user_id = $1
ORDER BY id DESC
LIMIT $2 OFFSET $3

-- count_history --
-- summary: SELECT journal
SELECT count(*) FROM journal WHERE user_id = $1

-- invariant_balance_is_sum --
-- summary: SELECT balances
SELECT balances.user_id, balances.balance, coalesce(sum(journal.amount), 0) AS journal_sum
FROM balances
LEFT JOIN journal ON journal.user_id = balances.user_id
GROUP BY balances.user_id
HAVING balances.balance <> coalesce(sum(journal.amount), 0)
LIMIT 100

-- invariant_balance_is_last_snapshot --
-- summary: SELECT balances
SELECT balances.user_id, balances.balance, journal.balance_snapshot
FROM balances
JOIN journal ON journal.user_id = balances.user_id AND journal.seq = balances.last_seq
WHERE balances.balance <> journal.balance_snapshot
LIMIT 100

-- invariant_seq_without_gaps --
-- summary: SELECT balances
SELECT balances.user_id, balances.last_seq, count(journal.id) AS rows, max(journal.seq) AS highest
FROM balances
LEFT JOIN journal ON journal.user_id = balances.user_id
GROUP BY balances.user_id
HAVING balances.last_seq <> count(journal.id) OR balances.last_seq <> coalesce(max(journal.seq), 0)
LIMIT 100

-- invariant_snapshots_chain --
-- summary: SELECT journal
SELECT id, user_id, seq, balance_snapshot
FROM (
  SELECT id, user_id, seq, amount, balance_snapshot,
    coalesce(lag(balance_snapshot) OVER (PARTITION BY user_id ORDER BY seq), 0) AS before
  FROM journal
) AS chain
WHERE balance_snapshot <> before + amount
LIMIT 100

-- invariant_each_row_has_its_event --
-- summary: SELECT journal
-- Sent outbox rows are kept 7 days. Exactly one event each, on the topic of its type, and no event without its row.
WITH since AS MATERIALIZED (SELECT platform_now() - interval '6 days' AS at)
SELECT coalesce(made.id, told.id) AS transaction_id, coalesce(told.events, 0) AS events
FROM (
  SELECT id, CASE type WHEN 'EARNED' THEN 'point.earned' WHEN 'SPENT' THEN 'point.spent' ELSE 'point.canceled' END
    AS topic
  FROM journal
  WHERE created_at > (SELECT at FROM since)
) AS made
FULL JOIN (
  SELECT topic, (convert_from(payload, 'UTF8')::jsonb ->> 'id')::bigint AS id, count(*) AS events
  FROM outbox
  WHERE topic IN ('point.earned', 'point.spent', 'point.canceled') AND created_at > (SELECT at FROM since)
  GROUP BY 1, 2
) AS told ON told.id = made.id AND told.topic = made.topic
WHERE told.events IS DISTINCT FROM 1 OR made.id IS NULL
LIMIT 100
