-- KEYS: records, lists, corrections, days, totals of the record's day
-- ARGV: most records, seconds for which to keep, seconds for which to remember corrections, id, place, team,
--       "1" for a correction, time of the end, day, record as JSON; then name and amount of each sum
-- Returns 1 if the record is kept as it was given, 0 if another one of its id had come before.

-- More than one record can push out, so that what is too much or too old does not pile up.
local PURGED = 4

local records, lists, corrections, days, totals = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local most, keep, remembered = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local id, place, team, corrects, ended, day, body = unpack(ARGV, 4, 10)
local time = redis.call('TIME')
local now = tonumber(time[1])

-- Lengths keep names with odd characters in them apart.
local function list_of(name)
  return '@' .. #name .. ':' .. name .. '|'
end

local known = redis.call('HGET', records, id)
if known then
  return known == body and 1 or 0
end
if corrects == '1' then
  if redis.call('ZSCORE', corrections, id) then
    return 0
  end
  redis.call('ZADD', corrections, ended, id)
  redis.call('ZREMRANGEBYSCORE', corrections, '-inf', now - remembered)
end
redis.call('HSET', records, id, body)
redis.call('ZADD', lists, 0, '*|' .. place, 0, list_of(team) .. place)
for number = 11, #ARGV, 2 do
  redis.call('HINCRBY', totals, ARGV[number], ARGV[number + 1])
end
redis.call('EXPIREAT', totals, tonumber(day) + 86400 + keep)
redis.call('ZADD', days, day, day)
redis.call('ZREMRANGEBYSCORE', days, '-inf', now - keep - 2 * 86400)

local excess = redis.call('HLEN', records) - most
for number, member in ipairs(redis.call('ZRANGEBYLEX', lists, '[*|', '(*}', 'LIMIT', 0, PURGED)) do
  -- A place is 16 digits and the id.
  local oldest = member:sub(19)
  local record = cjson.decode(redis.call('HGET', records, oldest))
  if number > excess and record.ended > now - keep then
    break
  end
  redis.call('HDEL', records, oldest)
  redis.call('ZREM', lists, member, list_of(record.team) .. member:sub(3))
end
return 1
