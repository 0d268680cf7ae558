#!lua
-- Keep a lease for longer if it is still this holder's. One that has lapsed, and that nobody has
-- taken or given back since, is held again.
-- KEYS  lease, fence
-- ARGV  token, ttl ms
local token = redis.call('HGET', KEYS[1], 'token')
if not token and redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('HSET', KEYS[1], 'nonce', '', 'token', ARGV[1])
elseif token ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
