-- ARGV 3...: how long forgotten ones are remembered, id, place, created, team, project, summary, [status]

-- More than one recording can have made expire, so that what has expired does not pile up.
local PURGED = 4

local function purge()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', ages, '-inf', exactly(oldest), 'LIMIT', 0, PURGED)) do
    drop(id, (look(id)))
  end
  local gone = exactly(now - tonumber(ARGV[3]))
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', left_ages, '-inf', gone, 'LIMIT', 0, PURGED)) do
    redis.call('HDEL', left, id)
    redis.call('ZREM', left_ages, id)
  end
end

local id = ARGV[4]
local known, fresh = look(id)
if fresh then
  return 0
end
if known then
  drop(id, known)
end
keep(id, {
  place = ARGV[5],
  created = ARGV[6],
  team = ARGV[7],
  project = ARGV[8],
  summary = ARGV[9],
  status = ARGV[10] or false,
  recorded = exactly(now),
})
redis.call('ZADD', ages, exactly(now), id)
purge()
return 1
