#!lua
-- Give a lease back if it is still this holder's.
-- KEYS  lease
-- ARGV  token
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
