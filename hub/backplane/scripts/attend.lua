#!lua
-- Be present in a channel until some time of the server's clock, or be so no more.
-- KEYS  present
-- ARGV  ttl ms, how many members stay, the members that stay …, the members that leave …
-- Answers who was present before that.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local before = redis.call('ZRANGE', KEYS[1], 0, -1)
local ttl, stay = tonumber(ARGV[1]), tonumber(ARGV[2])
for at = 3, #ARGV do
  if at - 2 <= stay then
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ttl), ARGV[at])
  else
    redis.call('ZREM', KEYS[1], ARGV[at])
  end
end
-- The set lives as long as the member that was promised the longest time.
if stay > 0 and redis.call('PTTL', KEYS[1]) < ttl then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return before
