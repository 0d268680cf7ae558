#!lua
-- Read a slice of a channel's log; a channel without a log gets one.
-- KEYS  meta, log
-- ARGV  run, candidate epoch, log ttl ms, after, limit
-- Answers {epoch, first, last, entries}, entries as XRANGE has them.
local meta, log = KEYS[1], KEYS[2]
local held = redis.call('HMGET', meta, 'epoch', 'seq', 'run')
local seq = tonumber(held[2] or '0')
if not (held[1] and held[3] == ARGV[1] and (seq == 0 or redis.call('EXISTS', log) == 1)) then
  redis.call('DEL', meta, log)
  redis.call('HSET', meta, 'epoch', ARGV[2], 'run', ARGV[1])
  redis.call('PEXPIRE', meta, ARGV[3])
  return {ARGV[2], 1, 0, {}}
end
local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)
local first = seq + 1
if oldest[1] then
  first = tonumber(string.match(oldest[1][1], '^(%d+)-'))
end
local entries = {}
if tonumber(ARGV[4]) < seq and tonumber(ARGV[5]) > 0 then
  local from = string.format('%.0f', tonumber(ARGV[4]) + 1)
  entries = redis.call('XRANGE', log, from, '+', 'COUNT', ARGV[5])
end
return {held[1], first, seq, entries}
