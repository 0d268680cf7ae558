#!lua
-- Read a slice of a channel's log; a channel without a log gets one.
-- KEYS  meta, log
-- ARGV  run, candidate epoch, log ttl ms, after, limit, bytes of data at most (but for the first)
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
local entries, size = {}, 0
local after, limit, bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
-- A few at a time: how long they are is known only when they are read.
while after < seq and #entries < limit and size < bytes do
  local from = string.format('%.0f', after + 1)
  local page = redis.call('XRANGE', log, from, '+', 'COUNT', math.min(limit - #entries, 32))
  if not page[1] then
    break
  end
  for _, entry in ipairs(page) do
    size = size + #entry[2][2]
    if size > bytes and entries[1] then
      break
    end
    entries[#entries + 1] = entry
    after = tonumber(string.match(entry[1], '^(%d+)-'))
  end
end
return {held[1], first, seq, entries}
