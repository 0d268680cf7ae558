#!lua
-- Take a lease that nobody holds.
-- KEYS  lease, fence
-- ARGV  nonce of this attempt, ttl ms, fence ttl ms
-- Answers the fencing token, or nothing if it is held. The same nonce again answers the same.
local held = redis.call('HMGET', KEYS[1], 'nonce', 'token')
if held[1] then
  return held[1] == ARGV[1] and held[2]
end
-- Above the last token, and above any that was forgotten with the server's memory.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
local token = string.format('%.0f', math.max(last + 1, now))
redis.call('HSET', KEYS[1], 'nonce', ARGV[1], 'token', token)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], token, 'PX', ARGV[3])
return token
