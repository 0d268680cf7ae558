#!lua
-- Keep a lease for longer if it is still this holder's.
-- KEYS  lease
-- ARGV  token, ttl ms
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
