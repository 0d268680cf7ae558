#!lua
-- Append an entry to a channel's log and publish it, or do nothing at all.
-- KEYS  meta, log, lease (if fenced), idempotency key (if keyed)
-- ARGV  run, number, tag, producer, candidate epoch, lease token or '', '1' if keyed,
--       entries to keep, log ttl ms, key ttl ms, publish command, publish channel, data
-- Answers {epoch, seq, duplicate}, 'lost' (the lease) or 'superseded' (see below).
local meta, log = KEYS[1], KEYS[2]
local run, number, tag, producer = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local epoch, fence, keyed = ARGV[5], ARGV[6], ARGV[7] == '1'
local key = KEYS[#KEYS]

if fence ~= '' and redis.call('HGET', KEYS[3], 'token') ~= fence then
  return 'lost'
end

local held = redis.call('HMGET', meta, 'epoch', 'seq', 'run', producer)
local seq = tonumber(held[2] or '0')
local late = false
if held[1] and held[3] == run and (seq == 0 or redis.call('EXISTS', log) == 1) then
  epoch = held[1]
  late = held[4] and tonumber(number) <= tonumber(held[4])
else
  -- Half or all of it is lost, or the server restarted and may have forgotten its newest part.
  redis.call('DEL', meta, log)
  redis.call('HSET', meta, 'epoch', epoch, 'run', run)
  seq = 0
end

if late then
  -- This producer's command was sent again after a broken connection. Find what it did.
  local before = '+'
  repeat
    local page = redis.call('XREVRANGE', log, before, '-', 'COUNT', 200)
    for _, entry in ipairs(page) do
      local at, its_tag = string.match(entry[1], '^(%d+)-(%d+)$')
      if its_tag == tag then
        return {epoch, tonumber(at), 0}
      end
      before = '(' .. entry[1]
    end
  until #page == 0
end

if keyed then
  local known = redis.call('GET', key)
  local its_epoch, at = string.match(known or '', '^(%S+) (%d+)$')
  if its_epoch == epoch then
    return {epoch, tonumber(at), 1}
  end
end

if late then
  -- It arrives after a later append of its producer, who was told that its outcome is unknown.
  return 'superseded'
end

seq = seq + 1
local at = string.format('%.0f', seq)
redis.call('XADD', log, 'MAXLEN', '~', ARGV[8], at .. '-' .. tag, 'd', ARGV[13])
if not held[4] and redis.call('HLEN', meta) > 64 then
  -- Producers of long ago; without their numbers only their late retries are not recognised.
  redis.call('DEL', meta)
  redis.call('HSET', meta, 'epoch', epoch, 'run', run)
end
redis.call('HSET', meta, 'seq', at, producer, number)
redis.call('PEXPIRE', meta, ARGV[9])
redis.call('PEXPIRE', log, ARGV[9])
if keyed then
  redis.call('SET', key, epoch .. ' ' .. at, 'PX', ARGV[10])
end
redis.call(ARGV[11], ARGV[12], epoch .. ' ' .. at .. ' ' .. ARGV[13])
return {epoch, seq, 0}
