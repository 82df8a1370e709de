-- Takes one request from a bucket (GCRA). The clock is Redis' own, so that all gateways count alike.
-- KEYS[1]  the bucket: the theoretical arrival time in microseconds, as decimal text; it lives as long as it counts
-- ARGV[1]  limit, requests in a window; also the burst
-- ARGV[2]  window, ms
-- Returns {allowed 1|0, requests left, ms until the next one fits (0 when allowed), ms until the bucket is full again}
-- A refused request takes nothing. An odd or impossible value counts as an empty bucket, one from too far ahead as a
-- full window at most.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local window = tonumber(ARGV[2]) * 1000
local step = window / tonumber(ARGV[1])
local arrival = math.min(now + window, math.max(now, tonumber(redis.call('GET', KEYS[1]) or now) or now))
local after = arrival + step
if after - now > window + 1 then
  return {0, 0, math.ceil((after - now - window) / 1000), math.ceil((arrival - now) / 1000)}
end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
return {1, math.floor((window - (after - now)) / step + 0.001), 0, math.ceil((after - now) / 1000)}
