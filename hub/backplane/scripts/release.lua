#!lua
-- Give a lease back if it is still this holder's.
-- KEYS  lease, fence
-- ARGV  token
if redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('INCR', KEYS[2]) -- nobody's now, so that it cannot be renewed any more
end
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
