-- Takes one request from each of some buckets (GCRA). The clock is Redis' own, so that all gateways count alike.
-- KEYS[i]           a bucket: its theoretical arrival time in microseconds, as decimal text; it lives as long as it counts
-- ARGV[2i-1, 2i]    its limit: requests in a window, which is also the burst; the window in ms
-- Returns, four numbers for each bucket in their order: allowed 1|0; requests left; ms until the next one fits (0 when
-- allowed); ms until the bucket is full again.
-- A refused request takes nothing. A bucket may be named twice. An odd value counts as an untouched bucket, one from too
-- far ahead as a spent one, so that nothing found here locks anybody out for longer than a window.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local answer = {}
for i, key in ipairs(KEYS) do
  local window = tonumber(ARGV[2 * i]) * 1000
  local step = window / tonumber(ARGV[2 * i - 1])
  local stored = redis.pcall('GET', key)
  local arrival = type(stored) == 'string' and tonumber(stored) or now
  arrival = math.min(now + window, math.max(now, arrival))
  local after = arrival + step
  local at = #answer
  if after - now > window + 1 then
    answer[at + 1], answer[at + 2] = 0, 0
    answer[at + 3] = math.ceil((after - now - window) / 1000)
    answer[at + 4] = math.ceil((arrival - now) / 1000)
  else
    redis.call('SET', key, string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
    answer[at + 1], answer[at + 3] = 1, 0
    answer[at + 2] = math.floor((window - (after - now)) / step + 0.001)
    answer[at + 4] = math.ceil((after - now) / 1000)
  end
end
return answer
