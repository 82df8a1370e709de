-- read_known --
-- summary: SELECT commands
-- One row at least, for the clock; a statement of its own after the locks, so that neither is older than they are.
SELECT clock.at, command_id, fingerprint, answer, refusal
FROM (SELECT platform_now() AS at) AS clock
LEFT JOIN commands ON command_id = ANY($1::uuid[])

-- save_commands --
-- summary: INSERT commands
-- In the order of the ids: two batches that carry the same commands wait for each other instead of deadlocking.
INSERT INTO commands (command_id, verb, fingerprint, answer, refusal, created_at)
SELECT given.command_id, given.verb, given.fingerprint, given.answer, given.refusal, clock.at
FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[])
  AS given (command_id, verb, fingerprint, answer, refusal)
CROSS JOIN (SELECT platform_now() AS at) AS clock
ORDER BY given.command_id

-- add_outbox --
-- summary: INSERT outbox
-- In the given order: ids rise in it, and within a key they rise in commit order, because the caller holds its lock.
INSERT INTO outbox (event_id, topic, key, payload, headers, created_at)
SELECT given.event_id, given.topic, given.key, given.payload, given.headers, clock.at
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::jsonb[])
  WITH ORDINALITY AS given (event_id, topic, key, payload, headers, ord)
CROSS JOIN (SELECT coalesce($6::timestamptz, platform_now()) AS at) AS clock
ORDER BY given.ord

-- lead_outbox --
-- summary: SELECT advisory_lock
-- Held by the session: one relay per database.
SELECT pg_try_advisory_lock($1)

-- unsent_exists --
-- summary: SELECT outbox
-- Asked by the relay between its rounds: the ping of its lock, and whether there is work.
SELECT EXISTS (SELECT 1 FROM outbox WHERE sent_at IS NULL)

-- read_unsent --
-- summary: SELECT outbox
-- By the flag, never by "id > last": ids are taken before the commit, so a smaller one may appear later.
SELECT id, event_id, topic, key, payload, headers, created_at, clock.at
FROM (SELECT platform_now() AS at) AS clock
CROSS JOIN LATERAL (
  SELECT id, event_id, topic, key, payload, headers, created_at
  FROM outbox WHERE sent_at IS NULL ORDER BY id LIMIT $1
) AS unsent
ORDER BY id

-- mark_sent --
-- summary: UPDATE outbox
WITH clock AS MATERIALIZED (SELECT platform_now() AS at),
marked AS (UPDATE outbox SET sent_at = clock.at FROM clock WHERE id = ANY($1::bigint[]))
SELECT at FROM clock

-- measure_outbox --
-- summary: SELECT outbox
SELECT count(*) AS pending, coalesce(extract(epoch FROM platform_now() - min(created_at)), 0)::float8 AS oldest_seconds
FROM outbox WHERE sent_at IS NULL

-- send_again --
-- summary: UPDATE outbox
-- In chunks by id, so that no lock is held long; the relay sends them in that order.
WITH chosen AS (
  SELECT id FROM outbox WHERE topic = $1 AND created_at >= $2 AND id > $3 ORDER BY id LIMIT $4
),
again AS (UPDATE outbox SET sent_at = NULL FROM chosen WHERE outbox.id = chosen.id RETURNING outbox.id)
SELECT count(*) AS rows, max(id) AS last_id FROM again

-- remember --
-- summary: INSERT inbox
-- What comes back is new to this consumer. In the order of the ids: two members that were given the same records
-- after a rebalance wait for each other instead of deadlocking.
INSERT INTO inbox (consumer, event_id, outcome, handled_at)
SELECT $1, given.event_id, 'done', clock.at
FROM unnest($2::uuid[]) AS given (event_id)
CROSS JOIN (SELECT platform_now() AS at) AS clock
ORDER BY given.event_id
ON CONFLICT ON CONSTRAINT inbox_pkey DO NOTHING
RETURNING event_id, handled_at

-- revive --
-- summary: UPDATE inbox
-- A replay acts only on what was given up.
UPDATE inbox SET outcome = 'done', handled_at = platform_now()
WHERE consumer = $1 AND event_id = ANY($2::uuid[]) AND outcome = 'dead'
RETURNING event_id, handled_at

-- bury --
-- summary: INSERT inbox
-- Nothing comes back where the event was handled before: then there is nothing to give up.
INSERT INTO inbox (consumer, event_id, outcome, handled_at)
VALUES ($1, $2, 'dead', platform_now())
ON CONFLICT ON CONSTRAINT inbox_pkey
DO UPDATE SET handled_at = excluded.handled_at WHERE inbox.outcome = 'dead'
RETURNING handled_at

-- save_dead_letter --
-- summary: INSERT dead_letters
INSERT INTO dead_letters AS letter
  (consumer, event_id, topic, partition, record_offset, key, value, headers, reason, error, tries, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT ON CONSTRAINT dead_letters_pkey
DO UPDATE SET (topic, partition, record_offset, key, value, headers, reason, error, tries, created_at, replayed_at)
  = (excluded.topic, excluded.partition, excluded.record_offset, excluded.key, excluded.value, excluded.headers,
     excluded.reason, excluded.error, excluded.tries, excluded.created_at, NULL)

-- list_dead_letters --
-- summary: SELECT dead_letters
SELECT event_id, topic, partition, record_offset, key, value, headers, reason, error, tries, created_at, replayed_at
FROM dead_letters WHERE topic = $1 AND consumer = $2 ORDER BY created_at, event_id LIMIT $3

-- take_dead_letters --
-- summary: UPDATE dead_letters
-- Locked in one order, and skipped where another replay is at work: each is sent once.
WITH chosen AS (
  SELECT event_id FROM dead_letters WHERE topic = $1 AND consumer = $2 AND replayed_at IS NULL
    AND coalesce(octet_length(value), 0) + octet_length(headers::text) <= $4
  ORDER BY created_at, event_id LIMIT $3 FOR UPDATE SKIP LOCKED
),
taken AS (
  UPDATE dead_letters SET replayed_at = platform_now()
  FROM chosen WHERE consumer = $2 AND dead_letters.event_id = chosen.event_id
  RETURNING dead_letters.event_id, topic, key, value, headers, created_at
)
SELECT event_id, topic, key, value, headers FROM taken ORDER BY created_at, event_id

-- purge_commands --
-- summary: DELETE commands
-- The clock stands in a subquery, so that it is read once and the index is used; the keys in an array, so that theirs is.
DELETE FROM commands WHERE command_id = ANY(ARRAY(
  SELECT command_id FROM commands
  WHERE created_at < (SELECT platform_now() - $1::interval) ORDER BY created_at LIMIT $2
))

-- purge_outbox --
-- summary: DELETE outbox
-- Only the oldest rows are looked at, so that a run that finds nothing is as cheap as one that does.
DELETE FROM outbox WHERE id = ANY(ARRAY(
  SELECT oldest.id FROM (SELECT id, sent_at FROM outbox ORDER BY id LIMIT $2) AS oldest
  WHERE oldest.sent_at < (SELECT platform_now() - $1::interval)
))

-- purge_inbox --
-- summary: DELETE inbox
-- What was given up stays: a replay of its dead letter asks for the row. (A row that is revived meanwhile has moved to
-- another place, and stays too.)
DELETE FROM inbox WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM inbox
  WHERE outcome = 'done' AND handled_at < (SELECT platform_now() - $1::interval) ORDER BY handled_at LIMIT $2
))

-- purge_dead_letters --
-- summary: DELETE dead_letters
DELETE FROM dead_letters WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM dead_letters WHERE replayed_at < (SELECT platform_now() - $1::interval) LIMIT $2
))
