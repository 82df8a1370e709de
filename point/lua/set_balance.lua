-- Sets a user's cached balance, forwards only. Safe to run twice.
--
-- KEYS[1]  point:balance:{userId}, a string 'seq:balance', or 'seq:' for a tombstone
-- ARGV[1]  seq      number of the journal row the balance stands after
-- ARGV[2]  balance  its value, or '' for a tombstone: "a write is under way, read the database"
-- ARGV[3]  ttl      life of the entry in milliseconds
--
-- Returns 1 when written; 0 when a higher seq is there, or the same one with a balance. Odd content is replaced.
if redis.call('TYPE', KEYS[1]).ok == 'string' then
  local seq, balance = string.match(redis.call('GET', KEYS[1]), '^(%d+):(%d*)$')
  if seq then
    local there, coming = tonumber(seq), tonumber(ARGV[1])
    if there > coming or (there == coming and balance ~= '') then
      return 0
    end
  end
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2], 'PX', ARGV[3])
return 1
