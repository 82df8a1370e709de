-- Sets users' cached balances, forwards only. Safe to run twice.
--
-- KEYS[i]        point:balance:{userId}, a string 'seq:balance', or 'seq:' for a tombstone
-- ARGV[1]        ttl      life of the entries in milliseconds
-- ARGV[2 * i]    seq      number of the journal row the balance of KEYS[i] stands after
-- ARGV[2 * i+1]  balance  its value, or '' for a tombstone: "a write is under way, read the database"
--
-- Returns how many were written: not those where a higher seq is there, or the same one with a balance. Odd content is
-- replaced.
local written = 0
for i, key in ipairs(KEYS) do
  local seq, balance = ARGV[2 * i], ARGV[2 * i + 1]
  local newer = true
  if redis.call('TYPE', key).ok == 'string' then
    local there, value = string.match(redis.call('GET', key), '^(%d+):(%d*)$')
    if there then
      newer = tonumber(there) < tonumber(seq) or (tonumber(there) == tonumber(seq) and value == '')
    end
  end
  if newer then
    redis.call('SET', key, seq .. ':' .. balance, 'PX', ARGV[1])
    written = written + 1
  end
end
return written
