#!lua
-- Take tokens from a bucket that refills by the server's clock.
-- KEYS  bucket
-- ARGV  cost (negative: given back), rate a second, burst
-- Answers 0 if taken, else the milliseconds until there are enough.
local cost, rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = burst
if held[1] then
  local passed = math.max(0, now - tonumber(held[2])) / 1000000
  tokens = math.min(burst, tonumber(held[1]) + passed * rate)
end
cost = math.min(cost, burst)
local wait = 0
if tokens + 1e-9 >= cost then
  tokens = math.min(burst, tokens - cost)
else
  wait = math.ceil((cost - tokens) / rate * 1000)
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens),
  'at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(burst / rate * 1000) + 1000))
return wait
