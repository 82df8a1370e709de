-- Gives a lock back, if it is still its holder's. Safe to run twice.
--
-- KEYS[1]  the lock; ARGV[1]  the token its holder set
--
-- Returns 1 when deleted; 0 when it ran out, or another holds it.
if redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
