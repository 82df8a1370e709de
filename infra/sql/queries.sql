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
