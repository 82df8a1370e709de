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
