#!lua
-- Put an item at the end of a queue unless it waits there.
-- KEYS  queue (a sorted set by time of arrival)
-- ARGV  item
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if newest[2] then
  now = math.max(now, tonumber(newest[2]) + 1) -- a clock that was set back
end
return redis.call('ZADD', KEYS[1], 'NX', string.format('%.0f', now), ARGV[1])
