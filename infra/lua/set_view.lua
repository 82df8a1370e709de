-- Replaces a view, forwards only. Safe to run twice.
--
-- KEYS[1]  the view, a hash
-- ARGV[1]  version, a decimal integer; ARGV[2]  its life in milliseconds; ARGV[3..]  field, value, field, value ..
--
-- Returns 1 when written; 0 when a higher version is there. What is odd there (another type, no version) is replaced.
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  local there = redis.call('HGET', KEYS[1], 'version')
  if there and #there <= 16 and string.match(there, '^%d+$') and tonumber(there) > tonumber(ARGV[1]) then
    return 0
  end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'version', ARGV[1], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
